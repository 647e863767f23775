"""Which servers a reset recreates as a whole, so that their init scripts run again.

Init scripts run only in a new data directory. A server on which other databases have tables is
never recreated without `--volumes`.
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
    """What a run decides about its servers, by the name of their Compose service.

    Attributes:
        urls: The database URL of each service of the run, by the service's name.
    """

    settings: Settings
    registry: Registry
    urls: Mapping[str, ResolvedUrl]
    # Servers to be recreated.
    _needed: set[str] = field(default_factory=set)
    # Servers that are kept although their init scripts should run, with the databases that would
    # be lost.
    _kept: dict[str, Collection[str]] = field(default_factory=dict)
    # Services whose databases were proven disposable.
    _proven: set[str] = field(default_factory=set)

    async def require(self, admin: "asyncpg.Connection", service: Service) -> None:
        """Mark a service's server for recreation, unless that would destroy other databases."""
        others = await self._other_data(admin, service)
        if others:
            self._kept[service.compose_service] = others
        else:
            self._needed.add(service.compose_service)

    def is_needed(self, service: Service) -> bool:
        """Whether a service's server will be recreated."""
        return service.compose_service in self._needed

    def is_kept(self, service: Service) -> bool:
        """Whether a service's server is kept although its init scripts should run."""
        return service.compose_service in self._kept

    def prove(self, service: Service) -> None:
        """Record that a service's databases were proven disposable."""
        self._proven.add(service.name)

    def expect_all_proven(self, service: Service) -> None:
        """Require that every service of the run on a server was proven disposable.

        Raises:
            ServerError: If one failed before: its data would be lost without being rebuilt.
        """
        failed = [other.name for other in self.sharing(service) if other.name not in self._proven]
        if failed:
            raise ServerError(
                f"{service.name}: the server {service.compose_service!r} was not recreated, "
                f"because {', '.join(failed)} failed and has a database on it.",
                code="server-not-recreated",
                hint=f"Correct {', '.join(failed)}, then run the command again.",
            )

    def sharing(self, service: Service) -> Sequence[Service]:
        """Return the services of the run on a service's server."""
        return [other for other in self._on_server(service) if other.name in self.urls]

    def databases_beside(self, service: Service) -> dict[str, str]:
        """Return the databases of services on the same server that are not in the run.

        Returns:
            The service's name by its database, without services whose URL does not resolve.
        """
        found = {}
        for other in self._on_server(service):
            if other.name not in self.urls and (url := self._url(other)):
                found[url.database] = other.name
        return found

    def notes(self) -> tuple[str, ...]:
        """Return a note for each server that was kept, with the command that recreates it."""
        first = {other.compose_service: other for other in reversed(self.registry.services)}
        return tuple(self._note(first[server], names) for server, names in self._kept.items())

    def _note(self, service: Service, names: Collection[str]) -> str:
        flag = "" if set(names) <= self.databases_beside(service).keys() else " --volumes"
        selected = "".join(f" --service {other.name}" for other in self._on_server(service))
        return (
            f"The init scripts of the server {service.compose_service!r} did not run, because it "
            f"also has {', '.join(sorted(names))}. Roles, extensions and schemas that they create "
            f"may be missing or outdated. To recreate the server, these databases included, run "
            f"`invoke db.reset{flag}{selected}`."
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
        """Return the databases on a server that have tables and belong to no service of the run."""
        own = {
            name
            for other in self.sharing(service)
            for name in _names_of(self.urls[other.name].url.database)
        }
        url = self.urls[service.name].url
        names = set(await databases.open_names(admin)) - own
        return [name for name in sorted(names) if await _holds_tables(url, name)]


def _names_of(database: str) -> tuple[str, ...]:
    """Return the names under which a service's database and its copies exist."""
    return (
        database,
        clones.init_snapshot_name(database),
        replacing.successor_name(database),
        replacing.predecessor_name(database),
    )


async def _holds_tables(url: DatabaseUrl, name: str) -> bool:
    """Whether a database has tables; True if it cannot be reached."""
    try:
        async with connection(url, database=name) as session:
            return await databases.holds_tables(session)
    except HuleEduError:
        return True
