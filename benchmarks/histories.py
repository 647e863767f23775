"""The row about long histories of one service with nothing pending, beside other tools."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg

from benchmarks.bench import Bench
from benchmarks.measure import Side
from benchmarks.monorepo import (
    MAINTENANCE_DATABASE,
    USER,
    Monorepo,
    empty_monorepo,
    free_ports,
    register,
)
from benchmarks.table import Line, ratio
from benchmarks.tools import (
    ALEMBIC,
    DBMATE,
    LIQUIBASE,
    TOOLS,
    Login,
    Tools,
    installed_tools,
    plain,
    run_for_each,
)

LENGTHS = (100, 1000, 4400)
SERVICE = "history"
DIRECTORY = f"services/{SERVICE}_service"
# Each tool has a database of its own; that of Alembic is the service's.
DATABASES = {
    ALEMBIC.name: f"huleedu_{SERVICE}",
    DBMATE.name: "history_dbmate",
    LIQUIBASE.name: "history_liquibase",
}
FILES = {
    "alembic.ini": "[alembic]\nscript_location = alembic\npath_separator = os\n",
    "alembic/env.py": """\
import os

from alembic import context
from sqlalchemy import create_engine

url = os.environ.get("DATABASE_URL") or os.environ["HISTORY_SERVICE_DATABASE_URL"]
scheme = url.partition(":")[0]
engine = create_engine(url.replace(scheme, "postgresql+psycopg2", 1))
with engine.connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
""",
}
REVISION = """\
\"\"\"Add a table.\"\"\"

import sqlalchemy as sa
from alembic import op

revision = {revision!r}
down_revision = {parent!r}


def upgrade() -> None:
    op.create_table("{revision}", sa.Column("id", sa.Integer, primary_key=True))


def downgrade() -> None:
    op.drop_table("{revision}")
"""
TABLE = "CREATE TABLE {revision} (id integer PRIMARY KEY);\n"
DBMATE_FILE = f"-- migrate:up\n{TABLE}\n-- migrate:down\nDROP TABLE {{revision}};\n"
CHANGE_SET = f"\n--changeset benchmark:{{revision}}\n{TABLE}"


def history(bench: Bench) -> Iterator[Line]:
    """Read and migrate a database that is at the head of a long history, beside other tools."""
    tools = installed_tools(bench)
    for length in LENGTHS:
        (port,) = free_ports(1)
        with empty_monorepo(
            bench.scratch, f"history-{length}", HULEEDU_PROVIDER="embedded"
        ) as monorepo:
            _write_service(monorepo, port, length)
            monorepo.invoke("db.up")
            asyncio.run(_create_databases(monorepo.login(port), length))
            login = Login(port=port, user=USER, password=monorepo.password)
            # Marks every change set as applied.
            _runner(monorepo, login, tools, LIQUIBASE.name, SYNC)()
            yield from _lines(bench, monorepo, login, tools, length)


SYNC = LIQUIBASE.upgrade.replace("update", "changelog-sync")


def _lines(
    bench: Bench, monorepo: Monorepo, login: Login, tools: Tools, length: int
) -> Iterator[Line]:
    for command in ("db.status", "db.migrate"):
        commands = {
            tool.name: tool.status if command == "db.status" else tool.upgrade for tool in TOOLS
        }
        ours, *others = bench.measure_few(
            Side(run=lambda command=command: monorepo.invoke(command)),  # type: ignore[misc]
            *(
                Side(run=_runner(monorepo, login, tools, name, theirs))
                for name, theirs in commands.items()
            ),
        )
        for (name, theirs), timing in zip(commands.items(), others, strict=True):
            yield Line(
                row="history",
                measured=f"`invoke {command}`, {length} revisions, nothing pending",
                timing=ours,
                beside=f"{name}: `{plain(theirs)}`",
                beside_timing=timing,
                compared=ratio(ours, timing),
            )


def _runner(
    monorepo: Monorepo, login: Login, tools: Tools, name: str, command: str
) -> Callable[[], object]:
    environment = login.environment(tools)
    databases = {DIRECTORY: DATABASES[name]}
    return lambda: run_for_each(command, databases, cwd=monorepo.root, environment=environment)


def _write_service(monorepo: Monorepo, port: int, length: int) -> None:
    """Write the service, with the same history for each tool."""
    register(monorepo.root, [{"name": SERVICE, "port": port}])
    service = monorepo.root / DIRECTORY
    for directory in ("alembic/versions", "dbmate"):
        (service / directory).mkdir(parents=True)
    for file, text in FILES.items():
        (service / file).write_text(text, encoding="utf-8")
    for number in range(length):
        _write_revision(service, number)
    changes = "".join(CHANGE_SET.format(revision=_revision(n)) for n in range(length))
    text = f"--liquibase formatted sql\n{changes}"
    (service / "changelog.sql").write_text(text, encoding="utf-8")


def _write_revision(service: Path, number: int) -> None:
    revision = _revision(number)
    parent = _revision(number - 1) if number else None
    (service / f"alembic/versions/{revision}.py").write_text(
        REVISION.format(revision=revision, parent=parent), encoding="utf-8"
    )
    (service / f"dbmate/{_version(number)}_{revision}.sql").write_text(
        DBMATE_FILE.format(revision=revision), encoding="utf-8"
    )


def _revision(number: int) -> str:
    return f"r{number:05}"


def _version(number: int) -> str:
    return str(20260101000000 + number)


async def _create_databases(login: dict[str, Any], length: int) -> None:
    """Create a database for each tool, and write into it that it is at head."""
    admin = await asyncpg.connect(database=MAINTENANCE_DATABASE, **login)
    for name in (DATABASES[DBMATE.name], DATABASES[LIQUIBASE.name]):
        await admin.execute(f"CREATE DATABASE {name}")
    await admin.close()
    alembic = await asyncpg.connect(database=DATABASES[ALEMBIC.name], **login)
    await alembic.execute("CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY)")
    await alembic.execute("INSERT INTO alembic_version VALUES ($1)", _revision(length - 1))
    await alembic.close()
    dbmate = await asyncpg.connect(database=DATABASES[DBMATE.name], **login)
    await dbmate.execute("CREATE TABLE schema_migrations (version varchar(255) PRIMARY KEY)")
    await dbmate.executemany(
        "INSERT INTO schema_migrations VALUES ($1)", [(_version(n),) for n in range(length)]
    )
    await dbmate.close()
