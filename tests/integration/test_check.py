"""`services.check`: where registry, compose files, config.py, env.py and revisions differ.

Every service of one monorepo has one fault, so that one run checks all faults.
"""

import json
import re
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.documents import blocks, page
from tests.support.monorepo import (
    ALEMBIC_INI,
    PASSWORD,
    PROJECT,
    Monorepo,
    Ran,
    copy_of_this_monorepo,
    empty_monorepo,
    free_ports,
)

# As docs/adoption.md recommends it.
CONFIG = """\
import os
from urllib.parse import quote

ENVIRONMENTS = ("development", "testing", "staging", "production")
EXTERNAL = {{"production": "PROD", "staging": "STAGING"}}


class Settings:
    @property
    def DATABASE_URL(self):
        if url := os.getenv("{variable}"):
            return url
        environment = os.getenv("HULEEDU_ENVIRONMENT", "development").lower()
        if environment not in ENVIRONMENTS:
            raise ValueError(f"HULEEDU_ENVIRONMENT is {{environment!r}}")
        if environment in EXTERNAL:
            prefix = f"HULEEDU_{{EXTERNAL[environment]}}_DB"
            self.require(f"{{prefix}}_HOST", f"{{prefix}}_PASSWORD")
            host, port = os.environ[f"{{prefix}}_HOST"], os.getenv(f"{{prefix}}_PORT", 5432)
            return self.url(os.environ[f"{{prefix}}_PASSWORD"], f"{{host}}:{{port}}")
        self.require("HULEEDU_DB_USER", "HULEEDU_DB_PASSWORD")
        suffix = "_test" if environment == "testing" else ""
        return self.url(os.environ["HULEEDU_DB_PASSWORD"], "localhost:{port}", suffix)

    def url(self, password, address, suffix=""):
        user = quote(os.getenv("HULEEDU_DB_USER") or "huleedu_user", safe="")
        password = quote(password, safe="")
        return f"postgresql+asyncpg://{{user}}:{{password}}@{{address}}/{database}{{suffix}}"

    def require(self, *names):
        if missing := [name for name in names if not os.getenv(name)]:
            raise ValueError(f"not set: {{missing}}")


settings = Settings()
"""
ENV_PY = """\
import asyncio

from alembic import context
from sqlalchemy.ext.asyncio import create_async_engine

from config import settings

url = settings.DATABASE_URL


def migrate(connection):
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()


async def main():
    async with create_async_engine(url).connect() as connection:
        await connection.run_sync(migrate)


asyncio.run(main())
"""
SYNC_ENV_PY = """\
from alembic import context
from sqlalchemy import create_engine

from config import settings

with create_engine(settings.DATABASE_URL).connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
"""
THROUGH_CONFIGPARSER = """\
context.config.set_main_option("sqlalchemy.url", settings.DATABASE_URL)
url = context.config.get_main_option("sqlalchemy.url")
"""
# Of code that does not read the variables of the tasks.
STRANGE_CONFIG = """\
import os


class Settings:
    DATABASE_URL = os.getenv("{variable}", "postgresql+asyncpg://app:app@{address}/{database}")


settings = Settings()
"""
STRANGE_LINE = 'url = os.getenv("{variable}", "postgresql+asyncpg://app:app@{address}/{database}")'
REVISION = "revision = {id!r}\ndown_revision = {parent!r}\ndef upgrade():\n    pass\n"
VARIABLE = "{name}_SERVICE_DATABASE_URL"
URL_LINE = "url = settings.DATABASE_URL\n"

STRANGE_CONFIGS = ("stranger", "contained", "strayed")
STRANGE_ADDRESSES = {
    "contained": "contained_db:5432",
    "strayed": "localhost:1",
    "wandering": "localhost:1",
}

SUFFIX = 'suffix = "_test" if environment == "testing" else ""'
# The databases in testing that entries of the registry state.
TESTING_DATABASES = {"stated": "huleedu_stated_ci", "together": "huleedu_together"}

# For each service the replacements in its config.py and in its env.py.
FAULTS: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "regular": ({}, {}),
    "recipe": ({}, {}),
    "deaf": ({'os.getenv("HULEEDU_ENVIRONMENT", "development").lower()': '"development"'}, {}),
    "dialect": ({"DIALECT_SERVICE_DATABASE_URL": "DIALECT_DSN"}, {}),
    "port": ({"localhost:": "localhost:1"}, {}),
    "base": ({"huleedu_base": "base"}, {}),
    "loner": (
        {},
        {"from config import settings": "import os", URL_LINE: 'url = os.environ["{variable}"]\n'},
    ),
    "parser": ({}, {URL_LINE: THROUGH_CONFIGPARSER}),
    "naked": ({'quote(password, safe="")': "password"}, {}),
    "stageless": ({', "staging": "STAGING"': ""}, {}),
    "testless": ({'("development", "testing", ': '("development", '}, {}),
    "careless": ({SUFFIX: 'suffix = ""'}, {}),
    "renamed": ({SUFFIX: SUFFIX.replace("_test", "_ci")}, {}),
    "stated": ({SUFFIX: SUFFIX.replace("_test", "_ci")}, {}),
    "together": ({SUFFIX: 'suffix = ""'}, {}),
    "defaultless": ({'or "huleedu_user"': 'or "postgres"'}, {}),
    "quiet": ({"if missing :=": "if not names and", "not in ENVIRONMENTS": "is None"}, {}),
    "hardwired": (
        {},
        {URL_LINE: 'url = "postgresql+asyncpg://huleedu_user:secret@localhost:1/elsewhere"\n'},
    ),
    "broken": ({}, {"import asyncio": "import asyncio\nimport not_installed_here"}),
    "inside": ({"localhost:": "inside_db:1"}, {}),
    "mumbling": ({"not set: {missing}": "something is not set"}, {}),
    "obedient": (
        {'os.getenv("HULEEDU_ENVIRONMENT", "development").lower()': 'os.environ["OBEDIENT"]'},
        {},
    ),
    "alone": (
        {},
        {"from config import settings": "import os", URL_LINE: 'url = os.environ["{variable}"]\n'},
    ),
    "stranger": ({}, {}),
    "contained": ({}, {}),
    "strayed": ({}, {}),
    "lonely": ({}, {"from config import settings": "import os", URL_LINE: STRANGE_LINE}),
    "wandering": ({}, {"from config import settings": "import os", URL_LINE: STRANGE_LINE}),
    "twin": ({}, {}),
    "other": ({}, {}),
    "synchronous": ({}, {}),
    "forked": ({}, {}),
    "dangling": ({}, {}),
    "bare": ({}, {}),
}
COMPOSE = """\
services:
{services}
  keycloak_db: {{ image: "postgres:15", environment: {{ POSTGRES_DB: keycloak }} }}
volumes: {{ {volumes} }}
"""
SERVER = """\
  {name}_db:
    image: postgres:15
    environment: {{ POSTGRES_USER: "${{HULEEDU_DB_USER}}", POSTGRES_PASSWORD: x }}
    ports: ["{port}:5432"]
    volumes: ["{name}_db_data:/var/lib/postgresql/data"]
"""

# For each service: level, whether the tasks handle it automatically, and the cause.
EXPECTED: dict[str, list[tuple[str, bool, str]]] = {
    "regular": [],
    "recipe": [],
    "deaf": [
        ("WARNING", True, "ignores HULEEDU_ENVIRONMENT: in production it resolves to localhost"),
        ("WARNING", True, "returns a URL in production without host and password"),
        ("WARNING", True, "treats an unknown HULEEDU_ENVIRONMENT as development"),
        ("WARNING", True, "uses the database of development in testing as well"),
    ],
    "dialect": [
        (
            "ERROR",
            False,
            "env.py does not read DIALECT_SERVICE_DATABASE_URL: it would connect to local",
        ),
        (
            "WARNING",
            True,
            "config.py does not read DIALECT_SERVICE_DATABASE_URL: it resolves to loc",
        ),
    ],
    "port": [("ERROR", False, r"config.py resolves to localhost:1\d+/huleedu_port in development")],
    "base": [
        ("ERROR", False, "config.py resolves to localhost:.*/base in development, the registry to"),
        (
            "ERROR",
            False,
            "config.py resolves to the database 'base' in production, the registry to",
        ),
    ],
    "loner": [
        ("WARNING", True, "env.py does not use config.py: in development it fails: KeyError"),
        ("WARNING", True, "env.py does not use config.py: in production it fails: KeyError"),
    ],
    "parser": [("WARNING", True, "env.py failed with a percent sign in the URL")],
    "naked": [("WARNING", True, "config.py does not percent-encode the password")],
    "stageless": [("INFO", True, "config.py does not support staging: there it fails: ValueError")],
    "testless": [("INFO", True, "config.py does not support testing: there it fails: ValueError")],
    "careless": [("WARNING", True, "uses the database of development in testing as well")],
    "renamed": [
        ("WARNING", True, "to localhost:.*/huleedu_renamed_ci in testing, the registry .*_test$")
    ],
    "stated": [],
    "together": [],
    "defaultless": [("WARNING", True, "does not default to the user huleedu_user and port 5432")],
    "quiet": [
        ("WARNING", True, "treats an unknown HULEEDU_ENVIRONMENT as development"),
        ("WARNING", True, "returns a URL in development without credentials, where it must fail"),
        (
            "INFO",
            True,
            "does not name the missing variables in production without host and password",
        ),
    ],
    "hardwired": [
        (
            "ERROR",
            False,
            "env.py does not read HARDWIRED_.*: it would connect to localhost:1/elsewhere",
        ),
    ],
    "broken": [("ERROR", False, "env.py failed with its URL in .*No module named 'not_installed")],
    "inside": [("WARNING", True, r"resolves to inside_db:1\d+/huleedu_inside in development")],
    "mumbling": [
        (
            "INFO",
            True,
            "does not name the missing variables in development .*HULEEDU_DB_USER and HUL",
        ),
        ("INFO", True, "does not name the missing variables in production"),
    ],
    "obedient": [("INFO", True, "config.py takes its URL only from its override variable")],
    "stranger": [("INFO", True, "from its override variable or its own default")],
    "contained": [("INFO", True, "or its own default; HULEEDU_ENVIRONMENT has no effect")],
    "strayed": [
        (
            "ERROR",
            False,
            "config.py resolves to localhost:1/huleedu_strayed in development, the reg",
        ),
        ("INFO", True, "config.py takes its URL from its override variable or its own"),
    ],
    "lonely": [("INFO", True, "env.py takes its URL from its override variable or its own")],
    "wandering": [
        ("WARNING", True, "env.py builds its own URL: in development it resolves to loc")
    ],
    "alone": [("INFO", True, "env.py connects only if its variable is set, and no config.py")],
    "twin": [("ERROR", False, "twin and other have the same database in development")],
    "other": [
        ("ERROR", False, "config.py resolves to localhost:.*/huleedu_twin in development"),
        ("ERROR", False, "config.py resolves to the database 'huleedu_twin' in production"),
        ("ERROR", False, "twin and other have the same database in development"),
    ],
    "synchronous": [
        ("ERROR", False, r"env.py is synchronous, but its URL has the driver postgresql\+asyncpg"),
    ],
    "forked": [
        ("ERROR", False, "revision b1 is one of several heads"),
        ("ERROR", False, "revision b2 is one of several heads"),
    ],
    "dangling": [("ERROR", False, "has the down_revision nowhere, which no file defines")],
    "bare": [("ERROR", False, "its file .*alembic.ini does not exist")],
}


@pytest.fixture(scope="module")
def faulty() -> Iterator[Monorepo]:
    with empty_monorepo() as monorepo:
        ports = dict(zip(FAULTS, free_ports(len(FAULTS)), strict=True))
        for name, (in_config, in_env) in FAULTS.items():
            write_service(monorepo, name, ports, in_config, in_env)
        entries = {name: {"name": name, "port": port} for name, port in ports.items()}
        for name, database in TESTING_DATABASES.items():
            entries[name]["testing_database"] = database
        monorepo.register(*entries.values())
        servers = "".join(SERVER.format(name=name, port=ports[name]) for name in FAULTS)
        volumes = ", ".join(f"{name}_db_data: " for name in FAULTS)
        monorepo.write("compose.yaml", COMPOSE.format(services=servers, volumes=volumes))
        monorepo.write("database/seed-scripts/seed_unlisted.sql", "SELECT 1;")
        write_service(monorepo, "forgotten", {"forgotten": 1}, {}, {})
        write_service(monorepo, "wordless", {"wordless": 1}, {}, {})
        shutil.rmtree(monorepo.path("services/wordless_service/alembic"))
        monorepo.write("services/library/helpers.py", "")
        yield monorepo


def write_service(
    monorepo: Monorepo,
    name: str,
    ports: dict[str, int],
    in_config: dict[str, str],
    in_env: dict[str, str],
) -> None:
    directory = f"services/{name}_service"
    variable = VARIABLE.format(name=name.upper())
    # A service that was copied from another one.
    like = "twin" if name == "other" else name
    facts = {"variable": variable, "port": ports[like], "database": f"huleedu_{like}"}
    config = CONFIG.format(**facts)
    if name == "recipe":
        config = recipe(variable, ports[name])
    address = STRANGE_ADDRESSES.get(name, f"localhost:{ports[name]}")
    facts["address"] = address
    if name in STRANGE_CONFIGS:
        config = STRANGE_CONFIG.format(**facts)
    for old, new in in_config.items():
        assert old in config
        config = config.replace(old, new)
    env = SYNC_ENV_PY if name == "synchronous" else ENV_PY
    for old, new in in_env.items():
        assert old in env
        for field, value in facts.items():
            new = new.replace(f"{{{field}}}", str(value))
        env = env.replace(old, new)
    monorepo.write(f"{directory}/config.py", config)
    monorepo.write(f"{directory}/alembic/env.py", env)
    if name in ("alone", "lonely", "wandering"):
        monorepo.path(f"{directory}/config.py").unlink()
    if name != "bare":
        monorepo.write(f"{directory}/alembic.ini", ALEMBIC_INI)
    histories: dict[str, dict[str, str | None]] = {
        "forked": {"a1": None, "b1": "a1", "b2": "a1"},
        "dangling": {"a1": "nowhere"},
    }
    for revision, parent in histories.get(name, {"a1": None}).items():
        text = REVISION.format(id=revision, parent=parent)
        monorepo.write(f"{directory}/alembic/versions/{revision}.py", text)


def recipe(variable: str, port: int) -> str:
    """Return the config.py of docs/adoption.md, with the three constants of a service."""
    (text,) = (block for block in blocks(page("adoption.md"), "python") if "OVERRIDE =" in block)
    constants = {"OVERRIDE": variable, "DATABASE": "huleedu_recipe", "PORT": str(port)}
    for name, value in constants.items():
        text, count = re.subn(rf"^{name} = .*$", f'{name} = "{value}"', text, flags=re.MULTILINE)
        assert count == 1
    return text


@pytest.fixture(scope="module")
def checked(faulty: Monorepo) -> Ran:
    return faulty.invoke("services.check", "--json")


@pytest.fixture(scope="module")
def outcomes(checked: Ran) -> dict[str, Any]:
    return {outcome["service"]: outcome for outcome in checked.json["services"]}


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_is_found_and_nothing_else(outcomes: dict[str, Any], name: str) -> None:
    problems = outcomes[name]["problems"]
    found = [(problem["level"], problem["handled"], problem["cause"]) for problem in problems]
    for level, handled, cause in EXPECTED[name]:
        matching = [item for item in found if item[:2] == (level, handled)]
        assert any(re.search(cause, text) for *_, text in matching), found
    assert len(found) == len(EXPECTED[name]), found
    assert all(problem["remedy"] for problem in problems)
    failed = any(level == "ERROR" for level, *_ in EXPECTED[name])
    assert outcomes[name]["status"] == ("FAILED" if failed else "OK")


def test_the_variable_and_driver_that_env_py_uses_are_suggested(outcomes: dict[str, Any]) -> None:
    remedies = {
        name: [
            problem["remedy"]
            for problem in outcomes[name]["problems"]
            if problem["level"] == "ERROR"
        ]
        for name in ("dialect", "synchronous", "hardwired")
    }
    assert '"url_variable": "DIALECT_DSN"' in remedies["dialect"][0]
    assert '"url_scheme": "postgresql+psycopg"' in remedies["synchronous"][0]
    assert "with that, env.py uses its URL" not in remedies["hardwired"][0]


def test_the_traceback_of_env_py_has_only_its_own_lines(outcomes: dict[str, Any]) -> None:
    output = outcomes["broken"]["output"]
    assert 'alembic/env.py", line 2' in output
    assert "site-packages" not in output


def test_findings_without_a_service_are_reported_separately(checked: Ran) -> None:
    general = {problem["cause"]: problem["level"] for problem in checked.json["general"]}
    assert general == {
        "the seed database/seed-scripts/seed_unlisted.sql is not listed by any service": "ERROR",
        "services/forgotten_service has migrations and is not in the registry": "WARNING",
        "services/wordless_service names a database and has no migrations": "INFO",
        "the compose service 'keycloak_db' is a PostgreSQL server that no service uses": "INFO",
    }
    assert checked.code == checked.json["exit_code"] == 1


def test_no_server_is_connected_to_and_no_password_is_shown(faulty: Monorepo, checked: Ran) -> None:
    assert not faulty.state.exists()
    assert PASSWORD not in checked.out + checked.err


def test_services_that_agree_end_with_0_and_a_table(faulty: Monorepo) -> None:
    ran = faulty.invoke("services.check", "--service", "regular", "--service", "parser")
    assert ran.code == 0, ran.err
    regular, *_ = (line.split() for line in ran.out.splitlines() if line.startswith("regular"))
    port = faulty.port("regular")
    assert regular[:5] == ["regular", "OK", "follows", f"localhost:{port}/huleedu_regular", "a1"]
    assert "Handled automatically." in ran.out
    assert "services.check: 2 OK" in ran.err


def test_the_code_of_a_service_is_run_again_only_if_an_input_changed() -> None:
    with empty_monorepo() as monorepo:
        names = ("regular", "mumbling", "hardwired")
        ports = dict(zip(names, free_ports(len(names)), strict=True))
        for name in names:
            write_service(monorepo, name, ports, *FAULTS[name])
        monorepo.register(*({"name": name, "port": port} for name, port in ports.items()))
        monorepo.state.mkdir()
        first = monorepo.invoke("services.check", "--json")
        assert run_again(first) == {"regular", "mumbling", "hardwired"}
        assert {level for level, _ in problems_of(first)["hardwired"]} == {"ERROR"}
        assert PASSWORD not in "".join(
            path.read_text() for path in monorepo.state.rglob("*.json") if path.is_file()
        )

        config = monorepo.path("services/regular_service/config.py")
        config.write_text(config.read_text().replace("localhost:", "localhost:1"))
        edited = monorepo.invoke("services.check", "--json")
        # A service whose env.py does not use its URL is always run.
        assert run_again(edited) == {"regular", "hardwired"}
        assert [level for level, _ in problems_of(edited)["regular"]] == ["ERROR"]
        for name in ("mumbling", "hardwired"):
            assert problems_of(edited)[name] == problems_of(first)[name]

        mumbling = ("services.check", "--json", "--service", "mumbling")
        assert run_again(monorepo.invoke(*mumbling, "--fresh")) == {"mumbling"}
        env_py = monorepo.path("services/mumbling_service/alembic/env.py")
        env_py.write_text("import os\nos.getenv('A_FLAG') and 1 / 0\n" + env_py.read_text())
        assert run_again(monorepo.invoke(*mumbling)) == {"mumbling"}
        assert run_again(monorepo.invoke(*mumbling)) == set()
        flagged = monorepo.invoke(*mumbling, env={"A_FLAG": "1"})
        assert "ZeroDivisionError" in problems_of(flagged)["mumbling"][0][1]


def run_again(ran: Ran) -> set[str]:
    """Return the services whose code was run, according to the notes of a report."""
    notes = [note for note in ran.json["notes"] if "was not run again" in note]
    skipped = {name for note in notes for name in note.split(": ")[1].split(".")[0].split(", ")}
    return {outcome["service"] for outcome in ran.json["services"]} - skipped


def problems_of(ran: Ran) -> dict[str, list[tuple[str, str]]]:
    """Return the level and the cause of each problem, by service."""
    return {
        outcome["service"]: [(p["level"], p["cause"]) for p in outcome["problems"]]
        for outcome in ran.json["services"]
    }


def test_code_that_reads_the_settings_with_another_prefix_agrees() -> None:
    with empty_monorepo("acme") as acme:
        ports = dict(zip(["regular"], free_ports(1), strict=True))
        renamed = {"HULEEDU_": "ACME_", "huleedu_": "acme_"}
        write_service(acme, "regular", ports, renamed, {})
        entry = {"name": "regular", "port": ports["regular"]}
        acme.write("services.json", json.dumps({"prefix": "ACME", "services": [entry]}))
        acme.environment["ACME_PROVIDER"] = "embedded"
        ran = acme.invoke("services.check", "--json")
    assert (ran.code, ran.json["services"][0]["problems"]) == (0, []), ran.err


def test_this_repository_agrees_with_itself() -> None:
    with copy_of_this_monorepo() as huleedu:
        for file in ("services.json", "docker-compose.infrastructure.yml"):
            shutil.copy(PROJECT / file, huleedu.path(file))
        ran = huleedu.invoke("services.check", "--json")
    problems = [*ran.json["general"], *(p for s in ran.json["services"] for p in s["problems"])]
    assert (ran.code, problems) == (0, [])
    assert len(ran.json["services"]) == 8
