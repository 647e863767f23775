"""The record of runs that change what is not ours to lose: a file of JSON lines for each run.

A line is written, and flushed to the disk, before the next step begins. A run that was killed
has no last line; whether it still runs is told by the lock it keeps on its file.
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

from huleedu_tasks.config.secret import redacted
from huleedu_tasks.errors import ConfigurationError, ExitCode
from huleedu_tasks.process import output_of
from huleedu_tasks.state_dir import make_directory, make_state_directory, unwritable

DIRECTORY = "runs"
SUFFIX = ".jsonl"
SCHEMA_VERSION = 1
BEGAN, ENDED = "began", "ended"
RUNNING, KILLED, UNREADABLE = "RUNNING", "KILLED", "UNREADABLE"
_ONLY_THE_OWNER = 0o600
# What a first line says besides its time and event, in every version.
_WHO_AND_WHERE = ("run", "environment", "user", "host")

Event = dict[str, Any]


class Record:
    """The record of the run that is going on.

    Attributes:
        run: The run's id.
        path: The file in the state directory.
        pid: The process that runs.
        problems: What could not be written, in sentences.
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
        """Write down that something has happened; what cannot be written stops nothing."""
        line = {"time": _now().isoformat(timespec="milliseconds"), "event": event, **facts}
        text = json.dumps(redacted(line, self._redact), ensure_ascii=False, default=str)
        # A file's name may be no UTF-8; JSON knows this escape.
        content = f"{text}\n".encode(errors="backslashreplace")
        for file in tuple(self._files):
            try:
                _write_all(file, content)
            except (OSError, ValueError) as error:
                self._files.remove(file)
                why = getattr(error, "strerror", None) or error
                self.problems.append(f"The record in {file.name} is not complete: {why}.")
                continue
            # A pipe has no disk behind it.
            with contextlib.suppress(OSError):
                os.fsync(file.fileno())

    def require_written(self) -> None:
        """See that all has been written down so far.

        Raises:
            ConfigurationError: If not.
        """
        if self.problems:
            raise ConfigurationError(
                f"{' '.join(self.problems)} Nothing was changed.",
                code="record-unwritable",
                hint="Make room, or name another file with --report.",
            )

    def end(self, code: ExitCode, **facts: object) -> None:
        """Write down how the run has ended."""
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
    """Record a run for the time of a `with` block; who ends it says how.

    Args:
        state: The state directory.
        root: The root of the monorepo, whose commit is noted.
        copy: A file that gets the same lines.
        redact: Masks every password.

    Raises:
        ServerError: If the state directory cannot be written.
        ConfigurationError: If the copy cannot.
    """
    run = f"{_now():%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
    with contextlib.ExitStack() as stack:
        copies = [stack.enter_context(_opened(copy))] if copy else []
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
    """Return a record for a dry run, which leaves nothing behind."""
    return Record("dry-run", Path(), (), str)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run of the past, or one that is going on.

    Attributes:
        is_running: Whether its process still lives.
        problem: Why its record cannot be read; empty string if it can.
    """

    path: Path
    events: tuple[Event, ...] = ()
    is_running: bool = False
    problem: str = ""

    @property
    def id(self) -> str:
        """Its id, which begins with the time."""
        return self.path.stem

    @property
    def began(self) -> Event:
        """Its first line: who, when, where."""
        return self.events[0]

    @property
    def outcome(self) -> str:
        """How it has ended; a run that was killed could not say so itself."""
        if self.problem:
            return UNREADABLE
        last = self.events[-1]
        if last["event"] == ENDED:
            return str(last["outcome"])
        return RUNNING if self.is_running else KILLED

    def of(self, *events: str) -> list[Event]:
        """Return what was written down of some kinds of events."""
        return [each for each in self.events if each["event"] in events]


def read_runs(state: Path) -> list[Run]:
    """Return all runs there are records of, the latest first.

    A record that cannot be read is among them, with the reason.

    Raises:
        ConfigurationError: If the directory cannot be read.
    """
    directory = state / DIRECTORY
    try:
        names = sorted(
            (path.name for path in directory.iterdir() if path.name.endswith(SUFFIX)), reverse=True
        )
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigurationError(
            f"The records of runs in {directory} cannot be read: {error.strerror}.",
            code="record-unreadable",
            hint="Correct its owner and permissions, or run this as its owner.",
        ) from error
    return [_read(directory / name) for name in names]


def commit_of(root: Path) -> str | None:
    """Return the commit that is checked out, `-dirty` where files differ; None without git."""
    return output_of(["git", "-C", root, "describe", "--always", "--dirty", "--abbrev=40"]) or None


def _read(path: Path) -> Run:
    try:
        # What a machine that went down has left may end within a character.
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
        # A file system without locks.
        return False
    return False


def _events(lines: Iterator[str]) -> Iterator[Event]:
    for line in lines:
        # A machine that went down may have left half a line, or anything.
        with contextlib.suppress(ValueError, RecursionError):
            event = json.loads(line)
            if isinstance(event, dict) and _are_strings(event, "time", "event"):
                yield event


def _problem_in(events: Sequence[Event]) -> str:
    """Return why events are no record of a run; empty string if they are."""
    if not events:
        return "it holds no event"
    if events[0]["event"] != BEGAN:
        return "its first event does not say how the run began"
    if missing := [name for name in _WHO_AND_WHERE if not _are_strings(events[0], name)]:
        return f"its first event does not state {', '.join(missing)}"
    return ""


def _are_strings(event: Event, *names: str) -> bool:
    return all(isinstance(event.get(name), str) for name in names)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, _ONLY_THE_OWNER)


def _regular(path: str, flags: int) -> int:
    """Open a file, and nothing that would let us wait for whoever writes to it."""
    opened = os.open(path, flags | os.O_NONBLOCK)
    if not S_ISREG(os.fstat(opened).st_mode):
        os.close(opened)
        raise OSError(0, "it is no file")
    return opened


def _write_all(file: FileIO, content: bytes) -> None:
    """Write to the end; a disk that is nearly full takes a part."""
    while content:
        content = content[file.write(content) or 0 :]


def _directory(state: Path) -> Path:
    make_state_directory(state)
    try:
        return make_directory(state / DIRECTORY)
    except OSError as error:
        raise unwritable(state, error) from error


def _opened(copy: Path) -> FileIO:
    try:
        return copy.open("wb", buffering=0)
    except OSError as error:
        raise ConfigurationError(
            f"--report {copy} cannot be written: {error.strerror}; nothing was done.",
            code="report-unwritable",
            hint="Name a file in a directory that is there and yours.",
        ) from error


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # In a container the number may have no name.
        return str(os.getuid())


def _now() -> datetime:
    return datetime.now(UTC)
