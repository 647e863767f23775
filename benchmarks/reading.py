"""The rows about read-only commands, compared with Invoke itself."""

import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.children import INVOKE, run
from benchmarks.measure import Side
from benchmarks.table import Line, difference

HEAVY = ("alembic", "sqlalchemy")
TASKS = '''\
from invoke.tasks import task


@task
def nothing(_):
    """Do nothing."""
'''


def listing(bench: Bench) -> Iterator[Line]:
    """List the tasks."""
    yield _beside_bare(bench, "list", ["--list"])


def completion(bench: Bench) -> Iterator[Line]:
    """Complete a task's name, like a shell when the user presses Tab."""
    yield _beside_bare(bench, "complete", ["--complete", "--", "invoke", "db."])


def status(bench: Bench) -> Iterator[Line]:
    """Read the state of eight databases."""
    yield _beside_bare(bench, "status", ["db.status"], ["nothing"])


def _beside_bare(
    bench: Bench, row: str, arguments: list[str], bare: list[str] | None = None
) -> Line:
    bare = arguments if bare is None else bare
    ours, empty = bench.embedded.root, bare_monorepo(bench)
    environment = bench.embedded.environment
    measured, least = bench.measure(
        Side(run=lambda: run([INVOKE, *arguments], cwd=ours, environment=environment)),
        Side(run=lambda: run([INVOKE, *bare], cwd=empty, environment={})),
    )
    return Line(
        row=row,
        measured=f"`invoke {' '.join(arguments)}`",
        timing=measured,
        beside=f"`invoke {' '.join(bare)}`, one task that does nothing",
        beside_timing=least,
        compared=difference(measured, least),
        notes=_imported(bench, arguments),
    )


def _imported(bench: Bench, arguments: list[str]) -> str:
    command = [sys.executable, "-X", "importtime", INVOKE, *arguments]
    said = run(command, cwd=bench.embedded.root, environment=bench.embedded.environment).err
    names = {line.rpartition("|")[2].strip().partition(".")[0] for line in said.splitlines()}
    heavy = [name for name in HEAVY if name in names]
    return f"imports {' and '.join(heavy or ['neither Alembic nor SQLAlchemy'])}"


def bare_monorepo(bench: Bench) -> Path:
    """Return a directory with one task, and without this package."""
    directory = bench.scratch / "bare-invoke"
    directory.mkdir(exist_ok=True)
    (directory / "tasks.py").write_text(TASKS, encoding="utf-8")
    return directory
