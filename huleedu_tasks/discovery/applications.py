"""The containers that run the services, and the databases their variables name."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from huleedu_tasks.compose.database_service import Container
from huleedu_tasks.discovery.found_urls import UNKNOWN, see_url
from huleedu_tasks.discovery.name_likeness import stem
from huleedu_tasks.discovery.python_source import names_database
from huleedu_tasks.discovery.sources import SECONDARY
from huleedu_tasks.migrations.directories import ServiceDirectory
from huleedu_tasks.repository import shown

HOST_VARIABLE = re.compile(
    r"(DB|DATABASE|POSTGRES|POSTGRESQL|PG)_?(HOST|HOSTNAME|SERVER)$|^PGHOST$", re.IGNORECASE
)
DATABASE_VARIABLE = re.compile(
    r"(DB|DATABASE|POSTGRES|POSTGRESQL|PG)_?(NAME|DB|DATABASE)$|_DB$", re.IGNORECASE
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedDatabase:
    """A database that the environment of a container names.

    Attributes:
        container: The name of that container.
        variable: The variable that holds the whole URL; empty string if the parts of the URL have
            separate variables.
        server: The name of the container of the database server.
        database: The name of the database; empty string if no variable states it.
        scheme: The scheme of the URL; empty string if the parts have separate variables.
        place: The file, the variable and its value, for the user.
        is_main: False if the name of the variable marks a secondary database, such as a replica.
    """

    container: str
    variable: str
    server: str
    database: str
    scheme: str
    place: str
    is_main: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerFacts:
    """What the containers of one service state about databases.

    Attributes:
        databases: The databases that their variables name.
        waits_for: The servers in their `depends_on`, each with its place in the compose files.
    """

    databases: tuple[NamedDatabase, ...] = ()
    waits_for: tuple[tuple[str, str], ...] = ()


def container_facts(
    applications: Sequence[Container],
    servers: Mapping[str, Container],
    directories: Sequence[ServiceDirectory],
    root: Path,
) -> dict[Path, ContainerFacts]:
    """Return what the containers of each service state, by the key of its directory.

    Args:
        applications: The containers that are no database servers.
        servers: The database servers, by the name of the Compose service.
        root: The directory that paths are shown relative to.
    """
    runs = services_run(applications, directories, root)
    known = named_databases(applications, servers, root)
    waiting = waited_for(applications, servers, root)

    def is_of(container: str, directory: ServiceDirectory) -> bool:
        return container in runs and runs[container].key == directory.key

    return {
        directory.key: ContainerFacts(
            databases=tuple(database for database in known if is_of(database.container, directory)),
            waits_for=tuple(
                pair for name in waiting if is_of(name, directory) for pair in waiting[name]
            ),
        )
        for directory in directories
    }


def services_run(
    applications: Iterable[Container], directories: Sequence[ServiceDirectory], root: Path
) -> dict[str, ServiceDirectory]:
    """Return the service that each application container runs, by the container's name.

    A container that fits no service, or several equally well, is left out.
    """
    points: dict[str, dict[Path, int]] = {}
    for application in applications:
        for directory in directories:
            known = points.setdefault(application.name, {})
            found = _belongs(application, directory, root)
            known[directory.key] = known.get(directory.key, 0) + found
    by_key = {directory.key: directory for directory in directories}
    return {name: by_key[best] for name, score in points.items() if (best := _unique_best(score))}


def named_databases(
    applications: Iterable[Container], servers: Mapping[str, Container], root: Path
) -> list[NamedDatabase]:
    """Return every database that the variables of the application containers name."""
    # A container has the host name of its Compose service and that of its `container_name`.
    hosts = {name: name for name in servers}
    hosts |= {
        server.container_name: name for name, server in servers.items() if server.container_name
    }
    return [
        found
        for application in applications
        for found in (*_urls(application, hosts, root), *_parts(application, hosts, root))
    ]


def waited_for(
    applications: Iterable[Container], servers: Mapping[str, Container], root: Path
) -> dict[str, list[tuple[str, str]]]:
    """Return the servers in the `depends_on` of each container, by the container's name.

    Each server comes with its place in the compose files.
    """
    return {
        application.name: [
            (name, f"{_where(application, root)}: {application.name} depends on {name}")
            for name in application.depends_on
            if name in servers
        ]
        for application in applications
    }


def _urls(application: Container, hosts: Mapping[str, str], root: Path) -> Iterable[NamedDatabase]:
    for variable, value in application.environment.items():
        url = see_url(value)
        if url and url.host in hosts:
            server = hosts[url.host]
            yield NamedDatabase(
                container=application.name,
                variable=variable,
                server=server,
                database=url.database,
                scheme=url.scheme,
                place=f"{_where(application, root)}: {variable} of {application.name} resolves to "
                f"{server}{'/' * bool(url.database)}{url.database}",
                is_main=not SECONDARY.search(variable.upper()),
            )


def _parts(application: Container, hosts: Mapping[str, str], root: Path) -> Iterable[NamedDatabase]:
    environment = application.environment
    for variable, value in environment.items():
        if not HOST_VARIABLE.search(variable) or value not in hosts:
            continue
        server = hosts[value]
        names = [
            database
            for name, database in environment.items()
            if DATABASE_VARIABLE.search(name)
            and (names_database(name, database) or UNKNOWN in database)
        ]
        yield NamedDatabase(
            container=application.name,
            variable="",
            server=server,
            database=names[0] if len(set(names)) == 1 and UNKNOWN not in names[0] else "",
            scheme="",
            place=f"{_where(application, root)}: {variable} of {application.name} is {server}",
            is_main=not SECONDARY.search(variable.upper()),
        )


def _where(application: Container, root: Path) -> str:
    return shown(application.file, root) if application.file else "compose files"


def _belongs(application: Container, directory: ServiceDirectory, root: Path) -> int:
    """Return points for how likely a container runs a service; 0 without any indication."""
    home = directory.home
    relative = PurePosixPath(home.relative_to(root).as_posix())
    points = 0
    if directory.contains(application.build_context):
        points += 6 if home != root else 1
    if directory.contains(application.dockerfile) and home != root:
        points += 5
    if home != root and any(
        source.startswith("/") and directory.contains(Path(source))
        for source, _ in application.mounts
    ):
        points += 4
    inside = PurePosixPath(application.working_dir or "/")
    if relative.parts and inside.parts[-len(relative.parts) :] == relative.parts:
        points += 3
    elif inside.name == home.name:
        points += 2
    if relative.parts and re.search(
        rf"(?<![\w-])({re.escape(str(relative))}|{re.escape('.'.join(relative.parts))})(?![\w-])",
        application.command,
    ):
        points += 3
    if stem(application.name) and stem(application.name) == stem(home.name):
        points += 2
    return points


def _unique_best(points: Mapping[Path, int]) -> Path | None:
    best = max(points.values(), default=0)
    holders = [path for path, score in points.items() if score == best]
    return holders[0] if best and len(holders) == 1 else None
