"""PostgreSQL for the tests: queries, logs, and servers at other addresses."""

import asyncio
import os
import re
import shlex
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg

from huleedu_tasks import process
from huleedu_tasks.servers.embedded import server_account
from tests.support.monorepo import LIMIT, Monorepo, stop_server, wait_until

TEST = "the-test"
TOOL = "huleedu-tasks"
# Stops its own server. PostgreSQL runs the program in the data directory, where the file names the
# server's process. The program ends after the backend, so that the statement never succeeds.
SHUT_DOWN = (
    "COPY (SELECT 1) TO PROGRAM "
    "'kill -QUIT $(head -n 1 postmaster.pid); tail --pid=$PPID -f /dev/null'"
)
Row = tuple[Any, ...]

_CHUNK = 65536
_STATEMENT = re.compile(
    r"^(?P<application>[^|\n]*)\|LOG:  (?:statement|execute [^:]+): (?P<sql>.*)$", re.MULTILINE
)
_CHANGE = re.compile(
    r"\s*(DROP|CREATE|ALTER|COMMENT|INSERT|UPDATE|DELETE|TRUNCATE|GRANT|REVOKE|COPY)\b", re.I
)


async def connect(url: str) -> asyncpg.Connection:
    """Connect under the name of the test, which the server's log shows."""
    return await asyncpg.connect(url, server_settings={"application_name": TEST})


async def fetch(url: str, *statements: str) -> list[Row]:
    """Run statements on a new connection, and return the rows of the last one."""
    opened = await connect(url)
    try:
        rows: list[Any] = []
        for sql in statements:
            rows = await opened.fetch(sql)
        return [tuple(row) for row in rows]
    finally:
        await opened.close()


def ask(url: str, *statements: str) -> list[Row]:
    """Run statements, from a test that is not asynchronous."""
    return asyncio.run(fetch(url, *statements))


async def log_every_statement(url: str) -> None:
    """Make a server log every statement with its client, also after restarts."""
    admin = await connect(url)
    await admin.execute("ALTER SYSTEM SET log_statement = 'all'")
    await admin.execute("ALTER SYSTEM SET log_line_prefix = '%a|'")
    await admin.execute("SELECT pg_reload_conf()")
    await wait_for(lambda: admin.fetchval("SHOW log_statement"), "all")
    await admin.close()


async def wait_for(question: Callable[[], Awaitable[Any]], answer: Any) -> None:
    """Poll until the answer is the expected one."""
    async with asyncio.timeout(LIMIT):
        while await question() != answer:  # noqa: ASYNC110  # There is no event.
            await asyncio.sleep(0.005)


def changes(log: str) -> list[str]:
    """Return the statements of a server's log that change something and are not the test's."""
    return [
        found["sql"]
        for found in _STATEMENT.finditer(log)
        if found["application"] != TEST and _CHANGE.match(found["sql"])
    ]


def start_again(*directories: Path) -> None:
    """Start the stopped servers of data directories, each as it was started last."""
    for data in directories:
        _spawn(data, *shlex.split((data / "postmaster.opts").read_text()))
    for data in directories:
        wait_until(lambda data=data: _is_ready(data))


def _is_ready(data: Path) -> bool:
    with suppress(FileNotFoundError):
        return "ready" in (data / "postmaster.pid").read_text().split()[-1:]
    return False


def _spawn(data: Path, *command: str | Path) -> None:
    process.spawn_server(
        command,
        cwd=data,
        environment={"LC_ALL": "C.UTF-8", "PATH": os.defpath},
        log=data.with_name("server.log"),
        account=server_account(),
    )


@contextmanager
def served_at(monorepo: Monorepo, name: str, address: str, port: int) -> Iterator[None]:
    """Start a monorepo's stopped server at another address."""
    (data,) = monorepo.state.glob(f"embedded/postgresql-*/{name}_db/data")
    # What it was started with last: the program, then its options.
    program = (data / "postmaster.opts").read_text().partition(" ")[0]
    options = f"-c listen_addresses={address} -c port={port} -c unix_socket_directories="
    _spawn(data, program, "-D", data, *options.split(" "))
    try:
        wait_until(lambda: is_listening(address, port))
        yield
    finally:
        stop_server(data)


@contextmanager
def proxy(port: int, target: int) -> Iterator[None]:
    """Forward a port of 127.0.0.1 to another one, like a tunnel to production."""
    with socket.create_server(("127.0.0.1", port)) as listener:
        threading.Thread(target=_forward_all, args=(listener, target), daemon=True).start()
        yield
        # Wakes `accept`, which would keep the port.
        listener.shutdown(socket.SHUT_RDWR)


def can_listen(address: str) -> bool:
    """Whether this machine has an address of IPv6."""
    try:
        socket.create_server((address, 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


def is_listening(address: str, port: int) -> bool:
    """Whether a server accepts connections at an address."""
    with suppress(OSError), socket.create_connection((address, port), timeout=1):
        return True
    return False


def forward(source: socket.socket, sink: socket.socket) -> None:
    """Send what one socket receives to another, until either is closed."""
    with suppress(OSError):
        while chunk := source.recv(_CHUNK):
            sink.sendall(chunk)
        sink.shutdown(socket.SHUT_WR)


def _forward_all(listener: socket.socket, target: int) -> None:
    with suppress(OSError):
        while True:
            client, _ = listener.accept()
            server = socket.create_connection(("127.0.0.1", target))
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=forward, args=(source, sink), daemon=True).start()
