"""The failures that are expected, and the exit code each of them ends the process with.

Only these reach a user as a message; every other exception is a bug and keeps its traceback.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum


class ExitCode(IntEnum):
    """What a finished process says to the shell."""

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
    """One thing that is wrong, and where.

    Attributes:
        code: The stable name of this kind of finding; empty if it has none.
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
        code: The stable name of this kind of failure, for example `port-in-use`; empty if it has
            none. It is shown behind the message and stands in the JSON document.
        hint: What to type or change next.
        findings: Every single problem, where several were found at once.
        output: What a child process or a script printed before it failed.
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


class ConfigurationError(HuleEduError):
    """The registry, a setting or an argument is missing or wrong; nothing was done."""

    exit_code = ExitCode.USAGE


class Refused(HuleEduError):
    """A guard, or a person, said no; nothing was changed."""

    exit_code = ExitCode.REFUSED


class Interrupted(HuleEduError):
    """Ctrl-C, or SIGTERM, before there was a result."""

    exit_code = ExitCode.INTERRUPTED


class ServerError(HuleEduError):
    """A database server could not be started, reached or logged in to."""


class MigrationError(HuleEduError):
    """Alembic failed, or the database is not where it should be afterwards."""


class SeedError(HuleEduError):
    """A seed failed; its transaction was rolled back."""


class BackupError(HuleEduError):
    """A backup failed, so that nothing was changed."""
