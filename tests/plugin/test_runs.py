"""Runs of pytest with the plugin: many at once, killed, refused, failed."""

import signal
from pathlib import Path

import pytest

from tests.support.instant import maintain
from tests.support.monorepo import Monorepo, clean_environment, new_monorepo, wait_until
from tests.support.pytest_runs import (
    CONFTEST,
    copies,
    of_plugin,
    passes,
    run_pytest,
    start_pytest,
    write_tests,
)

MANY = """
import os
import pytest
import psycopg

@pytest.mark.parametrize("number", range(24))
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


def test_workers_of_two_checkouts_share_a_server(monorepo: Monorepo) -> None:
    assert monorepo.invoke("db.up").code == 0
    with new_monorepo() as other:
        other.register(*monorepo.services)
        for checkout in (monorepo, other):
            write_tests(checkout, MANY)
        existing = {"HULEEDU_PROVIDER": "existing"}
        running = [start_pytest(m, "-n", "4", env=existing) for m in (monorepo, other)]
        for process in running:
            out, _ = process.communicate(timeout=180)
            assert process.returncode == 0, out
            assert "24 passed" in out
    assert of_plugin(monorepo) == []


def test_workers_build_a_template_once(monorepo: Monorepo) -> None:
    ran = passes(monorepo, MANY, "-n", "4")
    assert "service databases: 24 databases; templates: alpha rebuilt" in ran.out
    assert "templates: alpha valid" in passes(monorepo, MANY, "-n", "2").out
    assert copies(of_plugin(monorepo)) == []


@pytest.mark.parametrize("workers", [[], ["-n", "2"]], ids=["alone", "workers"])
def test_a_failing_migration_is_reported_once(monorepo: Monorepo, workers: list[str]) -> None:
    monorepo.add_revision("alpha", "b2", "a1", "SELECT * FROM no_such_table")
    write_tests(
        monorepo,
        MANY + "\ndef test_other(beta):\n    pass\n",
        conftest=CONFTEST + "beta = service_database('beta')\n",
    )
    ran = run_pytest(monorepo, *workers)
    assert ran.code == 1
    assert ran.counts == {"passed": 1, "skipped": 23, "error": 1}
    assert 'relation "no_such_table" does not exist' in ran.out
    assert ran.out.count("Revision b2") == 1


def test_a_killed_run_is_cleaned_up_by_the_next(monorepo: Monorepo) -> None:
    write_tests(monorepo, WAITS)
    process = start_pytest(monorepo)
    wait_until(monorepo.path("begun").exists, seconds=90)
    name = monorepo.read("begun")
    process.kill()
    process.communicate()
    assert name in of_plugin(monorepo)
    monorepo.write("go", "")
    assert run_pytest(monorepo).code == 0
    assert copies(of_plugin(monorepo)) == []
    assert list(Path(monorepo.state, "testing").iterdir()) == []


def test_databases_of_a_running_test_are_kept(monorepo: Monorepo) -> None:
    write_tests(monorepo, WAITS)
    process = start_pytest(monorepo)
    wait_until(monorepo.path("begun").exists, seconds=90)
    monorepo.write("tests/test_other.py", "def test_other(alpha):\n    pass\n")
    assert run_pytest(monorepo, "tests/test_other.py").code == 0
    assert copies(of_plugin(monorepo)) == [monorepo.read("begun")]
    monorepo.write("go", "")
    out, _ = process.communicate(timeout=90)
    assert process.returncode == 0, out
    assert copies(of_plugin(monorepo)) == []


def test_ctrl_c_leaves_nothing(monorepo: Monorepo) -> None:
    write_tests(monorepo, WAITS)
    process = start_pytest(monorepo)
    wait_until(monorepo.path("begun").exists, seconds=90)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=90)
    assert process.returncode == 2
    assert copies(of_plugin(monorepo)) == []


def test_a_database_with_a_similar_name_is_kept(monorepo: Monorepo) -> None:
    passes(monorepo, "def test_one(alpha):\n    pass\n")
    for name in ("pytest_mine", "pytest_0123456789_main_1_huleedu_alpha"):
        maintain(monorepo, "alpha", f"CREATE DATABASE {name}")
    passes(monorepo, "def test_one(alpha):\n    pass\n")
    assert copies(of_plugin(monorepo)) == [
        "pytest_0123456789_main_1_huleedu_alpha",
        "pytest_mine",
    ]


@pytest.mark.parametrize("environment", ["production", "staging"])
def test_other_environments_are_refused(monorepo: Monorepo, environment: str) -> None:
    write_tests(monorepo, MANY)
    ran = run_pytest(monorepo, env={"HULEEDU_ENVIRONMENT": environment})
    assert ran.code == 1
    assert ran.counts == {"error": 1, "skipped": 23}
    assert "[environment-refused]" in ran.out
    assert not monorepo.state.exists()


def test_the_data_of_development_is_not_touched(running: Monorepo) -> None:
    maintain(running, "alpha", "SELECT 1")
    before = running.invoke("db.status", "--json").json
    passes(running, MANY)
    after = running.invoke("db.status", "--json").json
    assert [row["seeded"] for row in after["services"]] == ["yes", "yes", "yes"]
    assert before["services"][0]["reset"] == after["services"][0]["reset"]


def test_without_a_fixture_nothing_is_imported_or_written(monorepo: Monorepo) -> None:
    monorepo.write("tests/conftest.py", CONFTEST)
    monorepo.write(
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
    ran = run_pytest(monorepo, "-q", "--no-header")
    assert ran.counts == {"passed": 1}, ran.out
    assert not monorepo.state.exists()
    assert "service databases" not in ran.out
    assert clean_environment().keys()
