"""The rows about a monorepo of strangers: thirteen services with the conventions of several teams.

The tests write it, from `tests/support/strangers`.
"""

import asyncio
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import asyncpg
import psutil

from benchmarks.bench import Bench
from benchmarks.children import INVOKE, run
from benchmarks.measure import Cost, Side
from benchmarks.monorepo import MAINTENANCE_DATABASE
from benchmarks.table import Line, at_most, duration, times
from tests.support.monorepo import USER
from tests.support.strangers.combinations import thirteen
from tests.support.strangers.switches import Stranger
from tests.support.strangers.writing import Strangers, strangers

CHECK = 3.0
FIRST_RESET = 1.3
# Runs env.py with everything it imports, up to its first connection.
IMPORT = """\
import sys

from alembic.config import main
from sqlalchemy import Engine


def connect(*_, **__):
    sys.exit(0)


Engine.connect = connect
main(["current"] if len(sys.argv) == 1 else ["-c", sys.argv[1], "current"])
"""
UPGRADE = """\
import sys

from alembic.config import main

main(["upgrade", "head"] if len(sys.argv) == 1 else ["-c", sys.argv[1], "upgrade", "head"])
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Monorepo:
    """The thirteen services, and the commands in them."""

    written: Strangers

    @property
    def services(self) -> tuple[Stranger, ...]:
        """The services."""
        return self.written.repository.services

    def invoke(self, *arguments: str) -> str:
        """Run `invoke ARGUMENTS` in a process of its own, and return what it prints."""
        monorepo = self.written.monorepo
        command = [INVOKE, *arguments]
        return run(command, cwd=monorepo.root, environment=monorepo.environment).out

    def run_each(self, code: str) -> None:
        """Run Python code in each service, one after the other, in its own interpreter."""
        for service in self.services:
            directory = self.written.monorepo.root / service.directory
            own = directory / ".venv/bin/python"
            python = str(own) if own.exists() else sys.executable
            config = [service.alembic_file] if "/" in service.alembic_file else []
            run(
                [python, "-P", "-c", code, *config], cwd=directory, environment=self._login(service)
            )

    def remove_state(self) -> None:
        """Stop the servers and remove all that an earlier run left."""
        self.written.monorepo.stop_servers()
        shutil.rmtree(self.written.monorepo.state, ignore_errors=True)

    def empty_databases(self) -> None:
        """Replace each database by an empty one."""
        asyncio.run(self._empty_databases())

    async def _empty_databases(self) -> None:
        for service in self.services:
            url = self.written.url(service, MAINTENANCE_DATABASE)
            connection = await asyncpg.connect(url)
            await connection.execute(f'DROP DATABASE "{service.database}" WITH (FORCE)')
            await connection.execute(f'CREATE DATABASE "{service.database}"')
            await connection.close()

    def servers_time(self) -> float:
        """Return the processor time of all servers."""
        return sum(map(_server_time, self.written.monorepo.data_directories()))

    def _login(self, service: Stranger) -> dict[str, str]:
        repository = self.written.repository
        port, password = repository.port(service), repository.password
        return {
            **self.written.monorepo.environment,
            "HULEEDU_DB_USER": USER,
            "HULEEDU_DB_PASSWORD": password,
            "PGPASSWORD": password,
            service.url_variable: (
                f"{service.url_scheme}://{USER}@localhost:{port}/{service.database}"
            ),
        }


def check(bench: Bench) -> Iterator[Line]:
    """Check thirteen services, compared with one import of each one's settings and env.py."""
    with _monorepo() as monorepo:
        # Answers are kept only where a state directory exists.
        monorepo.written.monorepo.state.mkdir(parents=True, exist_ok=True)
        monorepo.invoke("services.check")
        fresh, unchanged, imports = bench.costs(
            Side(run=lambda: monorepo.invoke("services.check", "--fresh")),
            Side(run=lambda: monorepo.invoke("services.check")),
            Side(run=lambda: monorepo.run_each(IMPORT)),
            warm_up=False,
        )
    beside = "one import of each service's settings and env.py, one after the other"
    yield _line("check", "`invoke services.check --fresh`", fresh, beside, imports, CHECK)
    yield _line("check", "`invoke services.check`, nothing changed", unchanged, beside, imports)


def first_reset(bench: Bench) -> Iterator[Line]:
    """Reset the databases of thirteen services for the first time, compared with Alembic's part."""
    with _monorepo(is_heavy=True) as monorepo:
        reset, upgrades = bench.costs(
            Side(
                run=lambda: monorepo.invoke("db.reset"),
                prepare=monorepo.remove_state,
                elsewhere=monorepo.servers_time,
            ),
            Side(
                run=lambda: monorepo.run_each(UPGRADE),
                prepare=monorepo.empty_databases,
                elsewhere=monorepo.servers_time,
            ),
            warm_up=False,
        )
    beside = "`alembic upgrade head` of each service in its own interpreter, one after the other"
    yield _line("first-reset", "the first `invoke db.reset`", reset, beside, upgrades, FIRST_RESET)


def _line(
    row: str, measured: str, cost: Cost, beside: str, other: Cost, bound: float | None = None
) -> Line:
    """Return a line that compares processor times."""
    factor = cost.processor.median / other.processor.median
    return Line(
        row=row,
        measured=f"{measured}: processor time",
        timing=cost.processor,
        beside=f"{beside}: processor time",
        beside_timing=other.processor,
        compared=times(factor),
        goal=at_most(bound, factor) if bound else "",
        notes=f"takes {duration(cost.wall.median)}, beside it {duration(other.wall.median)}",
    )


@contextmanager
def _monorepo(*, is_heavy: bool = False) -> Iterator[Monorepo]:
    """Provide the thirteen services, with heavy imports in each if wanted."""
    repository = thirteen()
    if is_heavy:
        services = tuple(replace(service, is_heavy=True) for service in repository.services)
        repository = replace(repository, services=services)
    with strangers(repository) as written:
        yield Monorepo(written=written)


def _server_time(data: Path) -> float:
    """Return the processor time of a server and its processes; 0 if it does not run."""
    try:
        pid = int((data / "postmaster.pid").read_text(encoding="utf-8").splitlines()[0])
        server = psutil.Process(pid)
        ended = sum(server.cpu_times()[:4])
        return ended + sum(sum(child.cpu_times()[:2]) for child in server.children())
    except (OSError, ValueError, IndexError, psutil.Error):
        return 0.0
