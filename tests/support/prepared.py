"""Monorepos after a reset: copies of one that was reset once in this test process.

A copy has the directory and the ports of its original, so an original has one copy at a time. The
directory of a copy is used again: only what was changed in it since is copied once more.
"""

import atexit
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.support.db_runs import without_initdb
from tests.support.monorepo import Monorepo, monorepo_in, new_monorepo, scratch_directory
from tests.support.postgres import start_again

SERVICES = ("alpha", "beta", "gamma")
# A server that has run has this file; the template of all data directories does not.
_STARTED = "embedded/postgresql-*/*/data/postmaster.opts"


@dataclass(frozen=True)
class Original:
    """A monorepo after a reset, whose servers do not run.

    Attributes:
        kept: The directory with its files and its state.
        place: The directory in which it was reset, and in which its copies are.
        spare: The directory for servers that the current copy does not have.
    """

    kept: Path
    place: Path
    spare: Path


_unused: list[Original] = []


@contextmanager
def running_monorepo(services: Sequence[str] = SERVICES) -> Iterator[Monorepo]:
    """Return a monorepo of small services after a reset; stop its servers at the end.

    Args:
        services: Some of alpha, beta and gamma.
    """
    original = _unused.pop() if _unused else _prepare()
    try:
        _bring_back(original)
        restore(original.kept, original.place)
        made = monorepo_in(original.place)
        _keep_only(services, made, original)
        try:
            start_again(*(path.parent for path in made.state.glob(_STARTED)))
            yield made
        finally:
            made.stop_servers()
    finally:
        _unused.append(original)


def restore(source: Path, target: Path) -> None:
    """Make a directory equal to an original, and write only the files that differ.

    Files with the same time and size are the same: a copy has the time of its source, and every
    later change sets another.
    """
    wanted, found = _kept_entries(source), _entries(target)
    for name, entry in found.items():
        if name not in wanted or _state(entry) != _state(wanted[name]):
            _remove(Path(entry))
    for name, entry in wanted.items():
        copy = target / name
        is_same = name in found and _state(found[name]) == _state(entry)
        if entry.is_dir(follow_symlinks=False):
            copy.mkdir(exist_ok=True)
            restore(Path(entry), copy)
        elif not is_same:
            shutil.copy2(entry, copy, follow_symlinks=False)
        if not is_same:
            _give_owner_and_mode(entry, copy)


def _entries(directory: Path) -> dict[str, os.DirEntry[str]]:
    with os.scandir(directory) as found:
        return {entry.name: entry for entry in found}


# An entry knows the state that it had when it was asked for; an original never changes.
_kept_entries = cache(_entries)


def _state(entry: os.DirEntry[str]) -> tuple[int, ...]:
    is_from = entry.stat(follow_symlinks=False)
    owned = (is_from.st_mode, is_from.st_uid, is_from.st_gid)
    if stat.S_ISDIR(is_from.st_mode):
        return owned
    return (*owned, is_from.st_size, is_from.st_mtime_ns)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _give_owner_and_mode(entry: os.DirEntry[str], copy: Path) -> None:
    # The files of servers are not ours if root runs the tests.
    is_from = entry.stat(follow_symlinks=False)
    os.chown(copy, is_from.st_uid, is_from.st_gid, follow_symlinks=False)
    if not entry.is_symlink():
        copy.chmod(stat.S_IMODE(is_from.st_mode))


def _prepare() -> Original:
    """Reset a new monorepo, and keep a copy of it."""
    with new_monorepo(SERVICES) as made:
        ran = without_initdb(made).invoke("db.reset")
        assert ran.code == 0, ran.err
        made.stop_servers()
        place = made.root.parent
        original = Original(
            kept=scratch_directory("original"), place=place, spare=scratch_directory("spare")
        )
        subprocess.run(["cp", "-a", f"{place}/.", f"{original.kept}/"], check=True)
    place.mkdir()
    shutil.copystat(original.kept, place)
    for directory in (original.kept, place, original.spare):
        atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return original


def _keep_only(services: Sequence[str], monorepo: Monorepo, original: Original) -> None:
    for name in set(SERVICES) - set(services):
        shutil.rmtree(monorepo.path(f"services/{name}_service"))
        monorepo.path(f"database/seed-scripts/seed_{name}.py").unlink()
        _server(original.place, name).rename(original.spare / name)
    monorepo.register(*(entry for entry in monorepo.services if entry["name"] in services))


def _bring_back(original: Original) -> None:
    """Move the servers that the last copy did not have to their places."""
    for server in original.spare.iterdir():
        place = original.place / _server(original.kept, server.name).relative_to(original.kept)
        shutil.rmtree(place, ignore_errors=True)
        place.parent.mkdir(parents=True, exist_ok=True)
        server.rename(place)


def _server(directory: Path, name: str) -> Path:
    (server,) = directory.glob(f"state/embedded/postgresql-*/{name}_db")
    return server
