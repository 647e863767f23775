"""The source files of a repository, without installed, built and ignored files."""

import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from huleedu_tasks.process import output_of

# Directories with installed or generated files.
FOREIGN = frozenset(
    {"node_modules", "site-packages", "dist-packages", "build", "dist", "__pycache__", "vendor"}
)
VIRTUAL_ENVIRONMENT = "pyvenv.cfg"
# Files that mark the root of a repository without `.git`, such as an unpacked archive.
ROOT_FILES = (
    *("alembic.ini", "pyproject.toml", "setup.py", "setup.cfg", "tasks.py", "Makefile"),
    *("README.md", "README.rst", "LICENSE"),
    *("compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml"),
)
GIT_TIMEOUT = 30.0


@lru_cache(maxsize=8)
def repository_files(root: Path) -> tuple[Path, ...]:
    """Return the sorted source files below a directory, without those that Git ignores."""
    # During a merge, Git lists a file several times.
    return tuple(sorted({path for path in _files(root) if _is_own(path, root)}))


def repository_root(start: Path) -> Path | None:
    """Return the nearest directory with `.git` at or above a directory; `None` without one."""
    directories = (start, *start.parents)
    return next((directory for directory in directories if _has_git(directory)), None)


def commit_of(root: Path) -> str | None:
    """Return the checked-out commit, with `-dirty` if files differ; `None` without Git."""
    return output_of(["git", "-C", root, "describe", "--always", "--dirty", "--abbrev=40"]) or None


def is_in_repository(directory: Path) -> bool:
    """Whether a directory is in a repository, or is the root of one without `.git`."""
    if repository_root(directory):
        return True
    # Such files in a home directory do not mark a repository.
    is_home = directory == Path.home() or directory == directory.parent
    return not is_home and any(is_file(directory / name) for name in ROOT_FILES)


def is_file(path: Path) -> bool:
    """Whether a path is an accessible file; False for an invalid or inaccessible path."""
    try:
        return path.is_file()
    except OSError:
        return False


def is_directory(path: Path) -> bool:
    """Whether a path is an accessible directory; False for an inaccessible path."""
    try:
        return path.is_dir()
    except OSError:
        return False


def is_nameable(path: Path) -> bool:
    """Whether a path can be written into a registry, which is UTF-8."""
    return _printable(str(path)) == str(path)


def text_of(path: Path) -> str:
    """Return the content of a file; empty string if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8-sig", errors="replace")
    except (OSError, ValueError):
        return ""


def shown(path: Path, root: Path) -> str:
    """Return a path for the user: relative to the root if it is below it."""
    return _printable(path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path))


def _printable(text: str) -> str:
    return os.fsencode(text).decode("utf-8", "replace")


def _files(root: Path) -> Iterator[Path]:
    listed = _listed_by_git(root)
    if not listed:
        yield from _files_of_directories(root)
        return
    for path in listed:
        if is_file(path):
            yield path
        elif _is_repository(path):
            # Git lists a submodule or a nested repository as one entry.
            yield from _files(path)


def _listed_by_git(root: Path) -> list[Path]:
    git = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    if repository_root(root) is None:
        return []
    return [root / name for name in output_of(git, timeout=GIT_TIMEOUT).split("\0") if name]


def _is_repository(path: Path) -> bool:
    """Whether a directory is a separate repository and not a worktree of this one."""
    if not _has_git(path) or path.is_symlink():
        return False
    git_directory = text_of(path / ".git").removeprefix("gitdir:").strip()
    return Path(git_directory).parent.name != "worktrees"


def _has_git(directory: Path) -> bool:
    # In a worktree or submodule it is a file with the path of the Git directory.
    return is_directory(directory / ".git") or is_file(directory / ".git")


def _files_of_directories(root: Path) -> Iterator[Path]:
    for directory, directories, files in os.walk(root):
        if VIRTUAL_ENVIRONMENT in files:
            directories.clear()
            continue
        directories[:] = [name for name in directories if not _is_foreign(name)]
        yield from filter(is_file, (Path(directory) / name for name in files))


def _is_own(path: Path, root: Path) -> bool:
    parts = path.relative_to(root).parts[:-1]
    if any(_is_foreign(part) for part in parts):
        return False
    return not any(_is_virtual(root.joinpath(*parts[: n + 1])) for n in range(len(parts)))


def _is_foreign(name: str) -> bool:
    return name in FOREIGN or name.startswith(".")


@lru_cache(maxsize=4096)
def _is_virtual(directory: Path) -> bool:
    return is_file(directory / VIRTUAL_ENVIRONMENT)
