"""Commands forked from an interpreter that has imported the package already.

A fresh interpreter spends most of a short command on imports. The server starts once per test
process; each request forks a child, which takes the caller's directory, environment and output
and then runs `python -m invoke` as a fresh interpreter would, to its real exit code.

The server itself runs as `python -P -m tests.support.fork_server DESCRIPTOR`.
"""

import asyncio
import atexit
import fcntl
import importlib
import json
import os
import pkgutil
import runpy
import socket
import subprocess
import sys
import tempfile
import termios
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from tests.support import fork_loops

PROJECT = Path(__file__).resolve().parents[2]
LARGEST_REQUEST = 1 << 20
LARGEST_REPORT = 100
OUTPUTS = ("stdout", "stderr")
# Of the arguments of `Popen._execute_child`: both ends of standard input, output and error.
FIRST_PIPE = 10
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

    def start(
        self,
        arguments: Sequence[str],
        cwd: Path,
        environment: Mapping[str, str],
        *,
        module: str = "invoke",
        has_terminal: bool = False,
        **streams: Any,
    ) -> "subprocess.Popen[str]":
        """Start `python -m MODULE ARGUMENTS`.

        Args:
            arguments: The arguments of the module.
            cwd: The working directory.
            environment: All environment variables.
            module: The name of the module.
            has_terminal: Whether standard input becomes the terminal of a new session.
            streams: stdin, stdout and stderr, as `subprocess.Popen` takes them. By default no
                input, and a pipe for each output.
        """
        request = {
            "module": module,
            "arguments": list(arguments),
            "cwd": str(cwd),
            "environment": dict(environment),
            "fork_loops": self.fork_loops,
            "has_terminal": has_terminal,
        }
        usual = {"stdin": subprocess.DEVNULL, **dict.fromkeys(OUTPUTS, subprocess.PIPE)}
        return Forked(self, request, **(usual | streams))

    def ask(self, request: Mapping[str, object], streams: Sequence[int]) -> socket.socket:
        """Ask for a process with the given streams; it is reported at the returned socket."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, self._lock:
            sent = [theirs.fileno(), *streams]
            socket.send_fds(self._requests, [json.dumps(request).encode()], sent)
        return ours


class Forked(subprocess.Popen[str]):
    """A forked command, used like a child process of this one."""

    def __init__(self, server: ForkServer, request: Mapping[str, object], **streams: Any) -> None:
        self._server = server
        self._request = request
        super().__init__(["invoke"], text=True, **streams)

    # What `Popen` does with the operating system.

    def _execute_child(self, *arguments: Any) -> None:
        pipes = arguments[FIRST_PIPE : FIRST_PIPE + 6]
        stdin, _, _, stdout, _, stderr = pipes
        self._reports = self._server.ask(self._request, (stdin, stdout, stderr))
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]
        said = self._reports.recv(LARGEST_REPORT)
        assert said, "the command was not started"
        self.pid = int(said)

    def _try_wait(self, flags: int) -> tuple[int, int]:
        try:
            said = self._reports.recv(LARGEST_REPORT, socket.MSG_DONTWAIT if flags else 0)
        except BlockingIOError:
            return 0, 0
        self._reports.close()
        return self.pid, int(said)

    def _internal_poll(self, *_: object, **__: object) -> int | None:
        if self.returncode is None:
            pid, status = self._try_wait(os.WNOHANG)
            if pid:
                self._handle_exitstatus(status)  # type: ignore[attr-defined]
        return self.returncode


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


# The server's side.


def serve(requests: socket.socket) -> None:
    """Fork a process for each request, until the client is gone; return in that process."""
    _import_everything()
    fork_loops.settle()
    children = fork_loops.Children()
    while True:
        if not children.wait_for(requests.fileno()):
            continue
        message, descriptors, _, _ = socket.recv_fds(requests, LARGEST_REQUEST, 4)
        if not message:
            # Skip the exit handlers of what was imported.
            os._exit(0)
        reply, *streams = descriptors
        request = json.loads(message)
        if children.fork(socket.socket(fileno=reply), streams, leads=request["has_terminal"]):
            requests.close()
            return _become(request)


def _become(request: dict[str, object]) -> None:
    """Set the directory, environment and descriptors that a process inherits."""
    if request["has_terminal"]:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    environment = request["environment"]
    assert isinstance(environment, dict)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(str(request["cwd"]))
    tempfile.tempdir = None
    arguments = request["arguments"]
    assert isinstance(arguments, list)
    sys.argv = [str(request["module"]), *arguments]
    # `python -m` puts the working directory first.
    sys.path[0] = os.getcwd()  # noqa: PTH109  # A string.
    importlib.invalidate_caches()
    fork_loops.use(str(request["fork_loops"]), is_possible)


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
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    except SystemExit as error:
        if not isinstance(error.code, int):
            raise
        code = error.code
    _leave(code)
