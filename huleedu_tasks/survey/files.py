"""The files of a repository that people have written: nothing installed, built or ignored."""

import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from huleedu_tasks.process import output_of

# Folders whose files come from elsewhere.
FOREIGN = frozenset(
    {"node_modules", "site-packages", "dist-packages", "build", "dist", "__pycache__", "vendor"}
)
VIRTUAL_ENVIRONMENT = "pyvenv.cfg"
GIT_TIMEOUT = 30.0


@lru_cache(maxsize=8)
def repository_files(root: Path) -> tuple[Path, ...]:
    """Return every file below a folder that may matter, in order; git says what is ignored."""
    known = _files_of_git(root)
    found = known if known is not None else _files_of_folders(root)
    return tuple(sorted(path for path in found if _is_own(path, root)))


def repository_root(start: Path) -> Path | None:
    """Return the folder with `.git` that a folder lies in, if there is one."""
    folders = (start, *start.parents)
    return next((folder for folder in folders if (folder / ".git").exists()), None)


def text_of(path: Path) -> str:
    """Return a file's text, or nothing if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError:
        return ""


def shown(path: Path, root: Path) -> str:
    """Return a path as people read it: from the root, where it lies there."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def _files_of_git(root: Path) -> list[Path] | None:
    git = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    if repository_root(root) is None:
        return None
    listed = output_of(git, timeout=GIT_TIMEOUT)
    return [root / name for name in listed.split("\0") if name] or None


def _files_of_folders(root: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(root):
        if VIRTUAL_ENVIRONMENT in files:
            folders.clear()
            continue
        folders[:] = [name for name in folders if not _is_foreign(name)]
        for name in files:
            yield Path(folder) / name


def _is_own(path: Path, root: Path) -> bool:
    parts = path.relative_to(root).parts[:-1]
    if any(_is_foreign(part) for part in parts):
        return False
    return path.is_file() and not any(
        _is_virtual(root.joinpath(*parts[: n + 1])) for n in range(len(parts))
    )


def _is_foreign(name: str) -> bool:
    return name in FOREIGN or name.startswith(".")


@lru_cache(maxsize=4096)
def _is_virtual(folder: Path) -> bool:
    return (folder / VIRTUAL_ENVIRONMENT).is_file()
