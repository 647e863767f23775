"""The row about production with many databases on one server, all at head, beside other tools."""

import asyncio
import secrets
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg

from benchmarks.bench import Bench
from benchmarks.children import INVOKE, run
from benchmarks.measure import Side, in_turn
from benchmarks.monorepo import (
    MAINTENANCE_DATABASE,
    Monorepo,
    ask,
    database_of,
    directory_of,
    empty_monorepo,
    free_ports,
    register,
)
from benchmarks.table import Line, duration, ratio
from benchmarks.tools import (
    ALEMBIC,
    AT_ONCE,
    DBMATE,
    LIQUIBASE,
    Login,
    Tools,
    installed_tools,
    plain,
    run_for_each,
)
from huleedu_tasks.postgres.databases import EnvironmentTag, write_tag

SIZES = (8, 50, 200, 1000)
# The most databases for which a tool is run: a process for each database takes long.
PEERS = (
    (ALEMBIC, "a loop", 50),
    (ALEMBIC, "`xargs -P2`", 50),
    (DBMATE, "a loop", 1000),
    (LIQUIBASE, "a loop", 8),
)
# From these numbers of databases on, a tool is run once, and every side is.
ONE_RUN_OF_TOOLS = 50
ONE_RUN = 1000
HOST = "localhost"
OWNER = "benchmark_owner"
STATUS = ("prod.status",)
MIGRATE = ("prod.migrate", "--yes", "--host", HOST)
# The registry requires a port, which is used in development only.
FIRST_PORT = 1024
HEAD = "a1"
VERSION = "20260101000000"
BETWEEN_SAMPLES = 0.005
CONNECTIONS = (
    "SELECT count(*) FROM pg_stat_activity"
    " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
)
FILES = {
    "alembic.ini": "[alembic]\nscript_location = alembic\npath_separator = os\n",
    "alembic/env.py": """\
import os

from alembic import context
from sqlalchemy import create_engine

engine = create_engine(os.environ["DATABASE_URL"].replace("postgres://", "postgresql+psycopg2://"))
with engine.connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
""",
    f"alembic/versions/{HEAD}.py": f"revision = {HEAD!r}\ndown_revision = None\n",
    f"dbmate/{VERSION}_{HEAD}.sql": "-- migrate:up\nSELECT 1;\n",
    "changelog.sql": "--liquibase formatted sql\n\n--changeset benchmark:a1\nSELECT 1;\n",
}
AT_HEAD = (
    "CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY)",
    f"INSERT INTO alembic_version VALUES ('{HEAD}')",
    "CREATE TABLE schema_migrations (version varchar(255) PRIMARY KEY)",
    f"INSERT INTO schema_migrations VALUES ('{VERSION}')",
)


@dataclass(slots=True, kw_only=True)
class Peaks:
    """The maximum that was observed while a command ran.

    Attributes:
        connections: Sessions of clients on the server.
        memory: What the command's own process had in memory, in KiB.
    """

    connections: int = 0
    memory: int = 0

    def __str__(self) -> str:
        return f"at most {self.connections} connections and {self.memory / 1024:.0f} MiB"


@dataclass(frozen=True, slots=True, kw_only=True)
class Production:
    """One production server.

    Attributes:
        administrator: The administrator's connection arguments, for asyncpg.
        password: That of the role that owns the databases.
    """

    administrator: dict[str, Any]
    password: str

    @property
    def variables(self) -> dict[str, str]:
        """The variables that select it."""
        return {
            "HULEEDU_ENVIRONMENT": "production",
            "HULEEDU_DRIFT": "false",
            "HULEEDU_REHEARSAL": "false",
            "HULEEDU_DB_USER": OWNER,
            "HULEEDU_PROD_DB_HOST": HOST,
            "HULEEDU_PROD_DB_PORT": str(self.administrator["port"]),
            "HULEEDU_PROD_DB_PASSWORD": self.password,
            "HULEEDU_PROD_DB_SSLMODE": "disable",
        }

    @property
    def tool_login(self) -> Login:
        """How the other tools connect to it."""
        port = int(self.administrator["port"])
        return Login(port=port, user=OWNER, password=self.password)

    @property
    def owner(self) -> dict[str, Any]:
        """The owner's connection arguments, for asyncpg."""
        return {**self.administrator, "user": OWNER, "password": self.password}


def many(bench: Bench) -> Iterator[Line]:
    """Run `prod.status` and `prod.migrate` with few and with many databases, beside other tools."""
    tools = installed_tools(bench)
    names = [f"service{number:03}" for number in range(max(SIZES))]
    with production_server(bench.scratch) as production:
        asyncio.run(_populate(production, names, tools))
        for size in SIZES:
            with _monorepo(bench.scratch, names[:size], production) as monorepo:
                yield from _lines(bench, monorepo, production, tools)


def _lines(
    bench: Bench, monorepo: Monorepo, production: Production, tools: Tools
) -> Iterator[Line]:
    size = len(monorepo.entries)
    commands = (STATUS, MIGRATE)
    peers = [peer for peer in PEERS if size <= peer[2]]
    ours = [Side(run=_runner(monorepo, command)) for command in commands]
    theirs = [
        Side(run=_peer(monorepo, production, tools, tool.upgrade, AT_ONCE[how]))
        for tool, how, _ in peers
    ]
    if size < ONE_RUN_OF_TOOLS:
        timings = bench.measure_few(*ours, *theirs)
    elif size < ONE_RUN:
        timings = (*bench.measure_few(*ours), *in_turn(1, *theirs, warm_up=False))
    else:
        timings = in_turn(1, *ours, *theirs, warm_up=False)
    for command, timing in zip(commands, timings, strict=False):
        peaks = _peaks(monorepo, command, production)
        yield Line(
            row="many",
            measured=f"`invoke {' '.join(command)}`, {size} databases at head",
            timing=timing,
            compared=f"{duration(timing.median / size)} per database",
            notes=str(peaks),
        )
    migrate, *others = timings[1:]
    for (tool, how, _), timing in zip(peers, others, strict=True):
        yield Line(
            row="many",
            measured=f"`invoke prod.migrate`, {size} databases at head",
            timing=migrate,
            beside=f"{tool.name}: {how} of `{plain(tool.upgrade)}`",
            beside_timing=timing,
            compared=ratio(migrate, timing),
            notes=f"{duration(timing.median / size)} per database with {tool.name}",
        )


def _peer(
    monorepo: Monorepo, production: Production, tools: Tools, command: str, at_once: int
) -> Callable[[], object]:
    databases = {directory_of(entry): database_of(entry) for entry in monorepo.entries}
    environment = production.tool_login.environment(tools)
    return lambda: run_for_each(
        command, databases, at_once=at_once, cwd=monorepo.root, environment=environment
    )


def _runner(monorepo: Monorepo, command: tuple[str, ...]) -> Callable[[], object]:
    return lambda: monorepo.invoke(*command)


def _peaks(monorepo: Monorepo, command: tuple[str, ...], production: Production) -> Peaks:
    """Run a command again, and poll the connections and the memory that it uses."""
    peaks = Peaks()
    over = threading.Event()
    watchers: list[threading.Thread] = []

    def watch(process: int) -> None:
        looking = _look(process, peaks, over, production.administrator)
        watchers.append(threading.Thread(target=asyncio.run, args=[looking]))
        watchers[0].start()

    try:
        run(
            [INVOKE, *command],
            cwd=monorepo.root,
            environment=monorepo.environment,
            on_start=watch,
        )
    finally:
        over.set()
        for watcher in watchers:
            watcher.join()
    return peaks


async def _look(process: int, peaks: Peaks, over: threading.Event, login: dict[str, Any]) -> None:
    server = await asyncpg.connect(database=MAINTENANCE_DATABASE, **login)
    while not over.is_set():
        peaks.connections = max(peaks.connections, await server.fetchval(CONNECTIONS))
        peaks.memory = max(peaks.memory, _peak_memory(process))
        await asyncio.sleep(BETWEEN_SAMPLES)
    await server.close()


def _peak_memory(process: int) -> int:
    """Return the peak memory of a process in KiB; 0 if it is not known."""
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)


@contextmanager
def production_server(scratch: Path) -> Iterator[Production]:
    """Provide a server with a role that owns databases and is not a superuser."""
    with empty_monorepo(scratch, "server", HULEEDU_PROVIDER="embedded") as monorepo:
        (port,) = free_ports(1)
        _add_services(monorepo.root, {"server": port})
        monorepo.invoke("db.up")
        production = Production(administrator=monorepo.login(port), password=secrets.token_hex())
        role = f"CREATE ROLE {OWNER} LOGIN PASSWORD '{production.password}'"
        ask(production.administrator, role)
        yield production


async def _populate(production: Production, names: list[str], tools: Tools) -> None:
    """Create the databases, each at head for every tool."""
    first, *others = (f"huleedu_{name}" for name in names)
    admin = await asyncpg.connect(database=MAINTENANCE_DATABASE, **production.administrator)
    await admin.execute(f"CREATE DATABASE {first} OWNER {OWNER}")
    inside = await asyncpg.connect(database=first, **production.owner)
    for statement in AT_HEAD:
        await inside.execute(statement)
    await inside.close()
    _update_with_liquibase(production, first, tools)
    for name in others:
        await admin.execute(
            f"CREATE DATABASE {name} OWNER {OWNER} TEMPLATE {first} STRATEGY file_copy"
        )
    for name in (first, *others):
        await write_tag(admin, name, EnvironmentTag(environment="production"))
    await admin.close()


def _update_with_liquibase(production: Production, database: str, tools: Tools) -> None:
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "changelog.sql").write_text(FILES["changelog.sql"], encoding="utf-8")
        run_for_each(
            LIQUIBASE.upgrade,
            {".": database},
            cwd=Path(directory),
            environment=production.tool_login.environment(tools),
        )


@contextmanager
def _monorepo(scratch: Path, names: list[str], production: Production) -> Iterator[Monorepo]:
    """Provide a monorepo of small services for this production."""
    with empty_monorepo(scratch, "many", **production.variables) as monorepo:
        _add_services(monorepo.root, {n: FIRST_PORT + i for i, n in enumerate(names)})
        yield monorepo


def _add_services(root: Path, ports: dict[str, int]) -> None:
    register(root, [{"name": name, "port": port} for name, port in ports.items()])
    for name in ports:
        for file, text in FILES.items():
            path = root / f"services/{name}_service" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
