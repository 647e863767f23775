"""The records of runs of `prod.migrate`: one JSON Lines file for each run.

A line is written, and flushed to the disk, before the next step begins. A run that was killed
has no last line. A running process holds a lock on its file, which tells both apart.
"""

import contextlib
import fcntl
import getpass
import json
import os
import platform
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from io import FileIO, TextIOWrapper
from pathlib import Path
from stat import S_ISREG
from typing import Any

from huleedu_tasks.config.secret import redact_values
from huleedu_tasks.errors import ConfigurationError, ExitCode
from huleedu_tasks.repository import commit_of
from huleedu_tasks.state_dir import make_directory, make_state_directory, unwritable

DIRECTORY = "runs"
SUFFIX = ".jsonl"
SCHEMA_VERSION = 1
BEGAN, ENDED = "began", "ended"
RUNNING, KILLED, UNREADABLE = "RUNNING", "KILLED", "UNREADABLE"
_ONLY_THE_OWNER = 0o600
# The fields of the first line besides its time and event, in every version.
_WHO_AND_WHERE = ("run", "environment", "user", "host")

Event = dict[str, Any]


class Record:
    """The record of the current run.

    Attributes:
        run: The id of the run.
        path: The file in the state directory.
        pid: The id of this process.
        problems: A sentence for each file that could not be written; empty if none.
    """

    def __init__(
        self, run: str, path: Path, files: Sequence[FileIO], redact: Callable[[str], str]
    ) -> None:
        self.run = run
        self.path = path
        self.pid = os.getpid()
        self.problems: list[str] = []
        self._files = list(files)
        self._redact = redact

    def add(self, event: str, **facts: object) -> None:
        """Write an event to every file; an error is added to `problems` instead of raised.

        Args:
            event: The name of the event.
            facts: The other fields of the line, with every password masked.
        """
        line = {"time": _now().isoformat(timespec="milliseconds"), "event": event, **facts}
        text = json.dumps(redact_values(line, self._redact), ensure_ascii=False, default=str)
        # A file name may contain bytes that are not UTF-8; the escape is valid JSON.
        content = f"{text}\n".encode(errors="backslashreplace")
        for file in tuple(self._files):
            try:
                _write_all(file, content)
            except (OSError, ValueError) as error:
                self._files.remove(file)
                why = getattr(error, "strerror", None) or error
                self.problems.append(f"The record in {file.name} is not complete: {why}.")
                continue
            # A pipe cannot be flushed to a disk.
            with contextlib.suppress(OSError):
                os.fsync(file.fileno())

    def require_written(self) -> None:
        """Require that every event was written.

        Raises:
            ConfigurationError: If an event could not be written.
        """
        if self.problems:
            raise ConfigurationError(
                f"{' '.join(self.problems)} Nothing was changed.",
                code="record-unwritable",
                hint="Free disk space for the state directory and the file of --report, or set "
                "HULEEDU_STATE_DIR to another directory.",
            )

    def end(self, code: ExitCode, **facts: object) -> None:
        """Write the last event, with the exit code of the run."""
        self.add(ENDED, exit_code=int(code), outcome=code.name, **facts)


@contextlib.contextmanager
def new_record(
    state: Path,
    *,
    command: str,
    environment: str,
    root: Path,
    copy: Path | None,
    redact: Callable[[str], str],
) -> Iterator[Record]:
    """Record a run for the time of a `with` block; the caller calls `Record.end`.

    Args:
        state: The state directory.
        command: The name of the command.
        root: The root of the monorepo, whose commit is recorded.
        copy: A second file for the same lines; `None` for none.
        redact: Masks every password in a string.

    Raises:
        ServerError: If the state directory cannot be written.
        ConfigurationError: If the second file cannot be written.
    """
    run = f"{_now():%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
    with contextlib.ExitStack() as stack:
        copies = [stack.enter_context(_open_copy(copy))] if copy else []
        path = _directory(state) / f"{run}{SUFFIX}"
        try:
            own = stack.enter_context(open(path, "xb", buffering=0, opener=_private))
        except OSError as error:
            raise unwritable(path, error) from error
        fcntl.flock(own, fcntl.LOCK_EX)
        record = Record(run, path, [own, *copies], redact)
        record.add(
            BEGAN,
            schema_version=SCHEMA_VERSION,
            run=run,
            command=command,
            environment=environment,
            user=_user(),
            host=platform.node(),
            pid=record.pid,
            commit=commit_of(root),
        )
        yield record


def unwritten_record() -> Record:
    """Return a record that writes no file, for a dry run."""
    return Record("dry-run", Path(), (), str)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A finished, killed or current run, read from its record.

    Attributes:
        events: The lines that could be parsed.
        is_running: Whether its process is still running.
        problem: Why its record cannot be read; empty string if it can.
    """

    path: Path
    events: tuple[Event, ...] = ()
    is_running: bool = False
    problem: str = ""

    @property
    def id(self) -> str:
        """The id of the run, which begins with its start time."""
        return self.path.stem

    @property
    def began(self) -> Event:
        """The first event: user, host, time and environment."""
        return self.events[0]

    @property
    def outcome(self) -> str:
        """The name of the exit code, or `RUNNING`, `KILLED` or `UNREADABLE`."""
        if self.problem:
            return UNREADABLE
        last = self.events[-1]
        if last["event"] == ENDED:
            return str(last["outcome"])
        return RUNNING if self.is_running else KILLED

    def of(self, *events: str) -> list[Event]:
        """Return the events with any of these names."""
        return [event for event in self.events if event["event"] in events]


def read_runs(state: Path) -> list[Run]:
    """Return the runs of all records, the latest first.

    A record that cannot be read is included, with the reason in `problem`.

    Raises:
        ConfigurationError: If the directory cannot be read.
    """
    directory = state / DIRECTORY
    try:
        paths = [path for path in directory.iterdir() if path.name.endswith(SUFFIX)]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigurationError(
            f"The records of runs in {directory} could not be read: {error.strerror}.",
            code="record-unreadable",
            hint="Correct its owner and permissions, or run this as its owner.",
        ) from error
    return sorted(map(_read, paths), key=_start, reverse=True)


def _start(run: Run) -> tuple[str, str]:
    """Return the second in which a run began, and the time in its record if it can be read."""
    return run.id.partition("-")[0], "" if run.problem else str(run.began["time"])


def _read(path: Path) -> Run:
    try:
        # After a crash of the machine the file may end within a character.
        with open(path, encoding="utf-8", errors="replace", opener=_regular) as file:
            is_running = _is_locked(file)
            events = tuple(_events(file))
    except OSError as error:
        return Run(path=path, problem=error.strerror or str(error))
    return Run(path=path, events=events, is_running=is_running, problem=_problem_in(events))


def _is_locked(file: TextIOWrapper) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        # The file system does not support locks.
        return False
    return False


def _events(lines: Iterator[str]) -> Iterator[Event]:
    for line in lines:
        # After a crash of the machine a line may be incomplete or contain other bytes.
        with contextlib.suppress(ValueError, RecursionError):
            event = json.loads(line)
            if isinstance(event, dict) and _are_strings(event, "time", "event"):
                yield event


def _problem_in(events: Sequence[Event]) -> str:
    """Return why events are not a record of a run; empty string if they are."""
    if not events:
        return "it contains no event"
    if events[0]["event"] != BEGAN:
        return "its first event is not 'began'"
    if missing := [name for name in _WHO_AND_WHERE if not _are_strings(events[0], name)]:
        return f"its first event does not contain {', '.join(missing)}"
    return ""


def _are_strings(event: Event, *names: str) -> bool:
    return all(isinstance(event.get(name), str) for name in names)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, _ONLY_THE_OWNER)


def _regular(path: str, flags: int) -> int:
    """Open a regular file; refuse a pipe, which would block until a process writes to it."""
    opened = os.open(path, flags | os.O_NONBLOCK)
    if not S_ISREG(os.fstat(opened).st_mode):
        os.close(opened)
        raise OSError(0, "it is not a regular file")
    return opened


def _write_all(file: FileIO, content: bytes) -> None:
    """Write all content; on a nearly full disk one call may write only a part of it."""
    while content:
        content = content[file.write(content) or 0 :]


def _directory(state: Path) -> Path:
    make_state_directory(state)
    try:
        return make_directory(state / DIRECTORY)
    except OSError as error:
        raise unwritable(state, error) from error


def _open_copy(copy: Path) -> FileIO:
    try:
        return copy.open("wb", buffering=0)
    except OSError as error:
        raise ConfigurationError(
            f"--report {copy} could not be written: {error.strerror}; nothing was done.",
            code="report-unwritable",
            hint="Pass a file in an existing directory that you can write to.",
        ) from error


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # In a container the user id may have no name.
        return str(os.getuid())


def _now() -> datetime:
    return datetime.now(UTC)
