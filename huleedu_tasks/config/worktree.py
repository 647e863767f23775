"""Linked worktrees of Git, recognised from Git's own files, without a process."""

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_GIT = ".git"
_POINTER = "gitdir:"
# In the directory of a linked worktree below `.git/worktrees`: the path of the shared directory.
_SHARED = "commondir"
# Likewise: the path of the worktree's `.git`, and a file if Git keeps a worktree that is not there,
# for example on a removable disk.
_LOCATION = "gitdir"
_LOCKED = "locked"
_CONFIGURATION = "config"
# In the section `core`; no other section of Git's has such a key.
_WORKTREE = re.compile(r'^\s*worktree\s*=\s*"?(.+?)"?\s*$', re.MULTILINE | re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Worktree:
    """A linked worktree (`git worktree add`).

    Attributes:
        root: Its directory.
        main: The directory of the main worktree; the Git directory itself if that is bare.
        is_bare: Whether the repository is bare.
        git_directory: Its own directory in the Git directory, `.git/worktrees/NAME`.
    """

    root: Path
    main: Path
    is_bare: bool
    git_directory: Path

    def in_main(self, path: Path) -> Path:
        """Return the path in the main worktree that corresponds to one in this worktree."""
        # It need not exist there: the main worktree may be on a branch without it.
        return self.main if self.is_bare else self.main / path.relative_to(self.root)


def exists(git_directory: Path) -> bool:
    """Whether a linked worktree exists, or is kept by `git worktree lock`.

    Args:
        git_directory: Its own directory in the Git directory, which need not exist.
    """
    if (git_directory / _LOCKED).exists():
        return True
    found = location(git_directory)
    return found is not None and (found / _GIT).exists()


def location(git_directory: Path) -> Path | None:
    """Return the directory of a linked worktree, which need not exist; None if Git has no such one.

    Args:
        git_directory: Its own directory in the Git directory, which need not exist.
    """
    try:
        # Git changes it when it moves the worktree.
        pointer = (git_directory / _LOCATION).read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None
    return (git_directory / pointer).parent.resolve()


def linked_worktree(start: Path) -> Worktree | None:
    """Return the linked worktree that a directory is in.

    None in a plain clone, in a submodule and outside of Git.
    """
    for directory in (start, *start.parents):
        try:
            pointer = (directory / _GIT).read_text()
        except IsADirectoryError:
            return None
        except (OSError, UnicodeDecodeError):
            continue
        return _of_pointer(directory, pointer)
    return None


def _of_pointer(root: Path, pointer: str) -> Worktree | None:
    if not pointer.startswith(_POINTER):
        return None
    # Relative to the worktree, with `worktree.useRelativePaths`.
    own = root / pointer.removeprefix(_POINTER).strip()
    with suppress(OSError, UnicodeDecodeError):
        shared = (own / (own / _SHARED).read_text().strip()).resolve()
        main = _main_of(shared)
        return Worktree(root=root, main=main, is_bare=main == shared, git_directory=own.resolve())
    return None


def _main_of(shared: Path) -> Path:
    """Return the main worktree of a shared Git directory; the Git directory itself if it is bare.

    Git states the worktree of a submodule in the configuration.
    """
    if shared.name == _GIT:
        return shared.parent
    with suppress(OSError, UnicodeDecodeError):
        if found := _WORKTREE.search((shared / _CONFIGURATION).read_text()):
            return (shared / found[1]).resolve()
    return shared
