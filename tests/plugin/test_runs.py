"""Runs of pytest with the plugin: many at once, killed, refused, failed."""

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.db_runs import without_initdb
from tests.support.fork_server import fresh_interpreters
from tests.support.instant import maintain
from tests.support.monorepo import Monorepo, free_ports, new_monorepo, wait_until
from tests.support.pytest_runs import (
    CONFTEST,
    of_plugin,
    passes,
    run_pytest,
    servers_for_tests,
    start_pytest,
    write_tests,
)

MANY = """
import os
import pytest
import psycopg

@pytest.mark.parametrize("number", range(8))
def test_one(alpha, number):
    with psycopg.connect(alpha.dsn) as connection:
        connection.execute("INSERT INTO note VALUES (1, 'text')")
        assert connection.execute("SELECT count(*) FROM note").fetchone() == (1,)
"""
WAITS = """
import pathlib
import time

def test_one(alpha):
    pathlib.Path("begun").write_text(alpha.name)
    while not pathlib.Path("go").exists():
        time.sleep(0.01)
"""


@pytest.fixture
def unused() -> Iterator[Monorepo]:
    """Return a monorepo without a state directory."""
    with new_monorepo(["alpha"]) as made:
        yield made


@pytest.fixture
def existing(monorepo: Monorepo) -> Monorepo:
    """Return a monorepo whose server runs, and is not its own."""
    assert without_initdb(monorepo).invoke("db.up").code == 0
    monorepo.environment["HULEEDU_PROVIDER"] = "existing"
    return monorepo


def run_in(*checkouts: Monorepo) -> None:
    """Run the same tests in several checkouts at once."""
    for checkout in checkouts:
        write_tests(checkout, MANY)
    running = [start_pytest(checkout) for checkout in checkouts]
    for process in running:
        out, _ = process.communicate(timeout=180)
        assert process.returncode == 0, out
        assert "8 passed" in out


def test_runs_of_two_checkouts_share_a_server_and_leave_its_databases(
    existing: Monorepo,
) -> None:
    names = "SELECT oid, datname FROM pg_database ORDER BY oid"
    before = maintain(existing, "alpha", names)
    with new_monorepo(["alpha"]) as other:
        other.register(*existing.services)
        other.environment["HULEEDU_PROVIDER"] = "existing"
        run_in(existing, other)
    assert maintain(existing, "alpha", names) == before


def test_two_checkouts_with_the_same_ports_have_embedded_servers_of_their_own(
    monorepo: Monorepo,
) -> None:
    assert without_initdb(monorepo).invoke("db.up").code == 0
    with new_monorepo(["alpha"]) as other:
        other.register(*monorepo.services)
        run_in(monorepo, without_initdb(other, of_tests=True))
        assert servers_for_tests(monorepo) == servers_for_tests(other) == []
    assert "running" in monorepo.invoke("db.up").out


def test_workers_build_a_template_once_and_need_only_variables(monorepo: Monorepo) -> None:
    monorepo.path(".env").unlink()
    login = {"HULEEDU_DB_USER": "anyone", "HULEEDU_DB_PASSWORD": "any p@ssword"}
    write_tests(monorepo, MANY)
    ran = run_pytest(monorepo, "-n", "2", env=login)
    assert ran.counts == {"passed": 8}, ran.out
    assert "service databases: 8 databases; templates: alpha rebuilt" in ran.out
    again = run_pytest(monorepo, env=login)
    assert "templates: alpha valid" in again.out
    assert servers_for_tests(monorepo) == []


def test_a_failing_migration_is_reported_once(monorepo: Monorepo) -> None:
    monorepo.add_revision("alpha", "b2", "a1", "SELECT * FROM no_such_table")
    monorepo.add_service("beta", *free_ports(1))
    write_tests(
        monorepo,
        MANY + "\ndef test_other(beta):\n    pass\n",
        conftest=CONFTEST + "beta = service_database('beta')\n",
    )
    ran = run_pytest(monorepo, "-n", "2")
    assert ran.code == 1
    assert ran.counts == {"passed": 1, "skipped": 7, "error": 1}
    assert 'relation "no_such_table" does not exist' in ran.out
    assert ran.out.count("ERROR at setup of") == 1


def test_a_failing_seed_fails_tests_with_seeds_only(monorepo: Monorepo) -> None:
    monorepo.write("database/seed-scripts/seed_alpha.py", "async def seed(_):\n    1 / 0\n")
    write_tests(
        monorepo,
        """
        def test_one(alpha):
            pass

        def test_two(seeded):
            pass

        def test_three(seeded):
            pass
        """,
        conftest=CONFTEST + "seeded = service_database('alpha', seeded=True)\n",
    )
    ran = run_pytest(monorepo)
    assert ran.counts == {"passed": 1, "error": 1, "skipped": 1}
    assert "ZeroDivisionError" in ran.out


def test_missing_settings_are_reported_once(monorepo: Monorepo) -> None:
    monorepo.path(".env").unlink()
    write_tests(monorepo, MANY)
    ran = run_pytest(monorepo)
    assert ran.counts == {"error": 1, "skipped": 7}
    assert "HULEEDU_DB_PASSWORD: is not set" in ran.out
    assert "huleedu env.init" in ran.out


def begin_waiting(monorepo: Monorepo) -> "subprocess.Popen[str]":
    """Start a run whose test waits for the file `go`."""
    write_tests(monorepo, WAITS)
    process = start_pytest(monorepo)
    begun = monorepo.path("begun")
    wait_until(lambda: begun.exists() and begun.read_text(), seconds=90)
    return process


def test_the_next_run_drops_the_databases_of_a_killed_one(monorepo: Monorepo) -> None:
    process = begin_waiting(monorepo)
    process.kill()
    process.communicate()
    name = monorepo.read("begun")
    assert of_plugin(monorepo) == [name]
    # No code of the killed process has stopped them.
    assert len(servers_for_tests(monorepo)) == 1
    monorepo.path("begun").unlink()
    process = begin_waiting(monorepo)
    assert of_plugin(monorepo) == [monorepo.read("begun")] != [name]
    monorepo.write("go", "")
    process.communicate(timeout=90)
    assert process.returncode == 0
    assert servers_for_tests(monorepo) == []
    assert not list(Path(monorepo.state, "testing").glob("*/lock"))


def test_the_next_run_drops_everything_of_a_killed_one_on_an_existing_server(
    existing: Monorepo,
) -> None:
    process = begin_waiting(existing)
    process.kill()
    process.communicate()
    assert len(of_plugin(existing)) == 2
    passes(existing, "def test_one(alpha):\n    pass\n")
    assert of_plugin(existing) == []


def test_databases_of_another_run_are_kept(monorepo: Monorepo) -> None:
    process = begin_waiting(monorepo)
    monorepo.write("tests/test_other.py", "def test_other(alpha):\n    pass\n")
    assert run_pytest(monorepo, "tests/test_other.py").code == 0
    assert of_plugin(monorepo) == [monorepo.read("begun")]
    monorepo.write("go", "")
    out, _ = process.communicate(timeout=90)
    assert process.returncode == 0, out
    assert servers_for_tests(monorepo) == []


def test_ctrl_c_leaves_nothing(existing: Monorepo) -> None:
    process = begin_waiting(existing)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=90)
    assert process.returncode == 2
    assert of_plugin(existing) == []


def test_a_database_with_a_similar_name_is_kept(existing: Monorepo) -> None:
    names = ["pytest_0123456789_main_1_huleedu_alpha", "pytest_mine"]
    for name in names:
        maintain(existing, "alpha", f"CREATE DATABASE {name}")
    passes(existing, "def test_one(alpha):\n    pass\n")
    assert of_plugin(existing) == names


@pytest.mark.parametrize("environment", ["production", "staging"])
def test_other_environments_are_refused(unused: Monorepo, environment: str) -> None:
    write_tests(unused, MANY)
    ran = run_pytest(unused, env={"HULEEDU_ENVIRONMENT": environment})
    assert ran.code == 1
    assert ran.counts == {"error": 1, "skipped": 7}
    assert "[environment-refused]" in ran.out
    assert not unused.state.exists()


def test_without_a_fixture_nothing_is_imported_or_written(unused: Monorepo) -> None:
    unused.write("tests/conftest.py", CONFTEST)
    unused.write(
        "tests/test_it.py",
        """
        import sys

        HEAVY = {"alembic", "asyncpg", "docker", "dotenv", "filelock", "jsonschema_rs", "psutil"}

        def test_one():
            assert not (HEAVY | {"sqlalchemy", "yaml", "requests"}) & sys.modules.keys()
            assert not {"huleedu_tasks.config", "huleedu_tasks.app"} & sys.modules.keys()
        """,
    )
    # The header reads the registry, because conftest.py declares a database.
    with fresh_interpreters():
        ran = run_pytest(unused, "-q", "--no-header")
    assert ran.counts == {"passed": 1}, ran.out
    assert not unused.state.exists()
    assert "service databases" not in ran.out
