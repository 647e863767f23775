"""Monorepos after a reset: copies of one that was reset once in this test process.

A copy has the directory and the ports of its original, so an original has one copy at a time.
"""

import atexit
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.monorepo import (
    Monorepo,
    monorepo_in,
    new_monorepo,
    removed_at_end,
    scratch_directory,
)

SERVICES = ("alpha", "beta", "gamma")


@dataclass(frozen=True)
class Original:
    """A monorepo after a reset, whose servers do not run.

    Attributes:
        kept: The directory with its files and its state.
        place: The directory in which it was reset, and in which its copies are.
    """

    kept: Path
    place: Path


_unused: list[Original] = []


@contextmanager
def running_monorepo(services: Sequence[str] = SERVICES) -> Iterator[Monorepo]:
    """Return a monorepo of small services after a reset; stop its servers and remove it at the end.

    Args:
        services: Some of alpha, beta and gamma.
    """
    original = _unused.pop() if _unused else _prepare()
    try:
        with removed_at_end(original.place):
            _copy(original.kept, original.place)
            made = monorepo_in(original.place)
            _keep_only(services, made)
            try:
                ran = made.invoke("db.up")
                assert ran.code == 0, ran.err
                yield made
            finally:
                made.stop_servers()
    finally:
        _unused.append(original)


def _prepare() -> Original:
    """Reset a new monorepo, and keep a copy of it."""
    kept = scratch_directory("original")
    atexit.register(shutil.rmtree, kept, ignore_errors=True)
    with new_monorepo(SERVICES) as made:
        ran = made.invoke("db.reset")
        assert ran.code == 0, ran.err
        made.stop_servers()
        place = made.root.parent
        _copy(place, kept)
    return Original(kept=kept, place=place)


def _copy(source: Path, target: Path) -> None:
    """Copy a directory with the owners of its files, which are not ours if root runs the tests."""
    subprocess.run(["cp", "-a", f"{source}/.", f"{target}/"], check=True)


def _keep_only(services: Sequence[str], monorepo: Monorepo) -> None:
    for name in set(SERVICES) - set(services):
        shutil.rmtree(monorepo.path(f"services/{name}_service"))
        monorepo.path(f"database/seed-scripts/seed_{name}.py").unlink()
        (server,) = monorepo.state.glob(f"embedded/postgresql-*/{name}_db")
        shutil.rmtree(server)
    monorepo.register(*(entry for entry in monorepo.services if entry["name"] in services))
