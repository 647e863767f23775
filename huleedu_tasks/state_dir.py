"""The state directory: every file that the tasks write and that the developer does not edit."""

import errno
import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from stat import S_ISREG

from huleedu_tasks.config.settings import PREFIX
from huleedu_tasks.errors import ServerError

# For root, if the servers' account may not enter the project directory.
ROOT_DIRECTORY = Path("/var/lib/huleedu-tasks")
_SEARCHABLE_BY_ALL = 0o001
# The servers' account may enter it; only the owner may list it.
_MODE = 0o711
_PRIVATE_DIRECTORY = 0o700
_PRIVATE_FILE = 0o600


def state_directory(root: Path, stated: Path | None, *, prefix: str = PREFIX) -> Path:
    """Return the path of a project's state directory.

    Args:
        root: The root of the monorepo.
        stated: The directory in HULEEDU_STATE_DIR; None for the default.
        prefix: The prefix of the setting names, in lower case the directory's name.
    """
    if stated:
        return stated
    if os.geteuid() != 0 or is_reachable(root):
        return root / f".{prefix.lower()}"
    digest = hashlib.sha256(str(root).encode()).hexdigest()[:12]
    return ROOT_DIRECTORY / f"{root.name}-{digest}"


def is_reachable(path: Path) -> bool:
    """Whether every user may enter a directory and all directories above it."""
    return all(directory.stat().st_mode & _SEARCHABLE_BY_ALL for directory in (path, *path.parents))


def make_state_directory(path: Path) -> None:
    """Create the state directory with a `.gitignore` that excludes all of it.

    Raises:
        ServerError: If it cannot be created.
    """
    try:
        make_directory(path)
        ignore = path / ".gitignore"
        if not ignore.exists():
            ignore.write_text("*\n")
    except OSError as error:
        raise unwritable(path, error) from error


def make_directory(path: Path) -> Path:
    """Create a directory and its parents, and return it.

    They are private; as root, the servers' account may enter them.

    Raises:
        OSError: If one cannot be created.
    """
    missing = [directory for directory in (path, *path.parents) if not directory.exists()]
    path.mkdir(parents=True, exist_ok=True)
    # `mkdir` would apply the umask to the mode.
    for directory in missing:
        directory.chmod(_MODE if os.geteuid() == 0 else _PRIVATE_DIRECTORY)
    return path


def open_private(path: Path, flags: int) -> int:
    """Open a file and return its descriptor; a file that is created is private to its owner.

    The directory may belong to an unprivileged account, which could have put a link, a pipe or
    another user's file there.

    Args:
        flags: As of `os.open`.

    Raises:
        OSError: If it cannot be opened, is a link, or is not a regular file.
    """
    # Without O_NONBLOCK, opening a pipe would wait for its other end.
    opened = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, _PRIVATE_FILE)
    facts = os.fstat(opened)
    if not S_ISREG(facts.st_mode) or facts.st_nlink > 1:
        os.close(opened)
        raise OSError(errno.ELOOP, "it is a link, or not a regular file", str(path))
    return opened


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold an exclusive lock for the time of a `with` block, after waiting for it.

    Args:
        path: The file of the lock, in an existing directory.

    Raises:
        OSError: If the file cannot be opened.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT, _PRIVATE_FILE)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


def unwritable(path: Path, error: OSError) -> ServerError:
    """Return the error for a path in the state directory that could not be written."""
    return ServerError(
        f"{error.filename or path} could not be written: {error.strerror or error}",
        code="state-unwritable",
        hint="Correct its owner and permissions (a run as root may have created it), free space on "
        "the disk, or set HULEEDU_STATE_DIR to another directory.",
    )
