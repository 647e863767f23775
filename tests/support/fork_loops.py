"""The fork servers of commands, forked from a process that has imported Alembic already.

A command that runs Alembic or seeds starts `fork_loop.py`, which imports Alembic and SQLAlchemy
first: most of the time of a short command. A command of `tests.support.fork_server` gets a fork of
a process that has imported them; everything else of it is that of a new interpreter.

The server itself runs as `python tests/support/fork_loops.py FORK_LOOP DESCRIPTOR`.
"""

import asyncio
import gc
import importlib
import json
import os
import runpy
import secrets
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

LARGEST_REQUEST = 1 << 20
# Of the Linux namespace for sockets without a file.
ABSTRACT = "\0"


@dataclass(frozen=True)
class Forked:
    """A fork server, with what its user needs of `asyncio.subprocess.Process`."""

    stdin: asyncio.StreamWriter
    stdout: asyncio.StreamReader
    connection: socket.socket

    async def wait(self) -> None:
        """Wait until the process has ended."""
        with self.connection:
            await asyncio.get_running_loop().sock_recv(self.connection, 1)


def start(fork_loop: Path) -> tuple[str, subprocess.Popen[bytes]]:
    """Start the server; return its address and its process, which ends with its input."""
    address = f"huleedu-fork-loops-{os.getpid()}-{secrets.token_hex(4)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(ABSTRACT + address)
        listener.listen(64)
        process = subprocess.Popen(
            [sys.executable, __file__, fork_loop, str(listener.fileno())],
            cwd="/",
            pass_fds=[listener.fileno()],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        )
    return address, process


def use(address: str, fork_loop: Path, is_possible: Callable[[Mapping[str, str]], bool]) -> None:
    """Fork the fork servers of this process from the server at an address.

    Args:
        is_possible: Whether a fork is what a new interpreter would be in an environment.
    """
    from huleedu_tasks import process

    start_interpreter = process.talk_to

    async def talk_to(command: Sequence[str | Path], *, environment: Mapping[str, str]) -> object:
        if list(command) != [sys.executable, fork_loop] or not is_possible(environment):
            return await start_interpreter(command, environment=environment)
        return await _fork(address, environment)

    process.talk_to = talk_to  # type: ignore[assignment]  # Forks instead of executing a program.


async def _fork(address: str, environment: Mapping[str, str]) -> Forked:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.connect(ABSTRACT + address)
    ours, theirs = socket.socketpair()
    request = {"cwd": str(Path.cwd()), "environment": dict(environment)}
    with theirs:
        socket.send_fds(connection, [json.dumps(request).encode()], [theirs.fileno()])
    connection.setblocking(False)
    reader, writer = await asyncio.open_connection(sock=ours)
    return Forked(stdin=writer, stdout=reader, connection=connection)


# The server's side.


def serve(listener: socket.socket) -> None:
    """Fork a process for each connection, until standard input ends; return in that process."""
    # This directory, from which a new interpreter does not import.
    del sys.path[0]
    loop = runpy.run_path(sys.argv[1])
    for name in (loop["DRIVER"], *loop["LIBRARIES"]):
        with suppress(ImportError):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()
    # Ends of processes are not waited for.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        ready, _, _ = select.select([0, listener.fileno()], [], [])
        if 0 in ready:
            os._exit(0)
        connection, _ = listener.accept()
        with connection:
            if os.fork() == 0:
                listener.close()
                return _become(connection)


def _become(connection: socket.socket) -> None:
    """Fork the process that was asked for; the process between waits, to end the connection."""
    message, (streams,), _, _ = socket.recv_fds(connection, LARGEST_REQUEST, 1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if pid := os.fork():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.close(streams)
        os.waitpid(pid, 0)
        os._exit(0)
    connection.close()
    os.setsid()
    with Path(os.devnull).open("wb") as nothing:
        for source, target in ((streams, 0), (streams, 1), (nothing.fileno(), 2)):
            os.dup2(source, target)
    os.close(streams)
    request = json.loads(message)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["cwd"])
    sys.argv = [sys.argv[1]]
    sys.path.insert(0, str(Path(sys.argv[0]).parent))
    importlib.invalidate_caches()


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[2])))
    runpy.run_path(sys.argv[0], run_name="__main__")
    # Does not destroy the imported modules.
    os._exit(0)
