"""What is not needed for a reset is not done: counted in processes, imports and statements."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.support.instant import ANEW, COPIED, resets
from tests.support.monorepo import ENV_PY, PROJECT, Monorepo, new_monorepo
from tests.support.observe import FORK_LOOP

NAMES = tuple("abcdefgh")
# A trace in the service's own directory would be an edit of it.
TRACES = "from pathlib import Path\nPath('../../traces/{}').touch()\n"
# Python runs this whenever it starts, and says at its end what it has loaded.
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
    """What Python did in one command.

    Attributes:
        started: The command line of each interpreter that was started.
        modules: What the command itself had loaded at its end.
    """

    started: list[str]
    modules: set[str]

    def has_loaded(self, *names: str) -> bool:
        """Whether one of several packages, or something in it, was loaded."""
        return any(
            module == name or module.startswith(f"{name}.")
            for module in self.modules
            for name in names
        )


@dataclass(frozen=True)
class Watched:
    """Eight services whose migrations leave a trace."""

    monorepo: Monorepo

    def watch(self, *arguments: str) -> Seen:
        """Run a command, and see what Python does."""
        file = self.monorepo.path("witness/told")
        self.monorepo.write("witness/sitecustomize.py", WITNESS.format(file=str(file)))
        file.unlink(missing_ok=True)
        ran = self.monorepo.invoke(*arguments)
        assert ran.code == 0, ran.out + ran.err
        told = [json.loads(line) for line in file.read_text().splitlines()]
        (modules,) = (
            each["modules"] for each in told if each["what"] == "ended" and "invoke" in each["argv"]
        )
        started = [" ".join(each["argv"]) for each in told if each["what"] == "started"]
        return Seen(started=started, modules=set(modules))

    def migrated(self) -> set[str]:
        """Return the services that were migrated since this was asked last."""
        found = list(self.monorepo.path("traces").iterdir())
        for trace in found:
            trace.unlink()
        return {trace.name for trace in found}


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    with new_monorepo(NAMES) as made:
        made.path("traces").mkdir()
        # In every run, for it is an input of a migration.
        path = os.pathsep.join(
            filter(None, (str(made.path("witness")), os.environ.get("PYTHONPATH")))
        )
        made.environment["PYTHONPATH"] = path
        for name in NAMES:
            env = f"services/{name}_service/alembic/env.py"
            made.write(env, TRACES.format(name) + ENV_PY)
        assert {each.detail for each in resets(made).values()} == {ANEW}
        yield Watched(made)


def test_a_reset_by_copies_starts_no_interpreter_and_loads_no_alembic(watched: Watched) -> None:
    watched.migrated()
    seen = watched.watch("db.reset", "--json")
    assert len(seen.started) == 1
    assert not seen.has_loaded("alembic", "sqlalchemy", "mako", "greenlet")
    assert not seen.has_loaded("huleedu_tasks.discovery.proposals", "huleedu_tasks.prod.production")
    assert not watched.migrated()


def test_one_new_revision_starts_one_interpreter_and_migrates_one_service(
    watched: Watched,
) -> None:
    watched.migrated()
    watched.monorepo.add_revision("c", "b2", "a1", "CREATE TABLE more ()")
    seen = watched.watch("db.reset", "--json")
    command, nursery = seen.started
    assert FORK_LOOP not in command
    assert FORK_LOOP in nursery
    assert not seen.has_loaded("alembic", "sqlalchemy")
    assert watched.migrated() == {"c"}
    assert {each.detail for each in resets(watched.monorepo).values()} == {COPIED}
    assert not watched.migrated()


def test_all_services_anew_start_one_interpreter(watched: Watched) -> None:
    watched.migrated()
    seen = watched.watch("db.reset", "--fresh")
    assert sum(FORK_LOOP in line for line in seen.started) == 1
    assert len(seen.started) == 2
    assert watched.migrated() == set(NAMES)


@pytest.mark.parametrize("command", ["db.up", "db.status", "db.url", "db.migrate"])
def test_what_needs_no_migration_starts_no_interpreter(watched: Watched, command: str) -> None:
    seen = watched.watch(command)
    assert len(seen.started) == 1
    assert not seen.has_loaded("alembic", "sqlalchemy")


def test_a_list_of_the_tasks_loads_no_flow(watched: Watched) -> None:
    seen = watched.watch("--list")
    assert not seen.has_loaded(
        "alembic",
        "sqlalchemy",
        "asyncpg",
        "docker",
        "rich",
        "questionary",
        "huleedu_tasks.check",
        "huleedu_tasks.compose",
        "huleedu_tasks.db",
        "huleedu_tasks.discovery",
        "huleedu_tasks.prod",
        "huleedu_tasks.migrations",
        "huleedu_tasks.servers.docker",
        "huleedu_tasks.servers.embedded",
    )


def test_a_server_that_is_new_does_not_keep_up_waiting() -> None:
    """What is made ready for migrations is of no use to `db.up`."""
    with new_monorepo(["alpha"]) as made:
        tool = made.start("db.up")
        try:
            tool.communicate(timeout=60)
        finally:
            tool.kill()
        assert tool.returncode == 0


def test_the_benchmarks_measure_what_they_say() -> None:
    """One round of some rows; how long it took says nothing here."""
    rows = ("warm", "list", "revision")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--rounds", "1", "--only", *rows],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [line.split()[1] for line in done.stdout.splitlines()[-len(rows) :]] == list(rows)
    assert "at work for nlp: 1, for the other services: 0" in done.stdout
