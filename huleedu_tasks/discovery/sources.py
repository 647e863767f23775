"""Reads what the files of one service state about its database: variable, port, name, driver."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from huleedu_tasks.config.dotenv import assignments
from huleedu_tasks.config.registry import URL_SCHEME
from huleedu_tasks.config.variable_names import URL_NAME
from huleedu_tasks.discovery.found_urls import SeenUrl, see_url
from huleedu_tasks.discovery.python_source import Facts, read_python
from huleedu_tasks.migrations.directories import ENV_PY, ServiceDirectory, ini_url
from huleedu_tasks.repository import is_file, repository_files, shown, text_of

T = TypeVar("T")

# Names of modules and of directories that usually contain settings.
TELLING = frozenset(
    {
        "config",
        "configs",
        "configuration",
        "settings",
        "conf",
        "database",
        "db",
        "session",
        "engine",
    }
)
NOT_READ = frozenset({"versions", "tests", "test"})
ENV_FILES = (
    ".env",
    ".env.example",
    ".env.local",
    ".env.dev",
    ".env.development",
    ".env.sample",
    ".env.template",
    "env.example",
    "example.env",
    "dev.env",
)
# The maximum depth and number of files when the imports of env.py are followed.
IMPORT_DEPTH = 3
MOST_FILES = 80
# A variable of a database that the migrations are not for.
SECONDARY = re.compile(
    r"(^|_)(REPLICA|READ|READER|READONLY|RO|SLAVE|STANDBY|TESTS?|TESTING|ADMIN|DIRECT|PROD"
    r"|PRODUCTION|STAGING)(_|$)"
)
# The driver in the URL scheme, by requirement.
REQUIREMENTS = {"psycopg2": "psycopg2", "psycopg2-binary": "psycopg2", "psycopg": "psycopg"}
SYNCHRONOUS = ("postgresql", "postgresql+psycopg2", "postgresql+psycopg", "postgresql+pg8000")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting(Generic[T]):
    """A value that was found in a file.

    Attributes:
        place: The file, the line and the expression, for the user.
        own: Whether the file is the service's own; False for shared code.
    """

    value: T
    place: str
    own: bool = True


@dataclass(slots=True, kw_only=True)
class Sources:
    """Everything that was found, the most reliable first."""

    variables: list[Sighting[str]] = field(default_factory=list)
    # All environment variables that are read.
    reads: set[str] = field(default_factory=set)
    urls: list[Sighting[SeenUrl]] = field(default_factory=list)
    ports: list[Sighting[int]] = field(default_factory=list)
    local_ports: list[Sighting[int]] = field(default_factory=list)
    databases: list[Sighting[str]] = field(default_factory=list)
    schemes: list[Sighting[str]] = field(default_factory=list)
    engine: str = ""
    changes_driver: bool = False
    builds_variable: bool = False
    # Sentences about files that could not be read.
    problems: list[str] = field(default_factory=list)

    @property
    def names_database(self) -> bool:
        """Whether anything refers to a PostgreSQL database."""
        return bool(self.variables or self.urls or self.databases)

    def scheme(self, stated: Sequence[Sighting[str]] = ()) -> Sighting[str] | None:
        """Return the URL scheme that the migrations need; `None` if it is the convention's.

        Args:
            stated: Schemes of URLs in the compose files, which take precedence.
        """
        if self.changes_driver:
            return None
        named = list(stated) or self.schemes
        if any(scheme.value == URL_SCHEME for scheme in named):
            return None
        if self.engine == "sync":
            return next(
                (scheme for scheme in named if scheme.value in SYNCHRONOUS), self._synchronous
            )
        return next((scheme for scheme in named if "+" in scheme.value), None)

    @property
    def _synchronous(self) -> Sighting[str]:
        """The scheme without a driver, for which SQLAlchemy chooses one."""
        return Sighting(value="postgresql", place="env.py is synchronous, and no driver is named")


def read_sources(
    directory: ServiceDirectory, root: Path, others: Sequence[ServiceDirectory] = ()
) -> Sources:
    """Read the files of a service that may refer to its database.

    Args:
        directory: The service.
        root: The directory of the whole monorepo.
        others: All services; files in their directories are theirs.
    """
    sources = Sources()
    inner = [other.home for other in others if directory.home in other.home.parents]
    facts = _python_files(directory, root, inner)
    for path, facts_of_file in facts.items():
        _add(sources, facts_of_file, path, root, own=directory.contains(path))
        if facts_of_file.problem:
            sources.problems.append(f"{shown(path, root)} {facts_of_file.problem}.")
    sources.builds_variable = any(facts_of_file.builds_variable for facts_of_file in facts.values())
    _add_ini(sources, directory, root)
    sources.engine, sources.changes_driver = _engine(facts, directory)
    _add_requirement(sources, directory, root)
    _add_env_files(sources, directory.home, root, everything=True)
    if directory.home != root:
        _add_env_files(sources, root, root, everything=False)
    sources.variables = _ranked(sources.variables)
    return sources


def read_directory(path: Path, root: Path) -> Sources:
    """Read the settings files of a directory without migrations."""
    sources = Sources()
    for file in _telling_files(path, root, ()):
        _add(sources, read_python(file), file, root, own=True)
    return sources


def _python_files(
    directory: ServiceDirectory, root: Path, inner: Sequence[Path]
) -> dict[Path, Facts]:
    """Read env.py, then its imports, then modules with the usual names of settings.

    If `env.py` runs in a Flask application, the imports of the application are read too.
    """
    facts: dict[Path, Facts] = {}
    waiting = [(path, 0) for path in (directory.scripts / ENV_PY, *_application_files(directory))]
    while waiting and len(facts) < MOST_FILES:
        path, depth = waiting.pop(0)
        if path in facts:
            continue
        facts[path] = read_python(path)
        if depth < IMPORT_DEPTH:
            imported = _imported(facts[path], path, directory, root)
            waiting += [(file, depth + 1) for file in imported]
    for file in _telling_files(directory.home, root, inner)[:MOST_FILES]:
        facts.setdefault(file, read_python(file))
    return facts


def _application_files(directory: ServiceDirectory) -> Iterator[Path]:
    module = directory.flask_app.partition(":")[0]
    if module:
        path = directory.path.joinpath(*module.removesuffix(".py").split("."))
        yield from filter(is_file, (path.with_suffix(".py"), path / "__init__.py"))


def _telling_files(home: Path, root: Path, inner: Sequence[Path]) -> list[Path]:
    return [
        path
        for path in repository_files(root)
        # The cheap conditions come first: there may be many files.
        if path.suffix == ".py" and (path.stem in TELLING or path.parent.name in TELLING)
        if path.is_relative_to(home)
        if path.stem in TELLING or path.parent != home
        if NOT_READ.isdisjoint(path.relative_to(home).parts)
        if not any(path.is_relative_to(other) for other in inner)
    ]


def _imported(facts: Facts, path: Path, directory: ServiceDirectory, root: Path) -> Iterator[Path]:
    bases = [*directory.import_paths, directory.path, directory.home, directory.home / "src", root]
    for name, level in facts.imports:
        parts = name.split(".")
        starts = [path.parents[level - 1]] if level else bases
        # The last part may be a name in the module, or a module itself.
        candidates = [
            start.joinpath(*inner).with_suffix(".py")
            if module
            else start.joinpath(*inner, "__init__.py")
            for inner in (parts, parts[:-1])
            if inner
            for start in starts
            for module in (True, False)
        ]
        found = next((file for file in candidates if is_file(file)), None)
        if found and found.is_relative_to(root) and "site-packages" not in found.parts:
            yield found


def _engine(facts: Mapping[Path, Facts], directory: ServiceDirectory) -> tuple[str, bool]:
    """Return how the migrations connect.

    Returns:
        `async`, `sync` or an empty string if it is not known, and whether the code replaces the
        driver of the URL. `env.py` takes precedence over its imports.
    """
    env = facts[directory.scripts / ENV_PY]
    telling = [env] if env.is_async or env.is_sync else list(facts.values())
    is_async = any(facts_of_file.is_async for facts_of_file in telling)
    is_sync = any(facts_of_file.is_sync for facts_of_file in telling) and not is_async
    changes = any(facts_of_file.changes_driver for facts_of_file in (env, *telling))
    return "async" if is_async else "sync" if is_sync else "", changes


def _add(sources: Sources, facts: Facts, path: Path, root: Path, *, own: bool) -> None:
    name = shown(path, root)

    def sighting(value: T, line: int, how: str) -> Sighting[T]:
        return Sighting(value=value, place=f"{name}:{line} {how}", own=own)

    sources.reads |= {read.name for read in facts.reads}
    sources.variables += [sighting(r.name, r.line, r.quote) for r in facts.reads if r.is_url]
    sources.urls += [sighting(url, line, _described(url)) for url, line in facts.urls]
    if own:
        sources.ports += [sighting(port, line, f"port {port}") for port, line in facts.ports]
        sources.local_ports += [
            sighting(p, line, f"localhost:{p}") for p, line in facts.local_ports
        ]
        sources.databases += [
            sighting(database, line, f"database {database}") for database, line in facts.databases
        ]
    sources.schemes += [sighting(scheme, line, f"{scheme}://") for scheme, line in facts.schemes]


def _described(url: SeenUrl) -> str:
    """Return a URL for the user, without user name and password."""
    port = f":{url.port}" if url.port else ""
    return f"{url.scheme}://{url.host or '...'}{port}/{url.database or '...'}"


def _add_ini(sources: Sources, directory: ServiceDirectory, root: Path) -> None:
    if url := see_url(ini_url(directory)):
        place = f"{shown(directory.config, root)} sqlalchemy.url = {_described(url)}"
        sources.urls.append(Sighting(value=url, place=place))
        sources.schemes.append(Sighting(value=url.scheme, place=place))


def _add_env_files(sources: Sources, directory: Path, root: Path, *, everything: bool) -> None:
    """Read URLs and their variables from the `.env` files of a directory.

    Args:
        everything: False to take only variables that the service's own files read.
    """
    read = {variable.value for variable in sources.variables if variable.own}
    for file in (directory / name for name in ENV_FILES):
        for assignment in assignments(text_of(file)):
            url = see_url(_without_variables(assignment.value))
            if not url or not (everything or assignment.name in read):
                continue
            place = f"{shown(file, root)}:{assignment.line} {assignment.name}"
            sources.urls.append(Sighting(value=url, place=f"{place}={_described(url)}"))
            sources.schemes.append(Sighting(value=url.scheme, place=place))
            if everything and URL_NAME.search(assignment.name):
                sources.variables.append(Sighting(value=assignment.name, place=place))


def _without_variables(text: str) -> str:
    return re.sub(r"\$\{\w+(?::?-([^}]*))?\}|\$\w+", lambda found: found[1] or "\0", text)


def _add_requirement(sources: Sources, directory: ServiceDirectory, root: Path) -> None:
    """Take the driver from the requirements of a service if no URL names one.

    psycopg 3 is synchronous and asynchronous; an asynchronous service that also requires asyncpg
    uses asyncpg.
    """
    if any("+" in scheme.value for scheme in sources.schemes):
        return
    for file in (
        directory.home / "pyproject.toml",
        *sorted(directory.home.glob("requirements*.txt")),
    ):
        pattern = r"(?<![\w-])(psycopg2-binary|psycopg2|psycopg)(?![\w-])"
        text = text_of(file)
        if sources.engine != "sync" and re.search(r"(?<![\w-])asyncpg(?![\w-])", text):
            return
        for requirement in re.findall(pattern, text):
            if sources.engine != "sync" and requirement != "psycopg":
                continue
            scheme = f"postgresql+{REQUIREMENTS[requirement]}"
            place = f"{shown(file, root)} requires {requirement}"
            sources.schemes.append(Sighting(value=scheme, place=place))


def _ranked(variables: Sequence[Sighting[str]]) -> list[Sighting[str]]:
    """Remove duplicates, and sort the service's own main database to the front."""
    first: dict[str, Sighting[str]] = {}
    for variable in variables:
        first.setdefault(variable.value, variable)

    def rank(variable: Sighting[str]) -> tuple[bool, bool]:
        return not variable.own, bool(SECONDARY.search(variable.value))

    return sorted(first.values(), key=rank)


def local_ports_of(sources: Sources) -> Iterator[Sighting[int]]:
    """Yield the ports that databases have on this machine according to the sources."""
    for seen in sources.urls:
        if seen.value.port and seen.value.is_local:
            yield Sighting(value=seen.value.port, place=seen.place, own=seen.own)
    yield from sources.ports
