"""Assigns database servers to services: adds points for every reason, and names the reasons."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from huleedu_tasks.compose.database_service import Container
from huleedu_tasks.config.urls import POSTGRES_PORT
from huleedu_tasks.discovery.name_likeness import common_prefix, initials, likeness, stem
from huleedu_tasks.discovery.server_databases import database_sightings, databases_created
from huleedu_tasks.discovery.service_facts import Reading, telling_name
from huleedu_tasks.discovery.sources import Sources, local_ports_of
from huleedu_tasks.migrations.directories import ServiceDirectory
from huleedu_tasks.repository import shown

# Points, from the strongest reason to the weakest; one outweighs all weaker ones together.
GIVEN, HOST, GIVEN_SECOND, WAITS = 1000, 500, 400, 200
PORT, LOCAL_PORT, DATABASE, NAME = 100, 90, 45, 40
Reason = tuple[float, str]
# For 5432, which many examples have.
USUAL_PORT = 30
ONLY_ONE = 20
INITIALS = 15
# A server with fewer points is no candidate.
THRESHOLD = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A server that may belong to a service, with its points and the reasons."""

    server: Container
    points: float
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefixes:
    """The common first words of names; empty strings if there are none."""

    directories: str
    servers: str
    databases: str

    @classmethod
    def of(
        cls, directories: Sequence[ServiceDirectory], servers: Mapping[str, Container]
    ) -> "Prefixes":
        """Determine the common first words of directories, servers and databases."""
        return cls(
            directories=common_prefix(telling_name(directory) for directory in directories),
            servers=common_prefix(servers),
            databases=common_prefix(server.database for server in servers.values()),
        )


def candidates(
    readings: Sequence[Reading], servers: Mapping[str, Container], root: Path
) -> dict[Path, list[Candidate]]:
    """Return the servers that may belong to each service, the most likely first.

    Returns:
        The candidates by the key of the service's directory; empty if no server matches.
    """
    prefixes = Prefixes.of([reading.directory for reading in readings], servers)
    found = {}
    for reading in readings:
        scored = [
            _candidate(reading, server, servers, prefixes, root) for server in servers.values()
        ]
        likely = [candidate for candidate in scored if candidate.points >= THRESHOLD]
        found[reading.directory.key] = sorted(likely, key=lambda candidate: -candidate.points)
    return found


def single_best(likely: Sequence[Candidate]) -> Candidate | None:
    """Return the server with the most points; `None` without one, or if two are equal."""
    if not likely or (len(likely) > 1 and likely[0].points == likely[1].points):
        return None
    return likely[0]


def all_best(likely: Sequence[Candidate]) -> list[Candidate]:
    """Return the candidates with as many points as the first."""
    return [candidate for candidate in likely if candidate.points == likely[0].points]


def _candidate(
    reading: Reading,
    server: Container,
    servers: Mapping[str, Container],
    prefixes: Prefixes,
    root: Path,
) -> Candidate:
    reasons = [
        *_by_applications(reading, server),
        *_by_sources(reading.sources, server, root),
        *_by_names(reading.directory, server, prefixes, root),
    ]
    # Any service may use a server whose name refers to no service.
    nameless = not stem(server.name, prefixes.servers)
    if not reasons and nameless and len(servers) == 1 and reading.sources.names_database:
        reasons.append((ONLY_ONE, f"{server.name} is the only PostgreSQL server"))
    reasons.sort(key=lambda reason: -reason[0])
    return Candidate(
        server=server,
        points=sum(points for points, _ in reasons),
        reasons=tuple(text for _, text in reasons),
    )


def _by_applications(reading: Reading, server: Container) -> list[Reason]:
    databases = [
        database for database in reading.containers.databases if database.server == server.name
    ]
    if not databases:
        waits = [place for name, place in reading.containers.waits_for if name == server.name]
        return [(WAITS, place) for place in waits[:1]]
    main = [database for database in databases if database.is_main]
    return [(GIVEN if main else GIVEN_SECOND, (main or databases)[0].place)]


def _by_sources(sources: Sources, server: Container, root: Path) -> list[Reason]:
    reasons: list[Reason] = []
    hosts = {server.name, server.container_name} - {""}
    for seen in sources.urls:
        if seen.value.host in hosts:
            reasons.append((HOST, seen.place))
            break
    port = server.port
    sightings = [sighting for sighting in local_ports_of(sources) if sighting.value == port]
    weaker = [sighting for sighting in sources.local_ports if sighting.value == port]
    if port and (sightings or weaker):
        points = USUAL_PORT if port == POSTGRES_PORT else PORT if sightings else LOCAL_PORT
        reasons.append((points, (sightings or weaker)[0].place))
    named = database_sightings(sources)
    if found := [named[name] for name in databases_created(server, root) if name in named]:
        reasons.append((DATABASE, found[0]))
    return reasons


def _by_names(
    directory: ServiceDirectory, server: Container, prefixes: Prefixes, root: Path
) -> list[Reason]:
    name = telling_name(directory)
    own = stem(name, prefixes.directories)
    server_words = stem(server.name, prefixes.servers)
    database_words = stem(server.database, prefixes.databases)
    by_server, by_database = likeness(own, server_words), likeness(own, database_words)
    if server_words and database_words:
        # A replica has the database's name, and one of its own.
        alike = 0.6 * by_server + 0.4 * by_database
    else:
        alike = by_server + by_database
    which = server.name if by_server else server.database
    if alike:
        return [(NAME * alike, f"{shown(directory.home, root)} and {which} have similar names")]
    short = {"".join(server_words), "".join(database_words)}
    if len(initials(name)) > 1 and initials(name) in short:
        return [(INITIALS, f"{server.name} has the initials of {name}")]
    return []
