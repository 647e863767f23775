"""The expected errors, and the exit code of each.

The screen shows them as a message; any other exception is a bug, and is shown with its traceback.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Self

# A task as every message names it; a command shows it as the user typed it.
INVOKE = re.compile(r"`invoke (?=(?P<collection>[a-z]+)\.[a-z])")


class ExitCode(IntEnum):
    """The exit codes of the process."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    PENDING = 4
    HUNG_UP = 129
    INTERRUPTED = 130
    TERMINATED = 143


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One problem and its place.

    Attributes:
        place: The file, setting or service; an empty string if the problem names it.
        problem: The problem, as a sentence or a predicate about the place.
        code: The stable code of this kind of finding; an empty string if it has none.
    """

    place: str
    problem: str
    code: str = ""

    def __str__(self) -> str:
        return f"{self.place}: {self.problem}" if self.place else self.problem


class HuleEduError(Exception):
    """An expected failure.

    Args:
        message: The cause, in one sentence that names the place.
        code: The stable code of this kind of error, for example `port-in-use`; an empty string if
            it has none. It is shown after the message and in the JSON document.
        hint: The next step: a command to type or a setting to change; an empty string if none.
        findings: The single problems, if several were found at once.
        output: The output of the child process or script that failed; an empty string if none.
    """

    exit_code = ExitCode.FAILED

    def __init__(
        self,
        message: str,
        *,
        code: str = "",
        hint: str = "",
        findings: Sequence[Finding] = (),
        output: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.hint = hint
        self.findings = tuple(findings)
        self.output = output

    def changed(self, *, message: str | None = None, hint: str | None = None) -> Self:
        """Return the same error with another message or hint, to be raised instead of this one."""
        return type(self)(
            self.message if message is None else message,
            code=self.code,
            hint=self.hint if hint is None else hint,
            findings=self.findings,
            output=self.output,
        )


class ConfigurationError(HuleEduError):
    """The registry, a setting or an argument is missing or not valid; nothing was done."""

    exit_code = ExitCode.USAGE


class Refused(HuleEduError):
    """A guard or the user refused; nothing was changed."""

    exit_code = ExitCode.REFUSED


class Interrupted(HuleEduError):
    """Ctrl-C or a signal ended the command before it had a result."""

    exit_code = ExitCode.INTERRUPTED


class ServerError(HuleEduError):
    """A database server could not be started, reached or logged in to."""


class MigrationError(HuleEduError):
    """Alembic failed, or the database is not at the requested revision afterwards."""


class SeedError(HuleEduError):
    """A seed failed; its transaction was rolled back."""


class BackupError(HuleEduError):
    """A backup failed; nothing was changed."""
