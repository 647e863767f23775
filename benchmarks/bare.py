"""The least work of a cold reset, done with PostgreSQL's programs and asyncpg only.

Only the seeds are loaded by the tasks' own code: they are Python, and whatever runs them would
do the same.
"""

import asyncio
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Coroutine, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import psutil

from benchmarks.children import ALEMBIC, BenchmarkError, run
from benchmarks.monorepo import (
    BETWEEN_LOOKS,
    MAINTENANCE_DATABASE,
    STOP_SIGNAL,
    STOP_TIMEOUT,
    USER,
    Monorepo,
    database_of,
    directory_of,
    free_ports,
)
from huleedu_tasks.config.registry import Service, load_registry
from huleedu_tasks.config.secret import Secret
from huleedu_tasks.config.urls import DatabaseUrl
from huleedu_tasks.postgres.connections import connection
from huleedu_tasks.process import Account
from huleedu_tasks.seeds.scripts import loading
from huleedu_tasks.servers.embedded import server_account

START_TIMEOUT = 60.0
LIBRARIES = "import alembic.config, sqlalchemy.ext.asyncio, asyncpg"
_READY = "ready"
_TRANSACTION = re.compile(r"^(BEGIN;$.*?^COMMIT;$)", re.MULTILINE | re.DOTALL)
_READY_LINE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class BareServers:
    """One server for each service of a monorepo.

    Attributes:
        programs: The directory of PostgreSQL's programs.
        account: Whom they run as, where that is not us.
        directory: Where their data lies.
        monorepo: The services to have servers for.
        sql: Each service's migrations, by its name.
        ports: Each server's port, by the service's name.
    """

    programs: Path
    account: Account | None
    directory: Path
    monorepo: Monorepo
    sql: dict[str, str]
    ports: dict[str, int]
    _running: "list[subprocess.Popen[bytes]]" = field(default_factory=list)

    def remove(self) -> None:
        """Stop the servers and remove their data."""
        for server in self._running:
            server.send_signal(STOP_SIGNAL)
        for server in self._running:
            server.wait(STOP_TIMEOUT)
        self._running.clear()
        shutil.rmtree(self.directory, ignore_errors=True)

    def renew(self) -> None:
        """Create an empty directory, and a file with the password for initdb."""
        self.remove()
        self.directory.mkdir(mode=0o700)
        self._password_file.touch(mode=0o600)
        self._password_file.write_text(self.monorepo.password, encoding="utf-8")
        if self.account:
            for path in (self.directory, self._password_file):
                os.chown(path, self.account.uid, self.account.gid)

    def initdb(self) -> None:
        """Create the data directory that is copied for each server."""
        initdb = self._spawn(
            self.programs / "initdb",
            f"--pgdata={self._template}",
            f"--username={USER}",
            f"--pwfile={self._password_file}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "--no-sync",
            "--no-instructions",
        )
        self._running.append(initdb)
        if initdb.wait(START_TIMEOUT) != 0:
            raise BenchmarkError(f"{self.programs}/initdb failed")

    def start(self) -> None:
        """Copy the data directory for each server and start it, concurrently."""
        with ThreadPoolExecutor(len(self.ports)) as pool:
            list(pool.map(self._start, self.ports.values()))

    def migrate(self) -> None:
        """Create each database and run its migrations, concurrently."""
        _at_once(self._migrate(entry) for entry in self.monorepo.entries)

    def seed(self) -> None:
        """Apply each service's seeds, concurrently."""
        services = load_registry(self.monorepo.root / "services.json").services
        _at_once(self._seed(service) for service in services)

    async def _seed(self, service: Service) -> None:
        async with connection(self._url(service.name, service.database)) as session:
            for path in service.seeds:
                if path.suffix == ".sql":
                    await session.execute(path.read_text(encoding="utf-8"))
                    continue
                with loading(path) as seed:
                    await seed(session)

    def import_libraries(self) -> None:
        """Start one interpreter that imports Alembic and its driver."""
        run([sys.executable, "-c", LIBRARIES], cwd=self.monorepo.root, environment={})

    @property
    def _template(self) -> Path:
        return self.directory / "template"

    @property
    def _password_file(self) -> Path:
        return self.directory / "password"

    def _spawn(self, *command: str | Path) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [*map(str, command)],
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            user=self.account.uid if self.account else None,
            group=self.account.gid if self.account else None,
            extra_groups=[] if self.account else None,
        )

    def _start(self, port: int) -> None:
        data = self.directory / str(port)
        subprocess.run(["cp", "-a", self._template, data], check=True)
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(port),
            "unix_socket_directories": "",
            "fsync": "off",
            "full_page_writes": "off",
        }
        options = [text for name, value in settings.items() for text in ("-c", f"{name}={value}")]
        server = self._spawn(self.programs / "postgres", "-D", data, *options)
        self._running.append(server)
        deadline = time.monotonic() + START_TIMEOUT
        while not _is_ready(data):
            if server.poll() is not None or time.monotonic() > deadline:
                raise BenchmarkError(f"{self.programs}/postgres did not start")
            time.sleep(BETWEEN_LOOKS)

    async def _migrate(self, entry: dict[str, Any]) -> None:
        login = self.monorepo.login(self.ports[entry["name"]])
        admin = await asyncpg.connect(database=MAINTENANCE_DATABASE, **login)
        await admin.execute(f'CREATE DATABASE "{database_of(entry)}"')
        await admin.close()
        inside = await asyncpg.connect(database=database_of(entry), **login)
        for statements in transactions(self.sql[entry["name"]]):
            await inside.execute(statements)
        await inside.close()

    def _url(self, name: str, database: str) -> DatabaseUrl:
        login = self.monorepo.login(self.ports[name])
        return DatabaseUrl(**{**login, "password": Secret(login["password"]), "database": database})


@contextmanager
def bare_servers(monorepo: Monorepo) -> Iterator[BareServers]:
    """Provide servers like the running ones of a monorepo; stop and remove them at the end."""
    entries = monorepo.entries
    names = [entry["name"] for entry in entries]
    servers = BareServers(
        programs=programs_of(monorepo),
        account=server_account(),
        directory=monorepo.root.parent / "bare",
        monorepo=monorepo,
        sql={entry["name"]: _migrations_as_sql(monorepo, entry) for entry in entries},
        ports=dict(zip(names, free_ports(len(names)), strict=True)),
    )
    try:
        yield servers
    finally:
        servers.remove()


def programs_of(monorepo: Monorepo) -> Path:
    """Return the directory of the programs of a monorepo's running servers."""
    file = next(monorepo.state.glob("embedded/postgresql-*/*/data/postmaster.pid"))
    server = psutil.Process(int(file.read_text().splitlines()[0]))
    return Path(server.exe()).parent


def _migrations_as_sql(monorepo: Monorepo, entry: dict[str, Any]) -> str:
    """Return the SQL that Alembic would run, including transactions."""
    login = {"HULEEDU_DB_USER": USER, "HULEEDU_DB_PASSWORD": monorepo.password}
    directory = monorepo.root / directory_of(entry)
    command = [ALEMBIC, "upgrade", "head", "--sql"]
    return run(command, cwd=directory, environment=login).out


def transactions(sql: str) -> Iterator[str]:
    """Return the scripts to send: transactions, and the statements between them."""
    for index, part in enumerate(_TRANSACTION.split(sql)):
        if index % 2:
            yield part
        else:
            yield from filter(str.strip, part.split(";\n"))


def _at_once(work: Iterable[Coroutine[Any, Any, object]]) -> None:
    async def all_of_it() -> None:
        await asyncio.gather(*work)

    asyncio.run(all_of_it())


def _is_ready(data: Path) -> bool:
    """Whether the pid file of a server says that it accepts connections (miscadmin.h)."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
    except OSError:
        return False
    return len(lines) >= _READY_LINE and lines[_READY_LINE - 1].strip() == _READY
