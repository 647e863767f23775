"""The row about production with many databases on one server, all at head."""

import asyncio
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg

from benchmarks.bench import Bench
from benchmarks.children import INVOKE, run
from benchmarks.measure import Side, Timing
from benchmarks.monorepo import (
    MAINTENANCE_DATABASE,
    Monorepo,
    empty_monorepo,
    free_ports,
    register,
)
from benchmarks.table import Line, duration
from huleedu_tasks.postgres.databases import EnvironmentTag, write_tag

SIZES = (8, 50, 200)
HOST = "localhost"
OWNER = "benchmark_owner"
STATUS = ("prod.status",)
MIGRATE = ("prod.migrate", "--yes", "--host", HOST)
# The registry requires a port, which is used in development only.
FIRST_PORT = 1024
HEAD = "a1"
BETWEEN_SAMPLES = 0.005
CONNECTIONS = (
    "SELECT count(*) FROM pg_stat_activity"
    " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
)
FILES = {
    "alembic.ini": "[alembic]\nscript_location = alembic\npath_separator = os\n",
    "alembic/env.py": "raise RuntimeError('there is nothing to migrate')\n",
    f"alembic/versions/{HEAD}.py": f"revision = {HEAD!r}\ndown_revision = None\n",
}
AT_HEAD = (
    "CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY)",
    f"INSERT INTO alembic_version VALUES ('{HEAD}')",
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


def many(bench: Bench) -> Iterator[Line]:
    """Run `prod.status` and `prod.migrate` with few and with many databases."""
    names = [f"service{number:03}" for number in range(max(SIZES))]
    with _production(bench.scratch, names) as production:
        for size in SIZES:
            with _monorepo(bench.scratch, names[:size], production) as monorepo:
                yield from _lines(bench, monorepo, production, size)


def _lines(bench: Bench, monorepo: Monorepo, production: Production, size: int) -> Iterator[Line]:
    commands = (STATUS, MIGRATE)
    timings = bench.measure(*(Side(run=_runner(monorepo, command)) for command in commands))
    for command, timing in zip(commands, timings, strict=True):
        peaks = _peaks(monorepo, command, production)
        yield _line(size, command, timing, peaks)


def _line(size: int, command: tuple[str, ...], timing: Timing, peaks: Peaks) -> Line:
    return Line(
        row="many",
        measured=f"`invoke {' '.join(command)}`, {size} databases at head",
        timing=timing,
        compared=f"{duration(timing.median / size)} per database",
        notes=str(peaks),
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
def _production(scratch: Path, names: list[str]) -> Iterator[Production]:
    """Provide a server with databases at head, whose owner is not a superuser."""
    with empty_monorepo(scratch, "server", HULEEDU_PROVIDER="embedded") as monorepo:
        (port,) = free_ports(1)
        _add_services(monorepo.root, {"server": port})
        monorepo.invoke("db.up")
        production = Production(administrator=monorepo.login(port), password=secrets.token_hex())
        asyncio.run(_populate(production, names))
        yield production


async def _populate(production: Production, names: list[str]) -> None:
    login = production.administrator
    first, *others = (f"huleedu_{name}" for name in names)
    admin = await asyncpg.connect(database=MAINTENANCE_DATABASE, **login)
    await admin.execute(f"CREATE ROLE {OWNER} LOGIN PASSWORD '{production.password}'")
    await admin.execute(f"CREATE DATABASE {first} OWNER {OWNER}")
    inside = await asyncpg.connect(
        database=first, **{**login, "user": OWNER, "password": production.password}
    )
    for statement in AT_HEAD:
        await inside.execute(statement)
    await inside.close()
    for name in others:
        await admin.execute(f"CREATE DATABASE {name} OWNER {OWNER} TEMPLATE {first}")
    for name in (first, *others):
        await write_tag(admin, name, EnvironmentTag(environment="production"))
    await admin.close()


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
