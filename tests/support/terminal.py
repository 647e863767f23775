"""A user at a terminal: input and output."""

import os
import pty
import re
import subprocess
import sys
import termios
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pexpect
import ptyprocess  # type: ignore[import-untyped]

from tests.support import fork_server
from tests.support.monorepo import LIMIT, Monorepo, Ran, clean_environment

CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
# The end of a live display, which shows the cursor again.
END_OF_LIVE = "\x1b[?25h"


class _Forked(ptyprocess.PtyProcess):  # type: ignore[misc]  # It has no types.
    """The terminal of a forked command."""

    def __init__(self, command: "subprocess.Popen[str]", descriptor: int) -> None:
        super().__init__(command.pid, descriptor)
        self.exitstatus: int | None
        self.signalstatus: int | None
        self._command = command

    def isalive(self) -> bool:
        """Whether the command runs; if not, its exit status is set."""
        code = self._command.wait() if self.flag_eof else self._command.poll()
        if code is None:
            return True
        self.terminated = True
        self.exitstatus, self.signalstatus = (code, None) if code >= 0 else (None, -code)
        return False

    def wait(self) -> int | None:
        """Wait for the end of the command; return its exit status."""
        self._command.wait()
        self.isalive()
        return self.exitstatus


class _Spawned(pexpect.spawn):  # type: ignore[misc]  # It has no types.
    """A forked command, instead of one in a new interpreter."""

    def _spawnpty(
        self,
        args: Sequence[bytes],
        *,
        cwd: str,
        env: Mapping[str, str],
        dimensions: tuple[int, int],
        **_: Any,
    ) -> _Forked:
        ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, dimensions)
        arguments = [argument.decode() for argument in args[3:]]
        command = fork_server.fork_server().start(
            arguments, Path(cwd), env, has_terminal=True, stdin=theirs, stdout=theirs, stderr=theirs
        )
        os.close(theirs)
        return _Forked(command, ours)


def typed(
    monorepo: Monorepo,
    *arguments: str,
    columns: int = 160,
    variables: Mapping[str, str] | None = None,
) -> "pexpect.spawn[str]":
    """Type `invoke ARGUMENTS` at a terminal; it is forked where `Monorepo.invoke` is."""
    usual = {"TERM": "xterm-256color", "COLUMNS": "", "NO_COLOR": ""}
    every = {**clean_environment(), **monorepo.environment, **usual, **(variables or {})}
    environment = {name: value for name, value in every.items() if value}
    spawn = _Spawned if fork_server.is_possible(environment) else pexpect.spawn
    return spawn(
        sys.executable,
        ["-m", "invoke", *arguments],
        cwd=str(monorepo.root),
        env=environment,
        dimensions=(50, columns),
        encoding="utf-8",
        timeout=LIMIT,
    )


def seen(child: "pexpect.spawn[str]") -> Ran:
    """Wait for the end; return the whole output, and what remains on the screen."""
    child.expect(pexpect.EOF)
    child.close()
    came = str(child.before)
    left = CONTROL.sub("", came.rpartition(END_OF_LIVE)[2]).replace("\r", "")
    code = child.exitstatus if child.exitstatus is not None else -1
    return Ran(code, left, came)
