"""The distributions of a release, built from a copy of the repository."""

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.packaging.installations import new_directory, run
from tests.support.monorepo import PROJECT


@dataclass(frozen=True, slots=True, kw_only=True)
class Distributions:
    """Distributions, all built from the same files.

    Attributes:
        sdist: The source distribution.
        wheel: The wheel built from the sdist, as for a release.
        direct: The wheel built from the repository, as `pip install DIRECTORY` does it.
    """

    sdist: Path
    wheel: Path
    direct: Path


@contextmanager
def new_distributions() -> Iterator[Distributions]:
    """Build all distributions; the `with` block's end removes them."""
    with new_directory("distributions") as directory:
        copy = _copy_with_local_files(directory / "repository")
        build = [sys.executable, "-m", "build", "--no-isolation", "--outdir"]
        run(*build, directory / "release", cwd=copy)
        run(*build, directory / "direct", "--wheel", cwd=copy)
        (sdist,) = directory.glob("release/*.tar.gz")
        (wheel,) = directory.glob("release/*.whl")
        (direct,) = directory.glob("direct/*.whl")
        yield Distributions(sdist=sdist, wheel=wheel, direct=direct)


def _copy_with_local_files(directory: Path) -> Path:
    shutil.copytree(PROJECT, directory, ignore=shutil.ignore_patterns(".*", "__pycache__"))
    for name in (".env", "huleedu_tasks/.env", "huleedu_tasks/__pycache__/app.cpython-311.pyc"):
        path = directory / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    return directory
