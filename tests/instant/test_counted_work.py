"""A command starts no process, imports no library and runs no statement that it does not need."""

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.support.db_runs import without_initdb
from tests.support.instant import COPIED, REBUILT, maintain, resets
from tests.support.monorepo import ENV_PY, PROJECT, Monorepo, new_monorepo
from tests.support.observe import FORK_LOOP
from tests.support.postgres import TOOL, log_every_statement

NAMES = tuple("abc")
# Outside the service's directory, in which a new file would be a changed input.
TRACES = "from pathlib import Path\nPath('../../traces/{}').touch()\n"
PACKAGE = "huleedu_tasks"
TASK_MODULES = {
    PACKAGE,
    f"{PACKAGE}.errors",
    f"{PACKAGE}.cli",
    *(
        f"{PACKAGE}.cli.{name}"
        for name in (
            "command",
            "command_line",
            "db",
            "env",
            "migrations",
            "prod",
            "services",
            "windows",
        )
    ),
}
# Invoke imports yaml if the working directory has a file with its configuration.
HEAVY_LIBRARIES = ("alembic", "sqlalchemy", "asyncpg", "docker", "psutil", "rich", "questionary")
# Every interpreter runs this on startup, and writes the modules that it has imported on exit.
WITNESS = """\
import atexit, json, os, sys

def tell(what, **facts):
    with open({file!r}, "a") as told:
        told.write(json.dumps({{"what": what, "argv": sys.orig_argv, **facts}}) + "\\n")

tell("started")
atexit.register(lambda: tell("ended", modules=sorted(sys.modules)))
"""


@dataclass(frozen=True)
class Seen:
    """The interpreters that one command has started.

    Attributes:
        started: The command line of each interpreter that was started.
        modules: The modules that the command's own process had imported when it exited.
    """

    started: list[str]
    modules: set[str]

    def has_loaded(self, *names: str) -> bool:
        """Whether one of several packages, or a module in it, was imported."""
        return any(
            module == name or module.startswith(f"{name}.")
            for module in self.modules
            for name in names
        )


@dataclass(frozen=True)
class Watched:
    """Eight services, each of whose migrations creates a file."""

    monorepo: Monorepo

    def watch(self, *arguments: str) -> Seen:
        """Run a command, and return the interpreters that it started."""
        file = self.monorepo.path("witness/told")
        file.unlink(missing_ok=True)
        ran = self.monorepo.invoke(*arguments)
        assert ran.code == 0, ran.out + ran.err
        events = [json.loads(line) for line in file.read_text().splitlines()]
        (modules,) = (
            event["modules"]
            for event in events
            if event["what"] == "ended" and "invoke" in event["argv"]
        )
        started = [" ".join(event["argv"]) for event in events if event["what"] == "started"]
        return Seen(started=started, modules=set(modules))

    def migrated(self) -> set[str]:
        """Return the services that were migrated since the last call."""
        found = list(self.monorepo.path("traces").iterdir())
        for trace in found:
            trace.unlink()
        return {trace.name for trace in found}


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    with new_monorepo(NAMES) as made:
        without_initdb(made)
        made.path("traces").mkdir()
        # In every run, because PYTHONPATH is an input.
        path = os.pathsep.join(
            filter(None, (str(made.path("witness")), os.environ.get("PYTHONPATH")))
        )
        made.environment["PYTHONPATH"] = path
        told = str(made.path("witness/told"))
        made.write("witness/sitecustomize.py", WITNESS.format(file=told))
        for name in NAMES:
            env = f"services/{name}_service/alembic/env.py"
            made.write(env, TRACES.format(name) + ENV_PY)
        assert {done.detail for done in resets(made).values()} == {REBUILT}
        yield Watched(made)


def test_a_reset_from_templates_starts_no_interpreter_and_imports_no_alembic(
    watched: Watched,
) -> None:
    watched.migrated()
    seen = watched.watch("db.reset", "--json")
    assert len(seen.started) == 1
    assert not seen.has_loaded("alembic", "sqlalchemy", "mako", "greenlet")
    assert not seen.has_loaded("huleedu_tasks.discovery.proposals", "huleedu_tasks.prod.target")
    assert not watched.migrated()


@pytest.mark.parametrize(
    ("command", "connections", "statements"),
    [
        ("db.up", 1, 3),
        ("db.status", 1, 7),
        ("db.reset", 1, 20),
        ("db.snapshot counted", 2, 21),
        ("db.restore counted", 2, 27),
    ],
)
def test_a_command_opens_few_connections_and_runs_few_statements(
    watched: Watched, command: str, connections: int, statements: int
) -> None:
    """The numbers are those of one server; a higher one needs a reason."""
    monorepo = watched.monorepo
    asyncio.run(log_every_statement(monorepo.url("a")))
    maintain(monorepo, "a", "ALTER SYSTEM SET log_connections = on", "SELECT pg_reload_conf()")
    before = len(monorepo.server_log("a"))
    ran = monorepo.invoke(*command.split())
    log = monorepo.server_log("a")[before:]
    assert ran.code == 0, ran.out + ran.err
    opened = re.findall(rf"connection authorized: .*application_name={TOOL}$", log, re.MULTILINE)
    executed = re.findall(rf"^{TOOL}\|LOG:  (?:statement|execute [^:]+): ", log, re.MULTILINE)
    assert (len(opened), len(executed)) == (connections, statements), log


def test_one_new_revision_starts_one_interpreter_and_migrates_one_service(
    watched: Watched,
) -> None:
    watched.migrated()
    watched.monorepo.add_revision("c", "b2", "a1", "CREATE TABLE more ()")
    seen = watched.watch("db.reset", "--json")
    command, fork_server = seen.started
    assert FORK_LOOP not in command
    assert FORK_LOOP in fork_server
    assert not seen.has_loaded("alembic", "sqlalchemy")
    assert watched.migrated() == {"c"}
    assert {done.detail for done in resets(watched.monorepo).values()} == {COPIED}
    assert not watched.migrated()


def test_a_rebuild_of_all_services_starts_one_interpreter(watched: Watched) -> None:
    watched.migrated()
    seen = watched.watch("db.reset", "--fresh")
    assert sum(FORK_LOOP in line for line in seen.started) == 1
    assert len(seen.started) == 2
    assert watched.migrated() == set(NAMES)


@pytest.mark.parametrize("command", ["db.up", "db.status", "db.url", "db.migrate"])
def test_a_command_without_migrations_starts_no_interpreter(watched: Watched, command: str) -> None:
    seen = watched.watch(command)
    assert len(seen.started) == 1
    assert not seen.has_loaded("alembic", "sqlalchemy")


def test_the_status_imports_no_code_of_other_commands(watched: Watched) -> None:
    seen = watched.watch("db.status")
    others = ("drift", "revision", "rollback", "schema_file", "snapshots", "undo")
    assert f"{PACKAGE}.db.status" in seen.modules
    assert not seen.has_loaded(*(f"{PACKAGE}.db.{name}" for name in others))
    rooms = ("check", "compose", "discovery", "env", "probe", "review", "schema")
    assert not seen.has_loaded(*(f"{PACKAGE}.{room}" for room in rooms))
    assert not seen.has_loaded(f"{PACKAGE}.migrations.hazards")
    assert not seen.has_loaded("psutil", "filelock", "rich", "yaml")


@pytest.mark.parametrize(
    "arguments", [("--list",), ("--complete", "--", "invoke", "db.")], ids=["list", "completion"]
)
def test_listing_and_completing_the_tasks_import_the_tasks_alone(
    watched: Watched, arguments: tuple[str, ...]
) -> None:
    seen = watched.watch(*arguments)
    assert {name for name in seen.modules if name.partition(".")[0] == PACKAGE} == TASK_MODULES
    assert not seen.has_loaded("asyncio", *HEAVY_LIBRARIES)


def test_db_up_does_not_wait_for_the_fork_server() -> None:
    """The fork server prepares migrations, which `db.up` does not run."""
    with new_monorepo(["alpha"]) as made:
        without_initdb(made)
        tool = made.start("db.up")
        try:
            tool.communicate(timeout=60)
        finally:
            tool.kill()
        assert tool.returncode == 0


def test_a_benchmark_runs_and_prints_its_row() -> None:
    """One round of the shortest; the times are not compared."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--rounds", "1", "--only", "list"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].split()[1] == "list"
