"""Alembic runs with the service's files unchanged, and the database decides the result."""

import asyncio
import json
import re
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import psutil
import pytest

from huleedu_tasks.errors import ConfigurationError
from huleedu_tasks.report import Outcome, Status
from huleedu_tasks.repository import repository_files
from tests.support.db_runs import app_of, development_of, without_initdb
from tests.support.monorepo import (
    ENV_PY,
    Monorepo,
    free_ports,
    is_dead,
    new_monorepo,
    wait_until,
)
from tests.support.postgres import ask

NOTES = "SELECT count(*) FROM note"
# Writes its interpreter to a file on each run.
REPORTING_ENV_PY = (
    """\
import json
import os
import sys

with open("runs", "a") as runs:
    line = {"python": sys.executable, "argv": sys.argv, "environment": dict(os.environ)}
    print(json.dumps(line), file=runs)
"""
    + ENV_PY
)


class Bench:
    """Services with databases on one server, each made for one test."""

    def __init__(self, monorepo: Monorepo) -> None:
        self.monorepo = monorepo
        self._numbers = count(1)
        self._port = free_ports(1)[0]

    def service(self, env_py: str = REPORTING_ENV_PY, **stated: Any) -> str:
        name = f"service{next(self._numbers)}"
        self.monorepo.add_service(name, self._port, compose_service="shared", **stated)
        self.write(name, "alembic/env.py", env_py)
        return name

    def write(self, name: str, path: str, text: str) -> Path:
        return self.monorepo.write(f"services/{name}_service/{path}", text)

    def migrate(self, name: str, **variables: str) -> Outcome:
        """Migrate without the command line, which is not what is tested."""
        flows = development_of(app_of(self.monorepo, **variables), name)
        (outcome,) = asyncio.run(flows.migrate("head")).outcomes
        return outcome

    def is_migrated(self, name: str) -> bool:
        found = ask(self.monorepo.url(name), "SELECT to_regclass('note') IS NOT NULL")
        return found == [(True,)]

    def runs(self, name: str) -> list[dict[str, Any]]:
        path = self.monorepo.path(f"services/{name}_service/runs")
        return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module", autouse=True)
def scripts() -> None:
    """Execute the package's scripts, each in a new interpreter."""


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with new_monorepo([]) as monorepo:
        yield Bench(without_initdb(monorepo))


# The service's files are unchanged.


@pytest.mark.parametrize("path", ["", ".:.."])
def test_a_directory_that_is_a_package_named_alembic_does_not_hide_the_library(
    bench: Bench, path: str
) -> None:
    name = bench.service()
    bench.write(name, "alembic/__init__.py", "raise RuntimeError('not the library')\n")
    outcome = bench.migrate(name, PYTHONPATH=path)
    assert outcome, outcome.output
    assert bench.is_migrated(name)


@pytest.mark.parametrize(
    "python",
    [
        "bin/python",
        ["env", "WITNESS=1", "bin/python"],
        ["sh", "-c", 'exec bin/python "$@"', "sh"],
    ],
    ids=["a path", "a command", "a shell"],
)
def test_a_service_is_migrated_by_its_own_interpreter(
    bench: Bench, python: str | list[str]
) -> None:
    name = bench.service(python=python)
    wrapper = f'#!/bin/sh\nexport OWN_INTERPRETER="$0"\nexec "{sys.executable}" "$@"\n'
    bench.write(name, "bin/python", wrapper).chmod(0o755)
    outcome = bench.migrate(name, VIRTUAL_ENV="/ours")
    assert outcome, outcome.output
    (run,) = bench.runs(name)
    assert run["environment"]["OWN_INTERPRETER"].endswith("bin/python")
    assert "VIRTUAL_ENV" not in run["environment"]


def test_an_interpreter_that_is_not_on_path_is_named(bench: Bench) -> None:
    outcome = bench.migrate(bench.service(python="no-such-python"))
    assert outcome.status is Status.FAILED
    assert "no-such-python" in outcome.detail
    assert "'python'" in outcome.hint


def test_a_missing_interpreter_is_reported_before_any_change(bench: Bench) -> None:
    with pytest.raises(ConfigurationError) as missed:
        bench.migrate(bench.service(python=".venv/bin/python"))
    (finding,) = missed.value.findings
    assert ".venv/bin/python does not exist: create its virtual environment" in finding.problem


def test_the_environment_of_the_registry_is_passed_to_migrations(bench: Bench) -> None:
    name = bench.service(environment={"REGION": "north", "ENVIRONMENT": "development"})
    assert bench.migrate(name, REGION="south")
    (run,) = bench.runs(name)
    assert run["environment"]["REGION"] == "north"
    assert run["environment"]["HULEEDU_ENVIRONMENT"] == "development"


def test_a_stated_variable_and_configuration_file_are_used(bench: Bench) -> None:
    name = bench.service(url_variable="ODD_URL", alembic_config="db/migrations.ini")
    directory = bench.monorepo.path(f"services/{name}_service")
    (directory / "db").mkdir()
    (directory / "alembic.ini").rename(directory / "db/migrations.ini")
    config = (directory / "config.py").read_text().replace(f"{name.upper()}_SERVICE_", "ODD_")
    bench.write(name, "config.py", config.replace("ODD_DATABASE_URL", "ODD_URL"))
    assert bench.migrate(name)
    (run,) = bench.runs(name)
    assert run["environment"]["ODD_URL"].startswith("postgresql+asyncpg://")
    assert "migrations.ini" in " ".join(run["argv"])


def test_a_database_at_head_starts_no_process(bench: Bench) -> None:
    name = bench.service()
    assert [bench.migrate(name).detail for _ in range(2)] == ["migrated", "already there"]
    assert len(bench.runs(name)) == 1
    bench.monorepo.add_revision(name, "b2", "a1", "INSERT INTO note VALUES (7, 'seven')")
    assert bench.migrate(name).facts["to"] == "b2"
    assert len(bench.runs(name)) == 2


# The database decides.


@pytest.mark.parametrize(
    "env_py",
    [
        "import sys\nsys.exit(0)\n",
        "print('nothing to do')\n",
    ],
    ids=["exits", "forgets"],
)
def test_a_run_that_did_not_migrate_the_database_fails(bench: Bench, env_py: str) -> None:
    name = bench.service(env_py)
    outcome = bench.migrate(name)
    assert outcome.status is Status.FAILED
    assert f"huleedu_{name} is at no revision" in outcome.detail
    assert f"{name.upper()}_SERVICE_DATABASE_URL" in outcome.hint
    assert not bench.is_migrated(name)


def test_a_failed_migration_shows_its_error_and_does_not_affect_others(
    monorepo: Monorepo,
) -> None:
    monorepo.add_revision("beta", "b2", "a1", "SELECT no_such_column FROM note")
    ran = monorepo.invoke("db.reset", "--json")
    assert (ran.code, ran.statuses) == (1, {"alpha": "OK", "beta": "FAILED", "gamma": "OK"})
    failed = ran.json["services"][1]
    assert "no_such_column" in failed["detail"]
    assert "Traceback" in failed["output"]
    for name in ("alpha", "gamma"):
        assert ask(monorepo.url(name), NOTES) == [(2,)]


def test_a_missing_module_of_the_repository_has_a_hint_with_pythonpath(
    bench: Bench,
) -> None:
    bench.monorepo.write("libs/notes/src/noteslib/__init__.py", "")
    bench.monorepo.path(".git").mkdir(exist_ok=True)
    repository_files.cache_clear()
    env_py = f"import noteslib\n{REPORTING_ENV_PY}"
    lost = bench.migrate(bench.service(env_py))
    assert (lost.status, lost.code) == (Status.FAILED, "module-missing")
    (environment,) = re.findall(r'State "environment": (\{.*?\}) for', lost.hint)
    found = bench.migrate(bench.service(env_py, environment=json.loads(environment)))
    assert found, found.output


def test_a_missing_library_has_a_hint_with_the_interpreter(bench: Bench) -> None:
    lost = bench.migrate(bench.service("import no_such_library\n"))
    assert lost.code == "module-missing"
    assert f"`{sys.executable} -m pip install no_such_library`" in lost.hint


# Timeouts, and variables of the developer's shell.


def test_a_run_that_exceeds_its_timeout_is_ended_with_its_children(bench: Bench) -> None:
    deaf = "(trap '' TERM; echo $$ >> pids; exec sleep 60) & echo $! >> pids"
    name = bench.service(python=["sh", "-c", f"{deaf}; echo waiting; wait"])
    asyncio.run(development_of(app_of(bench.monorepo), name).up())
    outcome = bench.migrate(name, HULEEDU_MIGRATION_TIMEOUT="1")
    assert outcome.status is Status.FAILED
    assert "exceeded 1 s" in outcome.detail
    assert "HULEEDU_MIGRATION_TIMEOUT" in outcome.hint
    assert outcome.output == "waiting\n"
    pids = bench.monorepo.path(f"services/{name}_service/pids").read_text().split()
    assert len(pids) == 2
    # A busy machine may need a moment to end killed processes.
    for pid in map(int, pids):
        wait_until(lambda pid=pid: not psutil.pid_exists(pid) or is_dead(psutil.Process(pid)))


def test_pg_and_python_variables_of_the_developer_are_not_passed(
    monorepo: Monorepo,
) -> None:
    trap = monorepo.root.with_name("trap")
    trap.mkdir()
    environment = {
        "PGHOST": "127.0.0.9",
        "PGPORT": "1",
        "PGUSER": "unknown",
        "PGDATABASE": "nothing",
        "PGPASSWORD": "wrong",
        "PGPASSFILE": "/nowhere",
        "PGDATA": str(trap),
        "PGSSLMODE": "require",
        "PGOPTIONS": "-c default_transaction_read_only=on",
        "PGTARGETSESSIONATTRS": "standby",
        "PYTHONPATH": f".:{trap}",
        "PYTHONSAFEPATH": "1",
    }
    ran = monorepo.invoke("db.reset", "--service", "alpha", env=environment)
    assert ran.code == 0, ran.out + ran.err
    assert ask(monorepo.url("alpha"), NOTES) == [(2,)]
    assert list(trap.iterdir()) == []
