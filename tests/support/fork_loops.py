"""The package's own child processes, forked from one that has imported Alembic already.

A command that runs Alembic or asks an `env.py` starts an interpreter, which imports Alembic and
SQLAlchemy: most of the time of a short command. Here the same scripts run in forks of a process
that has imported them; everything else of them is that of a new interpreter.

The server itself runs as `python tests/support/fork_loops.py DESCRIPTOR`.
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
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).parents[2] / "huleedu_tasks/migrations/child"
FORK_LOOP = SCRIPTS / "fork_loop.py"
LARGEST_REQUEST = 1 << 20
# Of the Linux namespace for sockets without a file.
ABSTRACT = "\0"


class Forked:
    """What the package uses of `asyncio.subprocess.Process`."""

    def __init__(
        self,
        pid: int,
        connection: socket.socket,
        streams: Mapping[int, tuple[asyncio.StreamReader, asyncio.StreamWriter]],
    ) -> None:
        self.pid = pid
        # Both of each: the connection ends with either.
        self._streams = streams
        self.stdin = streams[0][1] if 0 in streams else None
        self.stdout = streams[1][0] if 1 in streams else None
        self.returncode: int | None = None
        self._ending = asyncio.ensure_future(self._end(connection))

    async def wait(self) -> int:
        """Wait until the process has ended, and return its exit code."""
        return await asyncio.shield(self._ending)

    async def _end(self, connection: socket.socket) -> int:
        with connection:
            status = await asyncio.get_running_loop().sock_recv(connection, 100)
        self.returncode = os.waitstatus_to_exitcode(int(status))
        return self.returncode


def start() -> tuple[str, subprocess.Popen[bytes]]:
    """Start the server; return its address and its process, which ends with its input."""
    address = f"huleedu-fork-loops-{os.getpid()}-{secrets.token_hex(4)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(ABSTRACT + address)
        listener.listen(64)
        process = subprocess.Popen(
            [sys.executable, __file__, str(listener.fileno())],
            cwd="/",
            pass_fds=[listener.fileno()],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        )
    return address, process


def use(address: str, is_possible: Callable[[Mapping[str, str]], bool]) -> None:
    """Fork the package's scripts in this process from the server at an address.

    Args:
        is_possible: Whether a fork is what a new interpreter would be in an environment.
    """
    execute = asyncio.create_subprocess_exec

    async def create(program: str, *arguments: str, **options: Any) -> object:
        is_script = program == sys.executable and Path(*arguments[:1]).parent == SCRIPTS
        if is_script and is_possible(options["env"]):
            return await _fork(address, arguments, **options)
        return await execute(program, *arguments, **options)

    asyncio.create_subprocess_exec = create  # type: ignore[assignment]


async def _fork(
    address: str,
    arguments: tuple[str, ...],
    *,
    env: Mapping[str, str],
    stdin: int,
    stdout: int,
    stderr: int,
    cwd: Path | None = None,
    **_: object,
) -> Forked:
    loop = asyncio.get_running_loop()
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.connect(ABSTRACT + address)
    connection.setblocking(False)
    request = {"arguments": arguments, "cwd": str(cwd or Path.cwd()), "environment": dict(env)}
    pipes: dict[int, socket.socket] = {}
    theirs: list[int] = []
    opened: list[int] = []
    for number, stream in enumerate((stdin, stdout, stderr)):
        if stream == asyncio.subprocess.PIPE:
            pipes[number], other = socket.socketpair()
            opened.append(other.detach())
        elif stream == asyncio.subprocess.DEVNULL:
            opened.append(os.open(os.devnull, os.O_RDWR))
        theirs.append(stream if stream >= 0 else opened[-1])
    socket.send_fds(connection, [json.dumps(request).encode()], theirs)
    for descriptor in opened:
        os.close(descriptor)
    streams = {number: await asyncio.open_connection(sock=pipes[number]) for number in pipes}
    pid = int(await loop.sock_recv(connection, 100))
    return Forked(pid, connection, streams)


# The server's side.


class Children:
    """Forked processes; the pid and the end of each are sent to its own socket."""

    def __init__(self) -> None:
        # Of each, by a descriptor that can be read when it has ended.
        self._running: dict[int, tuple[int, socket.socket]] = {}

    def fork(self, reply: socket.socket, streams: Sequence[int], *, leads: bool) -> bool:
        """Fork a process with these descriptors as its first ones; return whether this is it.

        Args:
            reply: The socket to which its pid and its end are sent.
            leads: Whether it leads a session of its own, before anyone knows its pid.
        """
        if pid := os.fork():
            for descriptor in streams:
                os.close(descriptor)
            self._running[os.pidfd_open(pid)] = pid, reply
            return False
        for descriptor, (_, other) in self._running.items():
            os.close(descriptor)
            other.close()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if leads:
            os.setsid()
        with reply:
            reply.send(str(os.getpid()).encode())
        for target, source in enumerate(streams):
            os.dup2(source, target)
            os.close(source)
        return True

    def wait_for(self, *descriptors: int) -> set[int]:
        """Wait for input; return the descriptors that have some, maybe none."""
        ready, _, _ = select.select([*descriptors, *self._running], [], [])
        for descriptor in self._running.keys() & ready:
            pid, reply = self._running.pop(descriptor)
            os.close(descriptor)
            _, status = os.waitpid(pid, 0)
            with reply, suppress(OSError):
                reply.send(str(status).encode())
        return {*descriptors} & {*ready}


def settle() -> None:
    """Prepare this process, which has imported everything, for its forks."""
    # Ctrl-C is for the forked processes, which have their own handler.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.collect()
    gc.freeze()
    # Few of them live long enough for a collection to be worth its time.
    gc.set_threshold(20_000)


def serve(listener: socket.socket) -> None:
    """Fork a process for each connection, until standard input ends; return in that process."""
    # This directory, from which a new interpreter does not import.
    del sys.path[0]
    names = runpy.run_path(str(FORK_LOOP))
    for name in (names["DRIVER"], *names["LIBRARIES"]):
        with suppress(ImportError):
            importlib.import_module(name)
    settle()
    children = Children()
    while True:
        ready = children.wait_for(0, listener.fileno())
        if 0 in ready:
            os._exit(0)
        if listener.fileno() not in ready:
            continue
        connection, _ = listener.accept()
        message, streams, _, _ = socket.recv_fds(connection, LARGEST_REQUEST, 3)
        if not message:
            connection.close()
        elif children.fork(connection, streams, leads=True):
            listener.close()
            return _become(json.loads(message))


def _become(request: Mapping[str, Any]) -> None:
    """Set what a process inherits."""
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["cwd"])
    sys.argv = request["arguments"]
    sys.path.insert(0, str(SCRIPTS))
    importlib.invalidate_caches()


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
    # Each script ends its own process.
    runpy.run_path(sys.argv[0], run_name="__main__")
