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
from io import FileIO
from pathlib import Path
from typing import Any

from huleedu_tasks.config.secret import redacted
from huleedu_tasks.errors import ConfigurationError, ExitCode
from huleedu_tasks.process import output_of
from huleedu_tasks.state import make_folder, make_state_folder, unwritable

FOLDER = "runs"
SUFFIX = ".jsonl"
SCHEMA_VERSION = 1
BEGAN, ENDED = "began", "ended"
RUNNING, KILLED = "RUNNING", "KILLED"

Event = dict[str, Any]


class Record:
    """The record of the run that is going on.

    Attributes:
        run: The run's id.
        path: The file in the state folder.
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
        state: The state folder.
        root: The root of the monorepo, whose commit is noted.
        copy: A file that gets the same lines.
        redact: Masks every password.

    Raises:
        ServerError: If the state folder cannot be written.
        ConfigurationError: If the copy cannot.
    """
    run = f"{_now():%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
    with contextlib.ExitStack() as stack:
        copies = [stack.enter_context(_opened(copy))] if copy else []
        path = _folder(state) / f"{run}{SUFFIX}"
        try:
            own = stack.enter_context(path.open("xb", buffering=0))
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
    """

    path: Path
    events: tuple[Event, ...]
    is_running: bool

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
        last = self.events[-1]
        if last["event"] == ENDED:
            return str(last["outcome"])
        return RUNNING if self.is_running else KILLED

    def of(self, *events: str) -> list[Event]:
        """Return what was written down of some kinds of events."""
        return [each for each in self.events if each["event"] in events]


def read_runs(state: Path) -> list[Run]:
    """Return all runs there are records of, the latest first."""
    paths = sorted((state / FOLDER).glob(f"*{SUFFIX}"), reverse=True)
    runs = (_read(path) for path in paths)
    return [run for run in runs if run.events and run.events[0]["event"] == BEGAN]


def commit_of(root: Path) -> str | None:
    """Return the commit that is checked out, `-dirty` where files differ; None without git."""
    return output_of(["git", "-C", root, "describe", "--always", "--dirty", "--abbrev=40"]) or None


def _read(path: Path) -> Run:
    # What a machine that went down has left may end within a character.
    with path.open(encoding="utf-8", errors="replace") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            is_running = False
        except BlockingIOError:
            is_running = True
        events = tuple(_events(file))
    return Run(path=path, events=events, is_running=is_running)


def _events(lines: Iterator[str]) -> Iterator[Event]:
    for line in lines:
        # A machine that went down may have left half a line.
        with contextlib.suppress(ValueError):
            yield json.loads(line)


def _write_all(file: FileIO, content: bytes) -> None:
    """Write to the end; a disk that is nearly full takes a part."""
    while content:
        content = content[file.write(content) or 0 :]


def _folder(state: Path) -> Path:
    make_state_folder(state)
    try:
        return make_folder(state / FOLDER)
    except OSError as error:
        raise unwritable(state, error) from error


def _opened(copy: Path) -> FileIO:
    try:
        return copy.open("wb", buffering=0)
    except OSError as error:
        raise ConfigurationError(
            f"--report {copy} cannot be written: {error.strerror}; nothing was done.",
            hint="Name a file in a folder that is there and yours.",
        ) from error


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # In a container the number may have no name.
        return str(os.getuid())


def _now() -> datetime:
    return datetime.now(UTC)
