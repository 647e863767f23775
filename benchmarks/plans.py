"""The row about `invoke prod.plan` of eight services with pending revisions."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import asyncpg

from benchmarks.bench import Bench
from benchmarks.many import MIGRATE, OWNER, Production, production_server
from benchmarks.measure import Side
from benchmarks.monorepo import (
    MAINTENANCE_DATABASE,
    Monorepo,
    copy_of_this,
    database_of,
    directory_of,
)
from benchmarks.table import Line, at_most, duration, times

GOAL = 1.0
PLAN = ("prod.plan",)
REVISION = """\
\"\"\"Add a table, for a benchmark.\"\"\"

from alembic import op

revision = "benchmark1"
down_revision = "{parent}"


def upgrade() -> None:
    op.execute("CREATE TABLE benchmark (id integer PRIMARY KEY)")
    op.execute("ALTER TABLE benchmark ADD COLUMN name text")


def downgrade() -> None:
    op.execute("DROP TABLE benchmark")
"""


def plan(bench: Bench) -> Iterator[Line]:
    """Plan a revision of each service, compared with bare Invoke for each one after the first."""
    with (
        production_server(bench.scratch) as production,
        copy_of_this(bench.scratch, "plan", **production.variables) as monorepo,
    ):
        _migrate(monorepo, production)
        _add_revisions(monorepo)
        yield from _lines(bench, monorepo, "HULEEDU_DRIFT=false", drift="false")
        yield from _lines(bench, monorepo, "the schemas are compared as well", drift="true")


def _lines(bench: Bench, monorepo: Monorepo, notes: str, *, drift: str) -> Iterator[Line]:
    names = [entry["name"] for entry in monorepo.entries]

    def planning(selected: Sequence[str]) -> Side:
        services = [f"--service={name}" for name in selected]
        return Side(run=lambda: monorepo.invoke(*PLAN, *services, HULEEDU_DRIFT=drift))

    whole, one, bare = bench.measure(planning(names), planning(names[:1]), bench.bare_side())
    each = (whole.median - one.median) / (len(names) - 1)
    factor = each / bare.median
    yield Line(
        row="plan",
        measured=f"`invoke prod.plan`, {len(names)} services with a pending revision",
        timing=whole,
        beside="`invoke nothing`, one task that does nothing",
        beside_timing=bare,
        compared=f"{times(factor)} for each service after the first",
        goal=at_most(GOAL, factor),
        notes=f"{duration(one.median)} with one such service, {duration(each)} for each other one; "
        f"{notes}",
    )


def _migrate(monorepo: Monorepo, production: Production) -> None:
    """Create the databases of production, and bring them to head."""
    asyncio.run(_create([database_of(entry) for entry in monorepo.entries], production))
    monorepo.invoke(*MIGRATE)


async def _create(names: Sequence[str], production: Production) -> None:
    admin = await asyncpg.connect(database=MAINTENANCE_DATABASE, **production.administrator)
    for name in names:
        await admin.execute(f'CREATE DATABASE "{name}" OWNER {OWNER}')
    await admin.close()


def _add_revisions(monorepo: Monorepo) -> None:
    """Add a revision to each service, after its head."""
    heads = json.loads(monorepo.invoke("prod.status", "--json").out)["services"]
    for entry, state in zip(monorepo.entries, heads, strict=True):
        versions = Path(monorepo.root, directory_of(entry), "alembic/versions")
        text = REVISION.format(parent=state["head"])
        (versions / "benchmark1.py").write_text(text, encoding="utf-8")
