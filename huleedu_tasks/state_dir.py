"""The state directory: everything that is written and is not the developer's own file."""

import errno
import hashlib
import os
from pathlib import Path
from stat import S_ISREG

from huleedu_tasks.config.settings import PREFIX
from huleedu_tasks.errors import ServerError

# For root, where the servers' account cannot go down to the project.
ROOT_DIRECTORY = Path("/var/lib/huleedu-tasks")
_SEARCHABLE_BY_ALL = 0o001
# The servers' account goes down it; nobody sees what is there.
_MODE = 0o711
_PRIVATE_DIRECTORY = 0o700
_PRIVATE_FILE = 0o600


def state_directory(root: Path, stated: Path | None, *, prefix: str = PREFIX) -> Path:
    """Return where a project's state lies.

    Args:
        root: The root of the monorepo.
        stated: The directory that was set, or None for the usual one.
        prefix: What the names of settings begin with, which names the directory.
    """
    if stated:
        return stated
    if os.geteuid() != 0 or is_reachable(root):
        return root / f".{prefix.lower()}"
    digest = hashlib.sha256(str(root).encode()).hexdigest()[:12]
    return ROOT_DIRECTORY / f"{root.name}-{digest}"


def is_reachable(path: Path) -> bool:
    """Whether every user may go down to a path."""
    return all(directory.stat().st_mode & _SEARCHABLE_BY_ALL for directory in (path, *path.parents))


def make_state_directory(path: Path) -> None:
    """Create the state directory, hidden from version control.

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
    """Create a directory and its parents; as root, so that a server's account may enter them."""
    missing = [directory for directory in (path, *path.parents) if not directory.exists()]
    path.mkdir(parents=True, exist_ok=True)
    # Whatever the umask says.
    for directory in missing:
        directory.chmod(_MODE if os.geteuid() == 0 else _PRIVATE_DIRECTORY)
    return path


def open_private(path: Path, flags: int) -> int:
    """Open a file of ours, or of an account without privileges, that nobody else may read.

    Whoever owns the directory could have put a link, a pipe or another's file there.

    Raises:
        OSError: If it is no file, or a link.
    """
    # A pipe would let us wait for whoever has its other end.
    opened = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, _PRIVATE_FILE)
    facts = os.fstat(opened)
    if not S_ISREG(facts.st_mode) or facts.st_nlink > 1:
        os.close(opened)
        raise OSError(errno.ELOOP, "it is a link, or no file", str(path))
    return opened


def unwritable(path: Path, error: OSError) -> ServerError:
    """Return the error for a place in the state directory that could not be written."""
    return ServerError(
        f"{error.filename or path} cannot be written: {error.strerror or error}",
        code="state-unwritable",
        hint="Correct its owner and permissions (a run as root may have made it) or make room on"
        " the disk, or set HULEEDU_STATE_DIR to another directory.",
    )
