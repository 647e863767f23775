"""Monorepos for the measurements: copies in a scratch directory, with free ports.

A copy's servers are its own. They are stopped, and the copy removed, however the run ends.
"""

import asyncio
import json
import random
import secrets
import shutil
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import psutil

from benchmarks.children import INVOKE, Ended, run

PROJECT = Path(__file__).resolve().parents[1]
COMPOSE_FILE = "docker-compose.infrastructure.yml"
USER = "huleedu_user"
MAINTENANCE_DATABASE = "postgres"
TASKS = "from huleedu_tasks.cli import namespace\n"
# Below the ephemeral ports, which any client might use in the meantime.
PORTS = range(15000, 30000)
# Immediate shutdown: the data is removed.
STOP_SIGNAL = signal.SIGQUIT
STOP_TIMEOUT = 30.0
BETWEEN_LOOKS = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class Monorepo:
    """A monorepo in a scratch directory.

    Attributes:
        root: Where `tasks.py` and `services.json` lie.
        state: Where the embedded servers are.
        password: That of the development databases.
        environment: What is set for its commands.
    """

    root: Path
    state: Path
    password: str = field(repr=False)
    environment: dict[str, str]

    @property
    def entries(self) -> list[dict[str, Any]]:
        """The services, as the registry has them."""
        text = (self.root / "services.json").read_text(encoding="utf-8")
        entries: list[dict[str, Any]] = json.loads(text)["services"]
        return entries

    def invoke(self, *arguments: str, **variables: str) -> Ended:
        """Run `invoke ARGUMENTS` to its end.

        Raises:
            BenchmarkError: If it fails.
        """
        return run([INVOKE, *arguments], cwd=self.root, environment=self.environment | variables)

    def reset(self) -> Ended:
        """Run `invoke db.reset`."""
        return self.invoke("db.reset")

    def login(self, port: int) -> dict[str, Any]:
        """Return the arguments to connect to a server, for asyncpg."""
        return {"host": "localhost", "port": port, "user": USER, "password": self.password}

    def stop(self) -> None:
        """Stop the embedded servers."""
        for file in self.state.glob("embedded/postgresql-*/*/data/postmaster.pid"):
            _stop_server(file)

    def remove_servers(self) -> None:
        """Stop the embedded servers and remove their data and templates."""
        self.stop()
        shutil.rmtree(self.state, ignore_errors=True)


def database_of(entry: dict[str, Any]) -> str:
    """Return the name of a service's database."""
    return str(entry.get("database", f"huleedu_{entry['name']}"))


def directory_of(entry: dict[str, Any]) -> str:
    """Return a service's directory, relative to the monorepo."""
    return str(entry.get("directory", f"services/{entry['name']}_service"))


def ask(login: dict[str, Any], sql: str, *arguments: object) -> Any:
    """Ask a server for one value, in the maintenance database if the login names no other."""

    async def asked() -> Any:
        connection = await asyncpg.connect(**{"database": MAINTENANCE_DATABASE, **login})
        try:
            return await connection.fetchval(sql, *arguments)
        finally:
            await connection.close()

    return asyncio.run(asked())


def free_ports(count: int) -> list[int]:
    """Return free ports, all different."""
    found: list[int] = []
    for port in random.sample(PORTS, len(PORTS)):
        if _is_free(port):
            found.append(port)
        if len(found) == count:
            break
    return found


@contextmanager
def empty_monorepo(scratch: Path, name: str, **environment: str) -> Iterator[Monorepo]:
    """Make a monorepo without services; stop its servers and remove it at the end."""
    directory = scratch / name
    monorepo = Monorepo(
        root=directory / "monorepo",
        state=directory / "state",
        password=secrets.token_hex(),
        environment={"HULEEDU_STATE_DIR": str(directory / "state"), **environment},
    )
    try:
        monorepo.root.mkdir(parents=True)
        (monorepo.root / "tasks.py").write_text(TASKS, encoding="utf-8")
        _write_env(monorepo)
        yield monorepo
    finally:
        monorepo.remove_servers()
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def copy_of_this(scratch: Path, name: str, **environment: str) -> Iterator[Monorepo]:
    """Copy this repository's services, seeds and compose file, on other ports."""
    with empty_monorepo(scratch, name, **environment) as monorepo:
        ignored = shutil.ignore_patterns("__pycache__", ".*")
        for directory in ("services", "database"):
            shutil.copytree(PROJECT / directory, monorepo.root / directory, ignore=ignored)
        for file in ("services.json", COMPOSE_FILE):
            shutil.copy(PROJECT / file, monorepo.root)
        _move_ports(monorepo)
        yield monorepo


def register(root: Path, entries: Sequence[dict[str, Any]], **more: object) -> None:
    """Write the registry."""
    text = json.dumps({**more, "services": entries}, indent=2)
    (root / "services.json").write_text(text, encoding="utf-8")


def _move_ports(monorepo: Monorepo) -> None:
    """Replace the port of each service in every file."""
    entries = monorepo.entries
    compose = monorepo.root / COMPOSE_FILE
    for entry, port in zip(entries, free_ports(len(entries)), strict=True):
        _replace(compose, f"127.0.0.1:{entry['port']}:", f"127.0.0.1:{port}:")
        config = monorepo.root / directory_of(entry) / "config.py"
        _replace(config, f"port={entry['port']}", f"port={port}")
        entry["port"] = port
    register(monorepo.root, entries, compose_files=[COMPOSE_FILE])


def _replace(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{path} does not say {old!r} once"
    path.write_text(text.replace(old, new), encoding="utf-8")


def _write_env(monorepo: Monorepo) -> None:
    path = monorepo.root / ".env"
    path.touch(mode=0o600)
    path.write_text(
        f"HULEEDU_DB_USER={USER}\nHULEEDU_DB_PASSWORD={monorepo.password}\n", encoding="utf-8"
    )


def _is_free(port: int) -> bool:
    with socket.socket() as tried, suppress(OSError):
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        tried.bind(("", port))
        return True
    return False


def _stop_server(pid_file: Path) -> None:
    """Stop the server of a data directory, but no other process with the same pid."""
    with suppress(OSError, IndexError, ValueError, psutil.Error):
        server = psutil.Process(int(pid_file.read_text().splitlines()[0]))
        if str(pid_file.parent) in server.cmdline():
            server.send_signal(STOP_SIGNAL)
            _wait_for_end(server)


def _wait_for_end(server: psutil.Process) -> None:
    """Wait until a process has ended; a zombie has ended."""
    deadline = time.monotonic() + STOP_TIMEOUT
    while server.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(BETWEEN_LOOKS)
