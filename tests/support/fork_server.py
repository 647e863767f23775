"""Commands forked from an interpreter that has imported the package already.

A fresh interpreter spends most of a short command on imports. The server starts once per test
process; each request forks a child, which takes the caller's directory, environment and output
and then runs `python -m invoke` as a fresh interpreter would, to its real exit code.

The server itself runs as `python -P -m tests.support.fork_server DESCRIPTOR`.
"""

import asyncio
import atexit
import gc
import importlib
import json
import os
import pkgutil
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import NoReturn

from tests.support import fork_loops

PROJECT = Path(__file__).resolve().parents[2]
LARGEST_REQUEST = 1 << 20
CHUNK = 1 << 16
# What a command with a server, a plan or a screen imports. Modules of `migrations` that run in a
# service's own interpreter stay out, as they do in a command.
PACKAGES = (
    "check",
    "cli",
    "compose",
    "config",
    "db",
    "discovery",
    "env",
    "postgres",
    "probe",
    "prod",
    "screen",
    "seeds",
    "servers",
    "templates",
)
LIBRARIES = (
    "invoke.main",
    "asyncpg",
    "docker",
    "dotenv",
    "filelock",
    "jsonschema_rs",
    "psutil",
    "rich.live",
    "rich.table",
    "sqlglot",
    "yaml",
)
# False with `--fresh-interpreters`, and where the command line itself is tested.
is_wanted = True


class ForkServer:
    """The client's side of one server.

    Attributes:
        fork_loops: The address of the server that forks the package's scripts.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._requests.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LARGEST_REQUEST)
        self.fork_loops, self._preparing = fork_loops.start()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.fork_server", str(theirs.fileno())],
                cwd=PROJECT,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        atexit.register(self.close)

    def close(self) -> None:
        """End the server; running commands continue."""
        with self._requests, suppress(OSError):
            # A fork of the test process may keep it open.
            self._requests.shutdown(socket.SHUT_RDWR)
        self._process.wait()
        self._preparing.communicate()

    def run(
        self, arguments: Sequence[str], cwd: Path, environment: Mapping[str, str], limit: float
    ) -> tuple[int, str, str]:
        """Run `invoke ARGUMENTS` to its end; return its exit code and its two outputs.

        Raises:
            TimeoutExpired: If it takes longer than the limit, in seconds.
        """
        request = {
            "arguments": list(arguments),
            "cwd": str(cwd),
            "environment": dict(environment),
            "fork_loops": self.fork_loops,
        }
        ours, theirs = socket.socketpair()
        pipes = [os.pipe() for _ in range(2)]
        sent = [theirs.fileno(), *(write for _, write in pipes)]
        try:
            with self._lock:
                socket.send_fds(self._requests, [json.dumps(request).encode()], sent)
        finally:
            theirs.close()
            for _, write in pipes:
                os.close(write)
        with ours:
            reply, out, err = _read_all([ours.detach(), *(read for read, _ in pipes)], limit)
        pid, status = json.loads(reply)
        assert pid, "the command was not started"
        return os.waitstatus_to_exitcode(status), _text(out), _text(err)


@cache
def fork_server() -> ForkServer:
    """Return the server of this test process, and start it at its first use."""
    return ForkServer()


def is_possible(environment: Mapping[str, str]) -> bool:
    """Whether a fork is wanted, and is what a fresh interpreter would be in an environment.

    Python reads its own variables, and the C library the locale, only when it starts.
    """
    read_at_start = ("PYTHON", "LC_", "LANG", "LD_", "TZ", "MALLOC_", "OPENSSL_", "SQLALCHEMY_")
    names = {*environment, *os.environ}
    return is_wanted and all(
        environment.get(name) == os.environ.get(name)
        for name in names
        if name.startswith(read_at_start)
    )


@contextmanager
def forked_scripts() -> Iterator[None]:
    """Fork the package's scripts in this process too, during a `with` block."""
    execute = asyncio.create_subprocess_exec
    fork_loops.use(fork_server().fork_loops, is_possible)
    try:
        yield
    finally:
        asyncio.create_subprocess_exec = execute


@contextmanager
def fresh_interpreters() -> Iterator[None]:
    """Start an interpreter for each command during a `with` block."""
    global is_wanted
    before, is_wanted = is_wanted, False
    try:
        yield
    finally:
        is_wanted = before


def _read_all(descriptors: Sequence[int], limit: float) -> list[bytes]:
    """Read file descriptors until the other end of each is closed, and close them."""
    deadline = time.monotonic() + limit
    found = {descriptor: bytearray() for descriptor in descriptors}
    with selectors.DefaultSelector() as selector:
        for descriptor in descriptors:
            selector.register(descriptor, selectors.EVENT_READ)
        while selector.get_map():
            ready = selector.select(max(0, deadline - time.monotonic()))
            if not ready:
                raise subprocess.TimeoutExpired("invoke", limit)
            for key, _ in ready:
                if chunk := os.read(key.fd, CHUNK):
                    found[key.fd] += chunk
                else:
                    selector.unregister(key.fd)
    for descriptor in descriptors:
        os.close(descriptor)
    return [bytes(found[descriptor]) for descriptor in descriptors]


def _text(output: bytes) -> str:
    """Decode output as `subprocess` does with `text=True`."""
    return output.decode().replace("\r\n", "\n").replace("\r", "\n")


# The server's side.


def serve(requests: socket.socket) -> None:
    """Fork a process for each request, until the client is gone; return in that process."""
    _import_everything()
    gc.freeze()
    while True:
        message, descriptors, _, _ = socket.recv_fds(requests, LARGEST_REQUEST, 3)
        if not message:
            # Skip the exit handlers of what was imported.
            os._exit(0)
        if os.fork() == 0:
            requests.close()
            if _is_command(*descriptors):
                return _become(json.loads(message))
        for descriptor in descriptors:
            os.close(descriptor)
        _reap()


def _is_command(reply: int, out: int, err: int) -> bool:
    """Fork the command; the process between it and the server waits and returns its exit code."""
    if pid := os.fork():
        os.close(out)
        os.close(err)
        # Ctrl-C is for the command, not for the process that waits.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        _, status = os.waitpid(pid, 0)
        os.write(reply, json.dumps([pid, status]).encode())
        os._exit(0)
    os.close(reply)
    for source, target in ((out, 1), (err, 2)):
        os.dup2(source, target)
        os.close(source)
    return True


def _become(request: dict[str, object]) -> None:
    """Set the directory, environment and descriptors that a process inherits."""
    environment = request["environment"]
    assert isinstance(environment, dict)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(str(request["cwd"]))
    tempfile.tempdir = None
    signal.signal(signal.SIGINT, signal.default_int_handler)
    arguments = request["arguments"]
    assert isinstance(arguments, list)
    sys.argv = ["invoke", *arguments]
    # `python -m` puts the working directory first.
    sys.path[0] = os.getcwd()  # noqa: PTH109  # A string.
    importlib.invalidate_caches()
    fork_loops.use(str(request["fork_loops"]), is_possible)


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


def _leave(code: int) -> NoReturn:
    """End a command as Python does, but without destroying what it imported."""
    threading._shutdown()  # type: ignore[attr-defined]  # as Python itself
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _import_everything() -> None:
    for name in LIBRARIES:
        importlib.import_module(name)
    for package in PACKAGES:
        module = importlib.import_module(f"huleedu_tasks.{package}")
        for found in pkgutil.walk_packages(module.__path__, f"{module.__name__}."):
            importlib.import_module(found.name)
    # What it does when it is imported, it must do in each command.
    del sys.modules["huleedu_tasks.cli"]


if __name__ == "__main__":
    # A fresh interpreter does not have the test's directories on its path.
    with socket.socket(fileno=int(sys.argv[1])) as requests:
        serve(requests)
    # Ends as `python -m invoke` does: with its exit code, or with its traceback.
    code = 0
    try:
        runpy.run_module("invoke", run_name="__main__", alter_sys=True)
    except SystemExit as error:
        if not isinstance(error.code, int):
            raise
        code = error.code
    _leave(code)
