"""The test runs of a checkout, and which of them have ended.

A run is one call of pytest with all its xdist workers. Each worker holds a shared lock of the run
until its process ends. A process that finds the lock not held knows that no worker of the run is
left, and that the databases of the run can be dropped.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huleedu_tasks.state_dir import exclusive, make_directory, unwritable
from huleedu_tasks.testing.file_locks import SharedLock, unheld

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


class Run:
    """One worker of a run.

    Args:
        directory: The directory with a directory for each run of the checkout.
        token: The token of the run.
        worker: The name that xdist has given the worker.
    """

    def __init__(self, *, directory: Path, token: str, worker: str) -> None:
        self.directory = directory
        self.token = token
        self.worker = worker
        self._own = directory / token
        self._lock = SharedLock(self._own / _LOCK)

    def begin(self) -> None:
        """Take the shared lock.

        Raises:
            ServerError: If its file cannot be written.
        """
        try:
            make_directory(self._own)
            while not self._lock.acquire():
                make_directory(self._own)
        except OSError as error:
            raise unwritable(self._own, error) from error

    def leave(self) -> bool:
        """Release the lock, unless this is the last worker of the run, which calls `end`."""
        with exclusive(self._own / _ALONE):
            return self._lock.leave()

    def end(self) -> None:
        """Remove the directory of the run, and release the lock."""
        shutil.rmtree(self._own, ignore_errors=True)
        self._lock.release()

    @contextmanager
    def results(self) -> Iterator[dict[str, Any]]:
        """Let one worker at a time read and extend the results of the run, in a `with` block."""
        path = self._own / _RESULTS
        with exclusive(self._own / _ALONE):
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
        with unheld(path) as ended:
            return ended

    def forget_ended(self) -> None:
        """Remove the directories of runs that have ended."""
        for path in self.directory.glob(f"*/{_LOCK}"):
            with unheld(path) as ended:
                if ended:
                    shutil.rmtree(path.parent, ignore_errors=True)
