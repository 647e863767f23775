"""Imports Alembic once, and forks a process for each requested run of Alembic or of seeds.

It is started by its path, like `worker.py`, and so has the same paths and flags as a worker.
Requests are lines of JSON on standard input, events are lines of JSON on standard output. When
standard input is closed, all processes end.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import select
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

HERE = os.path.dirname(os.path.abspath(__file__))
# The driver of seeds, imported before the first request.
DRIVER = "asyncpg"
# Modules of this directory that each run of Alembic uses.
OWN_MODULES = ("input_tracker", "pinned_inputs", "target_check")
# Libraries that env.py files import; missing ones are skipped.
LIBRARIES = (
    "alembic.config",
    "alembic.runtime.environment",
    "alembic.autogenerate",
    "logging.config",
    "sqlalchemy.ext.asyncio",
    "sqlalchemy.orm",
    "sqlalchemy.dialects.postgresql.asyncpg",
)


def main() -> None:
    """Fork a child for each request until standard input is closed."""
    worker = runpy.run_path(os.path.join(HERE, "worker.py"))
    events = os.dup(1)
    # Output of libraries must not appear among the events.
    os.dup2(2, 1)
    with worker["outside_of_service"]():
        _import_libraries([DRIVER])
    ForkLoop(worker, events).serve()
    worker["end_process"](0)


class ForkLoop:
    """Forks children, and reports their process ids and exit codes.

    Args:
        worker: The namespace of `worker.py`.
        events: The file descriptor that receives the events.
    """

    def __init__(self, worker: dict[str, Any], events: int) -> None:
        self._worker = worker
        self._events = events
        self._children: dict[int, int] = {}
        self._has_libraries = False
        self._wakeup_reader, self._wakeup_writer = os.pipe()
        os.set_blocking(self._wakeup_writer, False)

    def serve(self) -> None:
        """Handle requests, and report exit codes, until standard input is closed."""
        signal.set_wakeup_fd(self._wakeup_writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        unread = b""
        while True:
            ready, _, _ = select.select([0, self._wakeup_reader], [], [])
            if self._wakeup_reader in ready:
                os.read(self._wakeup_reader, 4096)
                self._report_exit_codes()
            if 0 in ready:
                chunk = os.read(0, 65536)
                if not chunk:
                    self._kill_all()
                    return
                *lines, unread = (unread + chunk).split(b"\n")
                for line in lines:
                    self._handle(json.loads(line))

    def _handle(self, request: dict[str, Any]) -> None:
        """Import the modules of a request, and fork if the request has an id."""
        if module := request.get("module"):
            _import_from(request["path"], module)
        elif not self._has_libraries:
            self._has_libraries = True
            with self._worker["outside_of_service"]():
                _import_libraries(LIBRARIES)
                self._prepare_worker()
        if "id" in request:
            self._fork(request)

    def _prepare_worker(self) -> None:
        """Do what each run of Alembic would begin with."""
        for name in OWN_MODULES:
            self._worker["load_beside"](name)
        with suppress(ImportError):
            self._worker["command_line"]()

    def _fork(self, request: dict[str, Any]) -> None:
        # The garbage collector must not touch pages that the child shares.
        gc.freeze()
        try:
            child = os.fork()
        except OSError as error:
            # Other children run on.
            self._report(id=request["id"], errno=error.errno)
            return
        if not child:
            self._worker["end_process"](self._exit_code_in_child(request))
        # The child does the same, so that it is done before its id is reported.
        with suppress(OSError):
            os.setpgid(child, child)
        self._children[child] = request["id"]
        self._report(id=request["id"], pid=child)

    def _exit_code_in_child(self, request: dict[str, Any]) -> Any:
        """Run the request in a forked child, in the state of a new process."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        with suppress(OSError):
            os.setpgid(0, 0)
        # A process that the child leaves behind must not keep the pipe of events open.
        for file in (self._events, self._wakeup_reader, self._wakeup_writer):
            os.close(file)
        self._worker["end_with_parent"]()
        _redirect_output(request["output"])
        os.chdir(request["cwd"])
        os.environ.clear()
        os.environ.update(request["environment"])
        time.tzset()
        if module := request.get("module"):
            sys.path[:] = request["path"]
            sys.argv = [module, *request["arguments"]]
            return sys.modules[module].main()
        sys.argv = [os.path.join(HERE, "worker.py"), *request["arguments"]]
        return self._worker["exit_code_of_alembic"]()

    def _report_exit_codes(self) -> None:
        while self._children:
            child, status = os.waitpid(-1, os.WNOHANG)
            if not child:
                return
            code = os.waitstatus_to_exitcode(status)
            self._report(id=self._children.pop(child), code=code)

    def _report(self, **event: object) -> None:
        os.write(self._events, json.dumps(event).encode() + b"\n")

    def _kill_all(self) -> None:
        for child in self._children:
            with suppress(OSError):
                os.killpg(child, signal.SIGKILL)


def _import_from(path: list[str], module: str) -> None:
    """Import a module as a process with that path would."""
    import importlib

    own = list(sys.path)
    sys.path[:] = path
    try:
        importlib.import_module(module)
    finally:
        sys.path[:] = own


def _import_libraries(names: Sequence[str]) -> None:
    import importlib

    for name in names:
        with suppress(ImportError):
            importlib.import_module(name)


def _redirect_output(output: str) -> None:
    """Redirect standard output and error to a named pipe."""
    file = os.open(output, os.O_WRONLY)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)


if __name__ == "__main__":
    main()
