"""A user at a terminal: input and output."""

import re
import sys
from collections.abc import Mapping

import pexpect

from tests.support.monorepo import LIMIT, Monorepo, Ran, clean_environment

CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
# The end of a live display, which shows the cursor again.
END_OF_LIVE = "\x1b[?25h"


def typed(
    monorepo: Monorepo,
    *arguments: str,
    columns: int = 160,
    variables: Mapping[str, str] | None = None,
) -> "pexpect.spawn[str]":
    """Type `invoke ARGUMENTS` at a terminal."""
    plain = {"TERM": "xterm-256color", "COLUMNS": "", "NO_COLOR": "", **(variables or {})}
    environment = {**clean_environment(), **monorepo.environment, **plain}
    return pexpect.spawn(
        sys.executable,
        ["-m", "invoke", *arguments],
        cwd=str(monorepo.root),
        env={name: value for name, value in environment.items() if value},
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
