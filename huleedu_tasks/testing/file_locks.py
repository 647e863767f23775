"""Locks on files that end with the process, however it ends."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MODE = 0o600


class SharedLock:
    """A lock that several processes hold at once; the last one learns that it is the last.

    Args:
        path: The file of the lock, in an existing directory.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = -1

    def acquire(self) -> bool:
        """Take the lock.

        Returns:
            Whether it was taken; False if another process has removed the file meanwhile.

        Raises:
            OSError: If the file cannot be opened.
        """
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, _MODE)
        fcntl.flock(self._file, fcntl.LOCK_SH)
        if self._path.exists() and os.path.samestat(os.fstat(self._file), self._path.stat()):
            return True
        self.release()
        return False

    def leave(self) -> bool:
        """Release the lock, unless this is the last process that holds it.

        Processes that leave at the same time must do so one after the other.

        Returns:
            Whether it is the last one. Then no other process can take the lock until `release`.
        """
        is_last = _try_exclusive(self._file)
        if not is_last:
            self.release()
        return is_last

    def release(self) -> None:
        """Release the lock."""
        os.close(self._file)


@contextmanager
def unheld(path: Path) -> Iterator[bool]:
    """Yield whether no process holds a shared lock; none can take it in the `with` block.

    Args:
        path: The file of the lock; a missing one is not held.
    """
    try:
        file = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        yield True
        return
    try:
        yield _try_exclusive(file)
    finally:
        os.close(file)


def _try_exclusive(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
