"""Runs Alembic and seeds in processes forked from one that has imported the libraries.

Starting an interpreter and importing Alembic and SQLAlchemy takes longer than most migrations. One
fork server imports them once for all services that share our interpreter; see `fork_loop.py`.
"""

import asyncio
import itertools
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from huleedu_tasks import process
from huleedu_tasks.repository import is_file

FORK_LOOP = Path(__file__).parent / "child" / "fork_loop.py"
# Prefixes of variables that an interpreter and its libraries read only at their start.
_READ_AT_START = (
    "PYTHON",
    "LD_",
    "LC_",
    "LANG",
    "MALLOC_",
    "OPENSSL_",
    "SQLALCHEMY_",
    "DISABLE_SQLALCHEMY_",
)
# Modules of the standard library that the fork server imports and a new Alembic does not. A module
# of the service with one of these names would not be found.
EARLY_MODULES = (
    "getpass",
    "hmac",
    "queue",
    "secrets",
    "socketserver",
    "stringprep",
    "unicodedata",
)


class NotForked(Exception):
    """No process was forked: the fork server did not start, has ended, or could not fork."""


class WarmWorkers:
    """The fork server of one run, started when it is first needed, and its children.

    Args:
        environment: The environment of the fork server. Its children see it in `/proc`, beside
            their own.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._starting: asyncio.Task[asyncio.subprocess.Process] | None = None
        self._reading: asyncio.Task[None] | None = None
        self._numbers = itertools.count()
        self._workers: dict[int, _Worker] = {}

    def prepare(self, module: str = "") -> None:
        """Start importing in the fork server, before the first worker is needed.

        Args:
            module: The module that workers will run; an empty string for Alembic.
        """
        if self._starting is None:
            self._starting = asyncio.create_task(self._start(_import_request(module)))

    @staticmethod
    def can_fork(environment: Mapping[str, str], cwd: Path) -> bool:
        """Whether a forked process behaves as a new interpreter.

        Args:
            environment: The environment of the process.
            cwd: Its working directory, from which it may import.
        """
        names = {*environment, *os.environ}
        are_the_same = all(
            environment.get(name) == os.environ.get(name)
            for name in names
            if name.startswith(_READ_AT_START)
        )
        # A relative path is relative to the service's directory, not to ours.
        paths = [Path(p) for p in environment.get("PYTHONPATH", "").split(os.pathsep) if p]
        return (
            are_the_same
            and all(path.is_absolute() for path in paths)
            and not any(_has_module(path, "alembic") for path in paths)
            and not any(_has_module(p, name) for p in (cwd, *paths) for name in EARLY_MODULES)
        )

    async def run(
        self,
        arguments: Sequence[str],
        *,
        cwd: Path,
        environment: Mapping[str, str],
        timeout: float,
        module: str = "",
    ) -> process.Completed:
        """Run Alembic, or a module of this package, in a forked process until it ends.

        Args:
            arguments: The arguments of the command line.
            cwd: The working directory.
            environment: The environment of the process.
            timeout: Seconds it may take.
            module: A module whose `main` is run instead of Alembic, with our own `sys.path`; an
                empty string for Alembic.

        Raises:
            NotForked: If no process was forked.
        """
        self.prepare(module)
        assert self._starting is not None
        try:
            server = await asyncio.shield(self._starting)
        except OSError as error:
            raise NotForked(str(error)) from error
        number, worker = next(self._numbers), _Worker.create()
        timed_out = False
        with process.scratch_directory() as scratch:
            pipe = scratch / "output"
            os.mkfifo(pipe, 0o600)
            reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
            async with process.reading_from(reading, keeps=process.PRINTED) as output:
                self._send(
                    server,
                    {
                        "id": number,
                        "output": str(pipe),
                        "arguments": list(arguments),
                        "cwd": str(cwd),
                        "environment": dict(environment),
                        **_import_request(module),
                    },
                )
                self._workers[number] = worker
                try:
                    async with asyncio.timeout(timeout):
                        await asyncio.shield(worker.pid)
                        code = await asyncio.shield(worker.exit_code)
                except TimeoutError:
                    timed_out, code = True, -signal.SIGKILL
                finally:
                    await worker.end()
                await output.wait()
        return process.Completed(returncode=code, output=output.text, timed_out=timed_out)

    async def aclose(self) -> None:
        """End the running children and the fork server."""
        if self._starting is None:
            return
        with suppress(OSError, NotForked):
            server = await asyncio.shield(self._starting)
            if server.stdin:
                server.stdin.close()
            await server.wait()
        if self._reading:
            await self._reading

    async def _start(self, imports: Mapping[str, object]) -> asyncio.subprocess.Process:
        server = await process.start_server(
            [sys.executable, FORK_LOOP], environment=self._environment
        )
        self._reading = asyncio.create_task(self._read(server))
        self._send(server, imports)
        return server

    def _send(self, server: asyncio.subprocess.Process, request: Mapping[str, object]) -> None:
        if server.stdin is None or self._reading is None or self._reading.done():
            raise _server_end_error()
        server.stdin.write(json.dumps(request).encode() + b"\n")

    async def _read(self, server: asyncio.subprocess.Process) -> None:
        while server.stdout and (line := await server.stdout.readline()):
            event = json.loads(line)
            self._workers[event["id"]].handle(event)
        # The fork server has ended. This ends its children, which watch its standard input.
        if server.stdin:
            server.stdin.close()
        for worker in self._workers.values():
            worker.handle_server_end()


@dataclass(slots=True, kw_only=True)
class _Worker:
    """A requested process.

    Attributes:
        pid: Done as soon as the process is forked; `NotForked` if it was not.
        exit_code: Done as soon as it has ended.
    """

    pid: "asyncio.Future[int]"
    exit_code: "asyncio.Future[int]"

    @classmethod
    def create(cls) -> "_Worker":
        """Return a worker of which nothing is known yet."""
        loop = asyncio.get_running_loop()
        return cls(pid=loop.create_future(), exit_code=loop.create_future())

    def handle(self, event: Mapping[str, int]) -> None:
        """Take an event of the fork server."""
        if "pid" in event:
            self.pid.set_result(event["pid"])
        elif "errno" in event:
            self.pid.set_exception(NotForked(os.strerror(event["errno"])))
        elif not self.exit_code.done():
            self.exit_code.set_result(event["code"])

    def handle_server_end(self) -> None:
        """Note that the fork server has ended, and with it this process."""
        if not self.pid.done():
            self.pid.set_exception(_server_end_error())
        if not self.exit_code.done():
            self.exit_code.set_result(-signal.SIGKILL)

    async def end(self) -> None:
        """End the process group of the worker, with SIGTERM before SIGKILL."""
        if not self.pid.done():
            # A worker that cannot open its output runs nothing.
            self.pid.add_done_callback(_kill)
        elif not self.pid.exception():
            await process.end_group(self.pid.result(), self.exit_code)


def _kill(pid: "asyncio.Future[int]") -> None:
    if not pid.exception():
        with suppress(OSError):
            os.killpg(pid.result(), signal.SIGKILL)


def _server_end_error() -> NotForked:
    return NotForked("the fork server has ended")


def _has_module(directory: Path, name: str) -> bool:
    return is_file(directory / f"{name}.py") or is_file(directory / name / "__init__.py")


def _import_request(module: str) -> dict[str, object]:
    """Return the part of a request that names the module to import."""
    return {"module": module, "path": list(map(os.path.abspath, sys.path))} if module else {}
