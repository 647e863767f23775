"""The test runs of a checkout, and which of them have ended.

A run is one call of pytest with all its xdist workers. Each worker holds a shared lock on a file
of the run until its process ends, however it ends. A process that gets the exclusive lock knows
that no worker of the run is left, and that the databases of the run can be dropped.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huleedu_tasks.state_dir import make_directory, unwritable

PREFIX = "pytest_"
# Database names are limited to 63 bytes (PostgreSQL, NAMEDATALEN).
_LONGEST_NAME = 63
_DIGEST = 8
_TOKEN = 10
_OWNED = re.compile(rf"{PREFIX}([0-9a-f]{{{_TOKEN}}})_")
_LOCK = "lock"
_ALONE = "alone"
_RESULTS = "prepared.json"


def token_of_run(run: str) -> str:
    """Return the token of a run, which is part of the names of its databases.

    Args:
        run: A string that distinguishes the run from all others.
    """
    return hashlib.sha256(run.encode()).hexdigest()[:_TOKEN]


def owner_of(database: str) -> str:
    """Return the token of the run that created a database; empty string for any other database."""
    found = _OWNED.match(database)
    return found[1] if found else ""


def own_name(*parts: str, database: str) -> str:
    """Return a recognisable name of at most 63 bytes that ends with the name of a database."""
    name = f"{PREFIX}{'_'.join(parts)}_{database}".encode()
    if len(name) <= _LONGEST_NAME:
        return name.decode()
    # Another long name may have the same beginning.
    digest = hashlib.sha256(name).hexdigest()[:_DIGEST]
    return f"{name[: _LONGEST_NAME - _DIGEST].decode(errors='ignore')}{digest}"


@dataclass(slots=True, kw_only=True)
class Run:
    """One worker of a run.

    Attributes:
        directory: The directory with a directory for each run of the checkout.
        token: The token of the run.
        worker: The name that xdist has given the worker.
    """

    directory: Path
    token: str
    worker: str
    _held: int = field(default=-1)

    def begin(self) -> None:
        """Take the shared lock.

        Raises:
            ServerError: If its file cannot be written.
        """
        try:
            while self._held < 0:
                make_directory(self._own)
                self._held = _taken(self._own / _LOCK, fcntl.LOCK_SH)
        except OSError as error:
            raise unwritable(self._own, error) from error

    def leave(self) -> bool:
        """Release the shared lock, or as the last worker of the run take the exclusive one.

        Returns:
            Whether this is the last worker, which calls `end`.
        """
        with self._alone():
            is_last = _is_taken(self._held, fcntl.LOCK_EX)
            if not is_last:
                os.close(self._held)
        return is_last

    def end(self) -> None:
        """Remove the directory of the run, and release the exclusive lock."""
        shutil.rmtree(self._own, ignore_errors=True)
        os.close(self._held)

    @contextmanager
    def results(self) -> Iterator[dict[str, Any]]:
        """Let one worker at a time read and extend the results of the run, in a `with` block."""
        path = self._own / _RESULTS
        with self._alone():
            results = json.loads(path.read_text()) if path.exists() else {}
            yield results
            path.write_text(json.dumps(results))

    def is_first(self, what: str) -> bool:
        """Whether no worker of the run has asked the same before."""
        try:
            (self._own / f"said-{what}").touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def has_ended(self, token: str, *, is_ours: bool) -> bool:
        """Whether another run of this checkout has ended.

        Args:
            token: The token of the run.
            is_ours: Whether the run belongs to this checkout, if that has forgotten it.
        """
        path = self.directory / token / _LOCK
        if token == self.token or not path.exists():
            return is_ours and token != self.token
        with _ended(path) as ended:
            return ended

    def forget_ended(self) -> None:
        """Remove the directories of runs that have ended."""
        for path in self.directory.glob(f"*/{_LOCK}"):
            if path.parent.name != self.token:
                with _ended(path) as ended:
                    if ended:
                        shutil.rmtree(path.parent, ignore_errors=True)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let one worker of the run at a time into a `with` block."""
        file = os.open(self._own / _ALONE, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
        finally:
            os.close(file)

    @property
    def _own(self) -> Path:
        return self.directory / self.token


@contextmanager
def _ended(path: Path) -> Iterator[bool]:
    """Yield whether the run of a lock has ended; no worker of it can begin in the `with` block."""
    try:
        file = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        yield True
        return
    try:
        yield _is_taken(file, fcntl.LOCK_EX)
    finally:
        os.close(file)


def _taken(path: Path, how: int) -> int:
    """Return a file with a lock on it; -1 if another process has removed the file."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(file, how)
    if path.exists() and os.path.samestat(os.fstat(file), path.stat()):
        return file
    os.close(file)
    return -1


def _is_taken(file: int, how: int) -> bool:
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
