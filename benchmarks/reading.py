"""The rows about read-only commands, compared with Invoke itself."""

import sys
from collections.abc import Iterator

from benchmarks.bench import Bench
from benchmarks.children import INVOKE, run
from benchmarks.measure import Side
from benchmarks.table import Line, at_most, ratio

HEAVY = ("alembic", "sqlalchemy")
START_UP = 1.2
STATUS = 1.8


def listing(bench: Bench) -> Iterator[Line]:
    """List the tasks."""
    yield _beside_bare(bench, "list", ["--list"], ["--list"], START_UP)


def completion(bench: Bench) -> Iterator[Line]:
    """Complete a task's name, like a shell when the user presses Tab."""
    arguments = ["--complete", "--", "invoke", "db."]
    yield _beside_bare(bench, "complete", arguments, arguments, START_UP)


def status(bench: Bench) -> Iterator[Line]:
    """Read the state of eight databases."""
    yield _beside_bare(bench, "status", ["db.status"], ["nothing"], STATUS)


def _beside_bare(
    bench: Bench, row: str, arguments: list[str], bare: list[str], goal: float
) -> Line:
    ours, environment = bench.embedded.root, bench.embedded.environment
    measured, least = bench.measure(
        Side(run=lambda: run([INVOKE, *arguments], cwd=ours, environment=environment)),
        bench.bare_side(*bare),
    )
    return Line(
        row=row,
        measured=f"`invoke {' '.join(arguments)}`",
        timing=measured,
        beside=f"`invoke {' '.join(bare)}`, one task that does nothing",
        beside_timing=least,
        compared=ratio(measured, least),
        goal=at_most(goal, measured.median / least.median),
        notes=_imported(bench, arguments),
    )


def _imported(bench: Bench, arguments: list[str]) -> str:
    command = [sys.executable, "-X", "importtime", INVOKE, *arguments]
    said = run(command, cwd=bench.embedded.root, environment=bench.embedded.environment).err
    names = {line.rpartition("|")[2].strip().partition(".")[0] for line in said.splitlines()}
    heavy = [name for name in HEAVY if name in names]
    return f"imports {' and '.join(heavy or ['neither Alembic nor SQLAlchemy'])}"
