"""Which servers a reset recreates as a whole, since only their init scripts give the same state.

Init scripts run when a server's data directory is new, so what they create is there again only with
a new one. A server whose other databases hold tables is never recreated without `--volumes`.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from huleedu_tasks.config.registry import Registry, Service
from huleedu_tasks.config.settings import Settings
from huleedu_tasks.config.urls import DatabaseUrl, ResolvedUrl, resolve
from huleedu_tasks.errors import HuleEduError, ServerError
from huleedu_tasks.postgres import clones, databases, replacing
from huleedu_tasks.postgres.connections import connection

if TYPE_CHECKING:
    import asyncpg


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewals:
    """What a run decides about its servers; a server is known by its compose service.

    Attributes:
        urls: Where the database of each service in the run is, by the service's name.
    """

    settings: Settings
    registry: Registry
    urls: Mapping[str, ResolvedUrl]
    # Servers to be recreated.
    _needed: set[str] = field(default_factory=set)
    # Servers that are kept although their init scripts should run, with the databases that are why.
    _kept: dict[str, Collection[str]] = field(default_factory=dict)
    # Services whose part of a server may be destroyed.
    _proven: set[str] = field(default_factory=set)

    async def require(self, admin: "asyncpg.Connection", service: Service) -> None:
        """Have a service's server recreated, unless that would destroy the data of others."""
        others = await self._other_data(admin, service)
        if others:
            self._kept[service.compose_service] = others
        else:
            self._needed.add(service.compose_service)

    def is_needed(self, service: Service) -> bool:
        """Whether a service's server is to be recreated."""
        return service.compose_service in self._needed

    def is_kept(self, service: Service) -> bool:
        """Whether a service's server is kept although its init scripts should run."""
        return service.compose_service in self._kept

    def prove(self, service: Service) -> None:
        """Note that nothing of a service keeps its server from being recreated."""
        self._proven.add(service.name)

    def expect_all_proven(self, service: Service) -> None:
        """See that every service of the run on a server agrees to its end.

        Raises:
            ServerError: If one has failed before; its data would be destroyed in vain.
        """
        failed = [other.name for other in self.sharing(service) if other.name not in self._proven]
        if failed:
            raise ServerError(
                f"{service.name}: the server {service.compose_service!r} was not recreated, "
                f"because {', '.join(failed)} failed first and has a database on it.",
                code="server-not-recreated",
                hint=f"Correct {', '.join(failed)}, and run the command again.",
            )

    def sharing(self, service: Service) -> Sequence[Service]:
        """Return the services of the run on a service's server."""
        return [other for other in self._on_server(service) if other.name in self.urls]

    def databases_beside(self, service: Service) -> dict[str, str]:
        """Return the databases of services on the same server that are not in the run.

        Returns:
            The service's name by its database; without those whose URL cannot be resolved.
        """
        found = {}
        for other in self._on_server(service):
            if other.name not in self.urls and (url := self._url(other)):
                found[url.database] = other.name
        return found

    def notes(self) -> tuple[str, ...]:
        """Say of each server that was kept what is missing, and which command creates it."""
        first = {other.compose_service: other for other in reversed(self.registry.services)}
        return tuple(self._note(first[server], names) for server, names in self._kept.items())

    def _note(self, service: Service, names: Collection[str]) -> str:
        flag = "" if set(names) <= self.databases_beside(service).keys() else " --volumes"
        selected = "".join(f" --service {other.name}" for other in self._on_server(service))
        return (
            f"The init scripts of the server {service.compose_service!r} did not run, because it "
            f"also holds {', '.join(sorted(names))}. What they create (roles, extensions, schemas) "
            f"may be missing or outdated. "
            f"`invoke db.reset{flag}{selected}` recreates the server, these databases included."
        )

    def _on_server(self, service: Service) -> list[Service]:
        server = service.compose_service
        return [other for other in self.registry.services if other.compose_service == server]

    def _url(self, service: Service) -> DatabaseUrl | None:
        try:
            return resolve(service, self.settings).url
        except HuleEduError:
            return None

    async def _other_data(self, admin: "asyncpg.Connection", service: Service) -> list[str]:
        """Return the databases on a server that hold tables and belong to no service of the run."""
        own = {
            name
            for other in self.sharing(service)
            for name in _names_of(self.urls[other.name].url.database)
        }
        url = self.urls[service.name].url
        names = set(await databases.open_names(admin)) - own
        return [name for name in sorted(names) if await _holds_tables(url, name)]


def _names_of(database: str) -> tuple[str, ...]:
    """Return the names that a service's database has during its life."""
    return (
        database,
        clones.init_snapshot_name(database),
        replacing.successor_name(database),
        replacing.predecessor_name(database),
    )


async def _holds_tables(url: DatabaseUrl, name: str) -> bool:
    """Whether a database holds tables; one that cannot be asked may."""
    try:
        async with connection(url, database=name) as asked:
            return await databases.holds_tables(asked)
    except HuleEduError:
        return True
