"""Every error message has a cause, a place and a next step."""

import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import psutil
import pytest

from tests.support.db_runs import without_initdb
from tests.support.monorepo import (
    ENV_PY,
    USER,
    Monorepo,
    Ran,
    empty_monorepo,
    free_ports,
    new_monorepo,
    wait_until,
)
from tests.support.observe import (
    Database,
    assert_no_password_on_screen,
    database,
    log_in,
    notes,
    processes,
)

CHANGING = ("db.up", "db.down", "db.reset", "db.migrate", "db.prepare", "db.seed")
SECRET = "the-secret-in-it"


def assert_explained(ran: Ran, code: int, *words: str) -> None:
    """Require an exit code, and a message on standard error that contains all words."""
    assert ran.code == code, ran.err
    assert ran.out == ""
    assert "What to do: " in ran.err
    assert "Traceback" not in ran.err
    assert not [word for word in words if word not in ran.err], ran.err


# Errors before the first change.


@pytest.fixture
def untouched() -> Iterator[Monorepo]:
    """Return a monorepo; require afterwards that the test has changed nothing in it."""
    with new_monorepo(("alpha", "beta")) as made:
        yield made
        assert not made.state.exists()
        assert not processes(made)


def test_without_a_registry_the_error_names_the_searched_directories(untouched: Monorepo) -> None:
    untouched.path("services.json").unlink()
    ran = untouched.invoke("db.reset")
    assert_explained(
        ran,
        2,
        f"services.json was not found in {untouched.root} or any",
        "discover",
    )


def test_a_registry_that_is_not_valid_json_is_named_with_the_line(untouched: Monorepo) -> None:
    untouched.write("services.json", '{"services": [\n  {"name": "alpha", "port": 5433},\n]}\n')
    ran = untouched.invoke("db.reset")
    assert_explained(ran, 2, f"{untouched.root}/services.json is not JSON", "line 3")


def test_a_registry_without_services_is_refused(untouched: Monorepo) -> None:
    untouched.register()
    assert_explained(untouched.invoke("db.reset"), 2, "services.json has 1 error", "line 2")


def test_all_errors_of_a_registry_are_reported_at_once_with_their_lines(
    untouched: Monorepo,
) -> None:
    untouched.write(
        "services.json",
        """\
        {"services": [
          {"name": "alpha", "port": "5433"},
          {"name": "beta", "port": 5434, "databse": "beta"},
          {"name": "gamma", "port": 5435},
          {"name": "delta", "port": 5435, "seed_after": ["gama"]}
        ]}
        """,
    )
    assert_explained(
        untouched.invoke("db.reset"),
        2,
        'line 2, services[0].port: must be an integer, not "5433"',
        "line 3, services[1]: unknown key 'databse'. Did you mean 'database'?",
        "line 5, services[3].port: 5435 belongs to 'gamma' already",
        "line 5, services[3].seed_after[0]: no service is named 'gama'. Did you mean 'gamma'?",
    )


def test_all_missing_files_of_the_registry_are_named_before_the_first_change(
    untouched: Monorepo,
) -> None:
    alpha, beta = untouched.services
    gone = {"name": "gone", "port": 1, "directory": "elsewhere"}
    untouched.register({**alpha, "seeds": ["seeds/none.sql"]}, beta, gone)
    untouched.path("services/beta_service/alembic.ini").unlink()
    missing = ("seeds/none.sql", "services/beta_service/alembic.ini", "elsewhere")
    assert_explained(
        untouched.invoke("db.reset"), 2, *(f"{untouched.root}/{path}" for path in missing)
    )
    listed = untouched.invoke("services.list")
    assert listed.code == 0
    assert [line for line in listed.out.splitlines() if "elsewhere does not exist" in line]


def test_without_any_settings_user_and_password_are_both_named(untouched: Monorepo) -> None:
    untouched.path(".env").unlink()
    ran = untouched.invoke("db.reset")
    assert_explained(ran, 2, "HULEEDU_DB_USER", "HULEEDU_DB_PASSWORD", "invoke env.init")


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        (
            {"HULEEDU_ENVIRONMENT": "prodution"},
            ["'prodution' is not one of development, testing, staging, production"],
        ),
        (
            {
                "HULEEDU_JOBS": "many",
                "HULEEDU_PROVIDER": "dokcer",
                "HULEEDU_MIGRATION_TIMEOUT": "nan",
                "HULEEDU_EMBEDDED_DURABLE": "perhaps",
            },
            [
                "HULEEDU_JOBS (environment): 'many' is not an integer",
                "HULEEDU_PROVIDER (environment): 'dokcer'",
                "HULEEDU_MIGRATION_TIMEOUT (environment): 'nan'",
                "HULEEDU_EMBEDDED_DURABLE (environment): 'perhaps'",
            ],
        ),
        ({"HULEEDU_REGISTRY": "none.json"}, ["HULEEDU_REGISTRY names", "none.json"]),
        ({"HULEEDU_POSTGRES_BIN": "/nowhere"}, ["HULEEDU_POSTGRES_BIN", "postgres was not found"]),
    ],
)
def test_all_invalid_settings_are_named_with_their_sources(
    untouched: Monorepo, variables: Mapping[str, str], words: list[str]
) -> None:
    assert_explained(untouched.invoke("db.reset", env=variables), 2, *words)


def test_an_invalid_line_of_the_env_file_is_named_and_not_repeated(
    untouched: Monorepo,
) -> None:
    untouched.write(".env", f"HULEEDU_DB_USER=me\nHULEEDU_DB_PASSWORD='{SECRET}\n")
    ran = untouched.invoke("db.reset")
    assert_explained(ran, 2, ".env line 2")
    assert SECRET not in ran.err


@pytest.mark.parametrize("command", [*CHANGING, "db.status"])
def test_development_commands_are_refused_in_production(untouched: Monorepo, command: str) -> None:
    ran = untouched.invoke(command, env={"HULEEDU_ENVIRONMENT": "Production"})
    assert_explained(ran, 3, f"{command} does not run in production", "HULEEDU_ENVIRONMENT")


def test_a_reset_is_refused_in_staging_even_with_everything_else_set(untouched: Monorepo) -> None:
    with untouched.path(".env").open("a") as file:
        file.write("HULEEDU_ENVIRONMENT=staging\nHULEEDU_STAGING_DB_HOST=localhost\n")
        file.write("HULEEDU_STAGING_DB_PASSWORD=x\n")
    ran = untouched.invoke("db.reset", "--confirm", "huleedu_alpha")
    assert_explained(ran, 3, "db.reset does not run in staging", ".env line 3")


@pytest.mark.parametrize(
    "override",
    [
        f"mysql://me:{SECRET}@localhost/alpha",
        f"postgresql+asyncpg://me:{SECRET}@localhost:port/alpha",
        f"postgresql+asyncpg://me:{SECRET}#1@localhost/alpha",
        SECRET,
    ],
)
def test_an_override_that_is_not_a_valid_url_is_refused_without_repeating_it(
    untouched: Monorepo, override: str
) -> None:
    ran = untouched.invoke("db.reset", env={"ALPHA_SERVICE_DATABASE_URL": override})
    assert_explained(ran, 2, "ALPHA_SERVICE_DATABASE_URL", "postgresql+asyncpg://USER:PASSWORD@")
    assert SECRET not in ran.err


def test_an_override_that_points_elsewhere_is_refused_before_connecting(
    untouched: Monorepo,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        elsewhere.setblocking(False)
        address = f"127.0.0.1:{elsewhere.getsockname()[1]}"
        url = f"postgresql+asyncpg://me:{SECRET}@{address}/alpha"
        for command in CHANGING:
            if command == "db.down":
                continue
            ran = untouched.invoke(command, env={"ALPHA_SERVICE_DATABASE_URL": url})
            assert_explained(ran, 3, "ALPHA_SERVICE_DATABASE_URL points to", address)
            assert SECRET not in ran.err
        with pytest.raises(BlockingIOError):
            elsewhere.accept()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        *((["--jobs", bad], ["--jobs must be an integer", bad]) for bad in ("0", "-1", "two")),
        (["--service", "alpah"], ["No service is named 'alpah'", "Did you mean 'alpha'?"]),
        (["--service", ""], ["No service is named ''", "Known: alpha, beta"]),
        # `--service $NAME` with an empty NAME must not select all services.
        (["--service"], ["--service needs a value"]),
        (["--service", "--json"], ["--service needs a value"]),
    ],
)
def test_invalid_arguments_are_refused(
    untouched: Monorepo, arguments: list[str], words: list[str]
) -> None:
    ran = untouched.invoke("db.reset", *arguments)
    if "--json" in arguments:
        assert (ran.code, ran.json["error"]["message"].startswith(words[0])) == (2, True)
    else:
        assert_explained(ran, 2, *words)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["db.resett"], "No idea what 'db.resett' is!"),
        (["db.reset", "--servce", "alpha"], "No idea what '--servce' is!"),
        (["db.reset", "alpha"], "No idea what 'alpha' is!"),
        (["db.reset", "--jobs"], "needed value and was not given one"),
    ],
)
def test_unknown_tasks_and_flags_are_reported_by_invoke(
    untouched: Monorepo, arguments: list[str], said: str
) -> None:
    ran = untouched.invoke(*arguments)
    assert (ran.code, ran.out) == (1, "")
    assert said in ran.err


def test_an_env_file_with_unusual_syntax_works_end_to_end() -> None:
    password = "a#b$c %d 'e' \N{SNOWMAN}"
    with empty_monorepo() as monorepo:
        (port,) = free_ports(1)
        monorepo.add_service("alpha", port)
        lines = [
            "# Written on another system.",
            "export HULEEDU_DB_USER=school_user  # not me",
            f'HULEEDU_DB_PASSWORD="{password}"',
            "HULEEDU_ENVIRONMENT=Testing",
            "",
        ]
        monorepo.path(".env").write_bytes("\r\n".join(lines).encode("utf-8-sig"))
        ran = monorepo.invoke("db.reset")
        assert ran.code == 0, ran.err
        assert "(testing; " in ran.err
        url = monorepo.invoke("db.url", "--service", "alpha", "--show-password").out.strip()
        assert log_in(url, "SELECT current_user::text") == "school_user"
        assert password not in ran.out + ran.err


# Failures of single services in one reset.


@dataclass(frozen=True)
class Aftermath:
    """A reset of many services, most of which fail."""

    monorepo: Monorepo
    before: Mapping[str, Database]
    ran: Ran

    def line(self, name: str) -> str:
        """Return the row of a service in the table."""
        table, _, _ = self.ran.out.partition("\n\n")
        (line,) = (line for line in table.splitlines() if line.startswith(f"{name} "))
        return line

    def status(self, name: str) -> str:
        """Return a service's status in the table."""
        return self.line(name).split()[1]

    def output(self, name: str) -> str:
        """Return the output of a service below the table; empty string if there is none."""
        _, _, rest = self.ran.out.partition(f"\n--- {name}: its own output\n")
        return rest.partition("\n---")[0]


OK = ("fine",)
UNREADABLE = ("syntax", "heads", "gap")
BROKEN = ("exits", "shows", "sql", "raises", "no_seed")
ABORTED = ("later",)
SHOWS = """
import os, sys
from config import database_url
password = os.environ["PGPASSWORD"]
print("url:", database_url())
print("password:", password, repr(password))
sys.exit("stopped by its env.py")
"""
HALF_A_SEED = """\
def count_pencils():
    raise RuntimeError("out of pencils")


async def seed(connection):
    await connection.execute("INSERT INTO note VALUES (1, 'half')")
    count_pencils()
"""


@pytest.fixture(scope="module")
def aftermath() -> Iterator[Aftermath]:
    with new_monorepo((*OK, *UNREADABLE, *BROKEN), server="one_db") as monorepo:
        without_initdb(monorepo)
        port = monorepo.port("raises")
        monorepo.add_service("later", port, compose_service="one_db", seed_after=["raises"])
        services = [word for name in UNREADABLE for word in ("--service", name)]
        assert monorepo.invoke("db.reset", *services).code == 0
        before = {name: database(monorepo, name) for name in UNREADABLE}
        _break(monorepo)
        yield Aftermath(monorepo, before, monorepo.invoke("db.reset"))


def _break(monorepo: Monorepo) -> None:
    versions = "services/{0}_service/alembic/versions/{1}.py"
    monorepo.write(versions.format("syntax", "b2"), "revision = 'b2'\ndown_revision = (\n")
    monorepo.add_revision("heads", "b2", "a1")
    monorepo.add_revision("heads", "c3", "a1")
    monorepo.add_revision("gap", "c3", "b2")
    monorepo.add_revision("sql", "b2", "a1", "SELECT no_such_function()")
    for name, text in {
        "fine": f"print('fine is fine')\n{ENV_PY}",
        "exits": "import sys\nsys.exit(0)\n",
        "shows": SHOWS,
        "sql": f"for n in range(500): print('sql says', n)\n{ENV_PY}",
    }.items():
        monorepo.write(f"services/{name}_service/alembic/env.py", text)
    monorepo.write("database/seed-scripts/seed_raises.py", HALF_A_SEED)
    monorepo.write("database/seed-scripts/seed_no_seed.py", "def sow(connection): ...\n")


def test_every_service_has_a_row_and_one_failure_fails_the_run(
    aftermath: Aftermath,
) -> None:
    assert aftermath.ran.code == 1
    assert {name: aftermath.status(name) for name in OK} == dict.fromkeys(OK, "OK")
    failed = (*UNREADABLE, *BROKEN)
    assert {name: aftermath.status(name) for name in failed} == dict.fromkeys(failed, "FAILED")
    assert aftermath.status("later") == "ABORTED"
    assert "db.reset: 1 OK, 8 FAILED, 1 ABORTED" in aftermath.ran.err
    assert "What to do: " in aftermath.ran.err
    assert_no_password_on_screen(aftermath.ran)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("syntax", ["versions/b2.py, line 2: is not valid Python"]),
        ("heads", ["versions/b2.py: revision b2 is one of several heads", "versions/c3.py"]),
        ("gap", ["versions/c3.py: has the down_revision b2, which no file defines"]),
    ],
)
def test_invalid_revisions_do_not_cause_data_loss(
    aftermath: Aftermath, name: str, words: list[str]
) -> None:
    assert not [word for word in words if word not in aftermath.line(name)]
    assert database(aftermath.monorepo, name) == aftermath.before[name]


def test_a_migration_without_effect_on_the_database_is_a_failure(aftermath: Aftermath) -> None:
    line = aftermath.line("exits")
    assert "Alembic ended without an error, but huleedu_exits is at no revision, not at a1" in line
    assert "EXITS_SERVICE_DATABASE_URL" in aftermath.ran.err


def test_an_env_py_that_prints_url_and_password_shows_neither_password(
    aftermath: Aftermath,
) -> None:
    port = aftermath.monorepo.port("shows")
    assert aftermath.output("shows").splitlines()[:3] == [
        f"url: postgresql+asyncpg://{USER}:***@localhost:{port}/huleedu_shows",
        "password: *** '***'",
        "stopped by its env.py",
    ]


def test_only_the_output_of_failed_services_is_shown_below_the_table(
    aftermath: Aftermath,
) -> None:
    output = aftermath.output("sql")
    assert output.startswith("".join(f"sql says {number}\n" for number in range(500)))
    assert "[SQL: SELECT no_such_function()]" in output
    assert "no_such_function() does not exist" in aftermath.line("sql")
    assert "fine is fine" not in aftermath.ran.out + aftermath.ran.err


def test_a_seed_that_raises_is_rolled_back_and_its_traceback_is_shown(
    aftermath: Aftermath,
) -> None:
    output = aftermath.output("raises")
    assert "seed_raises.py failed: RuntimeError: out of pencils" in aftermath.line("raises")
    path = aftermath.monorepo.path("database/seed-scripts/seed_raises.py")
    frames = [line.strip() for line in output.splitlines() if line.startswith("  File ")]
    assert frames == [
        f'File "{path}", line 7, in seed',
        f'File "{path}", line 2, in count_pencils',
    ]
    assert notes(aftermath.monorepo, "raises") == ""


def test_a_seed_script_without_a_seed_function_is_refused(aftermath: Aftermath) -> None:
    line = aftermath.line("no_seed")
    assert "seed_no_seed.py defines no `async def seed(connection)`" in line


def test_a_service_seeded_after_one_that_failed_is_not_seeded(aftermath: Aftermath) -> None:
    assert "raises" in aftermath.line("later")
    assert notes(aftermath.monorepo, "later") == ""


def test_corrected_seeds_are_applied(aftermath: Aftermath) -> None:
    monorepo = aftermath.monorepo
    monorepo.write(
        "database/seed-scripts/seed_raises.py", monorepo.read("database/seed-scripts/seed_later.py")
    )
    ran = monorepo.invoke("db.seed", "--service", "raises", "--service", "later", "--json")
    assert (ran.code, ran.statuses) == (0, {"raises": "OK", "later": "OK"})
    assert notes(monorepo, "raises") == notes(monorepo, "later") == "first second"


def test_an_env_py_that_hangs_is_ended_with_its_children(aftermath: Aftermath) -> None:
    monorepo = aftermath.monorepo
    monorepo.add_revision("fine", "b2", "a1")
    monorepo.write(
        "services/fine_service/alembic/env.py",
        """\
        import subprocess
        sleeper = subprocess.Popen(["sleep", "600"])
        print("sleeper", sleeper.pid, flush=True)
        sleeper.wait()
        """,
    )
    variables = {"HULEEDU_MIGRATION_TIMEOUT": "2"}
    ran = monorepo.invoke("db.migrate", "--service", "fine", "--json", env=variables)
    (fine,) = ran.json["services"]
    assert (ran.code, fine["status"]) == (1, "FAILED")
    assert "exceeded 2 s and were terminated" in fine["detail"]
    assert "HULEEDU_MIGRATION_TIMEOUT" in fine["hint"]
    sleeper = int(fine["output"].split()[1])
    wait_until(lambda: not psutil.pid_exists(sleeper))
