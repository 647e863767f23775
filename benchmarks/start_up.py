"""The rows about the start of each tool, and about empty databases, beside other tools."""

import asyncio
from collections.abc import Callable, Iterator, Mapping

import asyncpg

from benchmarks.bench import Bench
from benchmarks.children import INVOKE, run
from benchmarks.measure import Side
from benchmarks.monorepo import (
    MAINTENANCE_DATABASE,
    USER,
    Monorepo,
    copy_of_this,
    database_of,
    directory_of,
)
from benchmarks.table import Line, ratio
from benchmarks.tools import ALEMBIC, AT_ONCE, Tools, installed_tools, run_for_each

OURS = "`invoke --list`"
# Commands that do nothing but start; Liquibase starts Java.
EMPTY = {
    "Alembic": "alembic --version",
    "dbmate": "dbmate --version",
    "Liquibase": "liquibase --version",
    "DSLR": "{programs}/dslr --help",
    "pytest with pytest-postgresql": "{programs}/pytest --version",
}


def start_up(bench: Bench) -> Iterator[Line]:
    """Start each tool without work, apart from all other rows."""
    tools, monorepo = installed_tools(bench), bench.embedded
    commands = {
        name: command.format(programs=tools.programs).split() for name, command in EMPTY.items()
    }
    ours, bare, *others = bench.measure(
        Side(
            run=lambda: run([INVOKE, "--list"], cwd=monorepo.root, environment=monorepo.environment)
        ),
        bench.bare_side(),
        *(Side(run=_starter(bench, tools, command)) for command in commands.values()),
    )
    sides = {"Invoke": "invoke nothing", **{n: c.split("/")[-1] for n, c in EMPTY.items()}}
    for (name, command), timing in zip(sides.items(), (bare, *others), strict=True):
        yield Line(
            row="start-up",
            measured=OURS,
            timing=ours,
            beside=f"{name}: `{command}`",
            beside_timing=timing,
            compared=ratio(ours, timing),
        )


def upgrade(bench: Bench) -> Iterator[Line]:
    """Migrate eight empty databases to head, beside one process of Alembic for each."""
    tools = installed_tools(bench)
    with copy_of_this(bench.scratch, "upgrade", HULEEDU_PROVIDER="embedded") as monorepo:
        monorepo.invoke("db.up")

        def empty() -> None:
            asyncio.run(_empty_databases(monorepo))

        ours, *others = bench.measure_few(
            Side(run=lambda: monorepo.invoke("db.migrate"), prepare=empty),
            *(
                Side(run=_alembic(monorepo, tools, at_once), prepare=empty)
                for at_once in AT_ONCE.values()
            ),
        )
        count = len(monorepo.entries)
    for how, timing in zip(AT_ONCE, others, strict=True):
        yield Line(
            row="upgrade",
            measured=f"`invoke db.migrate`, {count} empty databases",
            timing=ours,
            beside=f"Alembic: {how} of `{ALEMBIC.upgrade}`",
            beside_timing=timing,
            compared=ratio(ours, timing),
        )


def _starter(bench: Bench, tools: Tools, command: list[str]) -> Callable[[], object]:
    return lambda: run(["env", *command], cwd=bench.bare, environment={"PATH": tools.path})


def _alembic(monorepo: Monorepo, tools: Tools, at_once: int) -> Callable[[], object]:
    databases: Mapping[str, str] = {
        directory_of(entry): database_of(entry) for entry in monorepo.entries
    }
    environment = {
        "PATH": tools.path,
        "HULEEDU_DB_USER": USER,
        "HULEEDU_DB_PASSWORD": monorepo.password,
    }
    return lambda: run_for_each(
        ALEMBIC.upgrade, databases, at_once=at_once, cwd=monorepo.root, environment=environment
    )


async def _empty_databases(monorepo: Monorepo) -> None:
    for entry in monorepo.entries:
        admin = await asyncpg.connect(
            database=MAINTENANCE_DATABASE, **monorepo.login(entry["port"])
        )
        await admin.execute(f'DROP DATABASE IF EXISTS "{database_of(entry)}" WITH (FORCE)')
        await admin.execute(f'CREATE DATABASE "{database_of(entry)}"')
        await admin.close()
