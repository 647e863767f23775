"""What the fixtures of the plugin give to a test."""

import re

import pytest

from tests.support.db_runs import without_initdb
from tests.support.histories import root_and_two
from tests.support.monorepo import Monorepo
from tests.support.pytest_runs import PytestRun, passes, run_pytest, write_tests

COUNT = """
import asyncio


def count(database, table="note"):
    async def ask():
        async with database.connect() as connection:
            return await connection.fetchval(f"SELECT count(*) FROM {table}")

    return asyncio.run(ask())


def add(database):
    async def insert():
        async with database.connect() as connection:
            await connection.execute("INSERT INTO note SELECT count(*), 'text' FROM note")

    asyncio.run(insert())
"""
# By what they prove. All run in one process.
TESTS = {
    "each test has an empty database at head": """
import pytest
from helpers import add, count

names = set()

@pytest.mark.parametrize("number", range(5))
def test_one(alpha, number):
    assert count(alpha) == 0
    assert count(alpha, "alembic_version") == 1
    add(alpha)
    names.add(alpha.name)
    assert len(names) == number + 1
""",
    "the variable of the service has the url during the test only": """
import os
import sys

sys.path.insert(0, "services/alpha_service")
from config import database_url

def test_code_under_test_uses_the_database(alpha):
    assert database_url() == alpha.url
    assert alpha.name in alpha.url
    assert os.environ["ALPHA_SERVICE_DATABASE_URL"] == alpha.url
    assert os.environ["HULEEDU_ENVIRONMENT"] == "testing"

def test_later():
    assert not {"ALPHA_SERVICE_DATABASE_URL", "HULEEDU_ENVIRONMENT"} & os.environ.keys()
""",
    "a database of a wider scope is shared": """
from helpers import add, count

class TestOne:
    def test_first(self, by_class, by_module):
        add(by_class)
        add(by_module)

    def test_second(self, by_class, by_module):
        assert (count(by_class), count(by_module)) == (1, 1)

def test_outside(by_class, by_module):
    assert (count(by_class), count(by_module)) == (0, 1)
""",
    "seeds are applied on request": """
from helpers import count

def test_both(alpha, seeded):
    assert (count(alpha), count(seeded)) == (0, 2)
""",
    "a test uses several services": """
import os
from helpers import add, count

def test_two(huleedu_databases):
    alpha, beta = huleedu_databases["alpha"], huleedu_databases["beta"]
    add(alpha)
    assert (count(alpha), count(beta)) == (1, 0)
    assert huleedu_databases["alpha"] is alpha
    assert os.environ["BETA_SERVICE_DATABASE_URL"] == beta.url

def test_shorter_name(databases):
    assert count(databases["alpha"]) == 0
""",
    "a service that the test does not request has no database": """
import os

import psycopg
import pytest

def test_one(alpha, monkeypatch):
    url = os.environ["BETA_SERVICE_DATABASE_URL"].replace("+asyncpg", "")
    with pytest.raises(psycopg.OperationalError, match="not_requested_by_this_test_beta"):
        psycopg.connect(url)

def test_a_variable_that_is_set_is_kept(monkeypatch, request):
    monkeypatch.setenv("BETA_SERVICE_DATABASE_URL", "own")
    request.getfixturevalue("alpha")
    assert os.environ["BETA_SERVICE_DATABASE_URL"] == "own"

def test_both(alpha, databases):
    beta = databases["beta"]
    assert os.environ["ALPHA_SERVICE_DATABASE_URL"] == alpha.url
    assert os.environ["BETA_SERVICE_DATABASE_URL"] == beta.url
""",
    "engines of SQLAlchemy connect to the database": """
import asyncio
from sqlalchemy import text

def test_synchronous(alpha):
    with alpha.engine().begin() as connection:
        assert connection.scalar(text("SELECT current_database()")) == alpha.name

def test_asynchronous(alpha):
    engine = alpha.async_engine()

    async def ask():
        async with engine.begin() as connection:
            return await connection.scalar(text("SELECT current_database()"))

    # Each has an event loop of its own.
    assert [asyncio.run(ask()), asyncio.run(ask())] == [alpha.name, alpha.name]
""",
    "asynchronous tests use the database in their own loop": """
import pytest
import pytest_asyncio

@pytest_asyncio.fixture
async def connection(alpha):
    async with alpha.connect() as opened:
        yield opened

@pytest.mark.asyncio
async def test_one(connection):
    assert await connection.fetchval("SELECT count(*) FROM note") == 0
""",
    "connections that a test leaves open are ended": """
import psycopg

opened = []

def test_leaves_a_transaction_open(alpha):
    opened.append(psycopg.connect(alpha.dsn))
    opened[0].execute("LOCK TABLE note")

def test_next(alpha, other):
    with psycopg.connect(alpha.dsn) as connection:
        assert connection.execute("SELECT count(*) FROM note").fetchone() == (0,)
""",
}
CONFTEST = """\
from huleedu_tasks.testing import service_database

alpha = service_database("alpha")
seeded = service_database("alpha", seeded=True)
by_class = service_database("alpha", scope="class")
by_module = service_database("alpha", scope="module")
other = service_database("beta", scope="module")
"""


@pytest.fixture(scope="module")
def tested(prepared: Monorepo) -> PytestRun:
    """Run all of `TESTS`."""
    prepared.write("tests/conftest.py", CONFTEST)
    prepared.write("tests/helpers.py", COUNT)
    for name, text in TESTS.items():
        prepared.write(f"tests/{_file(name)}", text)
    return run_pytest(prepared, "-v")


def _file(name: str) -> str:
    return f"test_{name.replace(' ', '_')}.py"


@pytest.mark.parametrize("name", TESTS)
def test_all_tests_that_use_the_fixtures_pass(tested: PytestRun, name: str) -> None:
    ended = re.findall(rf"^tests/{_file(name)}::\S+ ([A-Z]+)", tested.out, re.MULTILINE)
    assert len(ended) >= TESTS[name].count("def test_")
    assert set(ended) == {"PASSED"}, tested.out


def test_asynchronous_tests_use_the_database_in_the_mode_auto(prepared: Monorepo) -> None:
    text = TESTS["asynchronous tests use the database in their own loop"]
    file = "tests/test_automatic.py"
    prepared.write("tests/conftest.py", CONFTEST)
    prepared.write(file, text.replace("@pytest.mark.asyncio\n", "").replace("_asyncio.", "."))
    ran = run_pytest(prepared, "-o", "asyncio_mode=auto", file)
    assert ran.counts == {"passed": 1}, ran.out


def test_variables_with_parts_of_the_url_have_those_of_the_database(monorepo: Monorepo) -> None:
    (alpha, *_) = monorepo.services
    parts = {"DB_HOST": "{host}", "DB_PORT": "{port}", "DB_NAME": "{database}", "LEVEL": "3"}
    monorepo.register({**alpha, "alembic_url_variable": "MIGRATION_URL", "environment": parts})
    env = monorepo.read("services/alpha_service/config.py")
    monorepo.write(
        "services/alpha_service/config.py",
        env.replace("ALPHA_SERVICE_DATABASE_URL", "MIGRATION_URL"),
    )
    passes(
        monorepo,
        """
        import os

        def test_parts(alpha):
            assert os.environ["MIGRATION_URL"] == alpha.url
            assert os.environ["DB_NAME"] == alpha.name
            assert os.environ["DB_HOST"] == "localhost"
            assert f":{os.environ['DB_PORT']}/" in alpha.url
            assert "LEVEL" not in os.environ
        """,
    )


def test_services_that_share_a_database_share_that_of_a_test() -> None:
    with root_and_two() as monorepo:
        passes(
            without_initdb(monorepo, of_tests=True),
            """
            import os

            import psycopg

            def test_one(stock, huleedu_databases):
                with psycopg.connect(stock.dsn) as connection:
                    count = "SELECT (SELECT count(*) FROM orders.item), count(*) FROM tenant"
                    assert connection.execute(count).fetchone() == (0, 0)
                assert os.environ["ORDERS_SERVICE_DATABASE_URL"] == stock.url

            def test_all(huleedu_databases):
                assert huleedu_databases["orders"] is huleedu_databases["root"]
            """,
            conftest="""
            from huleedu_tasks.testing import service_database

            stock = service_database("stock")
            """,
        )


def test_an_unknown_service_is_an_error_with_the_closest_name(prepared: Monorepo) -> None:
    write_tests(
        prepared,
        "def test_one(alpha):\n    pass\n",
        conftest="""
        from huleedu_tasks.testing import service_database

        alpha = service_database("alhpa")
        """,
    )
    ran = run_pytest(prepared, "tests/test_it.py")
    assert ran.code == 1
    assert "No service is named 'alhpa'" in ran.out
    assert "[service-unknown]" in ran.out
    assert "During handling" not in ran.out


def test_the_report_names_provider_server_and_templates(prepared: Monorepo) -> None:
    file, test = "tests/test_it.py", "def test_one(alpha):\n    pass\n"
    fresh = passes(prepared, test, file, "--huleedu-fresh")
    assert "templates: alpha rebuilt: --fresh" in fresh.out
    ran = passes(prepared, test, file)
    assert "service databases: embedded (HULEEDU_PROVIDER=embedded" in ran.out
    assert "PostgreSQL " in ran.out
    assert "service databases: 1 database; templates: alpha valid" in ran.out
