"""The state of each service, of its database and of its server while a command runs.

`begin` creates these objects once per command and links them: services that share a database have
the same `DatabaseRun`, and those on one server the same `ServerRun`.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING

from huleedu_tasks import parallel
from huleedu_tasks.config.registry import Registry, Service, seeding_predecessors
from huleedu_tasks.config.settings import Settings
from huleedu_tasks.config.urls import DatabaseUrl, ResolvedUrl, resolve, resolve_all
from huleedu_tasks.errors import HuleEduError
from huleedu_tasks.guard import Guard
from huleedu_tasks.migrations.alembic_history import AlembicHistories
from huleedu_tasks.migrations.revisions import History
from huleedu_tasks.postgres import databases
from huleedu_tasks.postgres.connections import close, connect_beside
from huleedu_tasks.postgres.databases import EnvironmentTag, VersionTable
from huleedu_tasks.report import Fact, Outcome
from huleedu_tasks.servers.protocol import Provider
from huleedu_tasks.shared_databases import Member, same_table, same_tables, shared_databases
from huleedu_tasks.templates.policy import Build, TemplatePolicy

if TYPE_CHECKING:
    import asyncpg


@dataclass(slots=True, kw_only=True, eq=False)
class Context:
    """What all services of a run use.

    Attributes:
        registry: All services, also those that are not in the run.
        histories: What each service's Alembic reports, and the processes that run it.
        notify: Called with the output of seeds.
        services: The services of the run, in registry order.
        keeps_undo: Whether a replaced database that was written to is kept as the undo snapshot.
        may_lose_snapshots: Whether a server with named snapshots may be recreated.
        began: When the command began, in seconds since the epoch.
    """

    settings: Settings
    provider: Provider
    registry: Registry
    guard: Guard
    templates: TemplatePolicy
    histories: AlembicHistories
    notify: Callable[[str], object] = str
    services: "tuple[ServiceRun, ...]" = field(default=(), repr=False)
    keeps_undo: bool = True
    may_lose_snapshots: bool = False
    began: float = field(default_factory=time.time)

    @property
    def tag(self) -> EnvironmentTag:
        """The environment tag of a complete database."""
        return EnvironmentTag(environment=str(self.settings.environment))

    def expect_migrations(self) -> None:
        """Start the process that imports Alembic, while the run waits for servers."""
        if not all(service.python for service in self.registry.services):
            self.histories.workers.prepare()

    def expect_seeds(self) -> None:
        """Start the process that imports what seeds need, while the run waits for servers."""
        if any(service.seeds for service in self.registry.services):
            from huleedu_tasks.seeds.apply import CHILD

            self.histories.workers.prepare(CHILD)

    async def aclose(self) -> None:
        """Close the connections and processes that were kept for the whole run."""
        closing = [run.close() for run in self.services]
        if parallel.is_interrupted():
            # A task of its own would not know, and would wait for the server.
            for closed in closing:
                await closed
        else:
            await asyncio.gather(*closing)
        await parallel.run_to_end(self.histories.aclose())


@dataclass(slots=True, kw_only=True, eq=False)
class ServerRun:
    """One server in a run.

    Attributes:
        name: The name of its Compose service.
        services: Every service of the registry that has a database on it.
        runs: Those of them that are in the run.
        must_be_recreated: Whether the run recreates it, so that its init scripts run again.
        databases_to_lose: The databases for which it is kept although its init scripts should run.
        snapshotted: The databases outside the run of which an init snapshot was saved.
    """

    name: str
    services: Sequence[Service]
    runs: "list[ServiceRun]" = field(default_factory=list, repr=False)
    must_be_recreated: bool = False
    databases_to_lose: Collection[str] = ()
    snapshotted: set[str] = field(default_factory=set)

    @property
    def outside(self) -> list[Service]:
        """The services on the server that are not in the run."""
        inside = [run.service for run in self.runs]
        return [service for service in self.services if service not in inside]

    def databases_outside(self, settings: Settings) -> set[str]:
        """Return the databases of services outside the run whose URL resolves."""
        urls = (_url_or_none(service, settings) for service in self.outside)
        return {url.database for url in urls if url}

    def filled_outside(self, settings: Settings) -> set[str]:
        """Return the databases of services outside the run that init scripts may fill."""
        urls = ((service, _url_or_none(service, settings)) for service in self.outside)
        return {filled_database(service, url) for service, url in urls if url}


@dataclass(slots=True, kw_only=True, eq=False)
class DatabaseRun:
    """One database in a run.

    Attributes:
        members: The services that share it in registry order, also those outside the run. The first
            one leads: the database is recreated for it.
        lock: Held by the service that works on the database.
        build: Its build in this run; None if it is not being built.
        is_copied: Whether it is a complete copy of a template.
        is_on_new_server: Whether this run has created its server.
        is_unfinished: Whether it was replaced and is not complete yet.
        keeps_predecessor: Whether the previous database still exists.
        has_undo: Whether this run has kept the previous database as the undo snapshot.
        has_data_to_lose: Whether the data that a recreated server loses may be the user's.
        undo_lost: Why it has not, as a clause; an empty string if it has, or need not.
        snapshots: Its named snapshots by name, once they were read.
    """

    members: "list[ServiceRun]" = field(default_factory=list, repr=False)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    build: Build | None = None
    is_copied: bool = False
    is_on_new_server: bool = False
    is_unfinished: bool = False
    keeps_predecessor: bool = False
    has_undo: bool = False
    undo_lost: str = ""
    has_data_to_lose: bool = False
    snapshots: Mapping[str, EnvironmentTag] = field(default_factory=dict)

    @property
    def leader(self) -> "ServiceRun":
        """The service for which the database is recreated."""
        return self.members[0]

    @property
    def services(self) -> tuple[Service, ...]:
        """The services that share the database."""
        return tuple(member.service for member in self.members)


@dataclass(slots=True, kw_only=True, eq=False)
class ServiceRun:
    """One service in a run.

    Attributes:
        resolved: The URL of its database and the source of that URL.
        database: The state of its database.
        server: The state of its server.
        migrate_after: The services of the run that must be migrated before it.
        seed_after: The services of the run that must be seeded before it.
        init_scripts: The fingerprint of its server's init scripts when the reset began; empty
            string if there are none.
        is_proven: Whether all data of its server was proven disposable.
        version_tables: The version tables that a migration of this run has reported.
    """

    context: Context = field(repr=False)
    service: Service
    resolved: ResolvedUrl
    database: DatabaseRun
    server: ServerRun
    migrate_after: "Sequence[ServiceRun]" = field(default=(), repr=False)
    seed_after: "Sequence[ServiceRun]" = field(default=(), repr=False)
    init_scripts: str = ""
    is_proven: bool = False
    version_tables: Sequence[VersionTable] = ()
    _admin: "asyncpg.Connection | None" = None
    _history: History | None = None

    @property
    def name(self) -> str:
        """The service's name."""
        return self.service.name

    @property
    def url(self) -> DatabaseUrl:
        """The URL of the service's database."""
        return self.resolved.url

    @property
    def filled_database(self) -> str:
        """The database on its server that init scripts fill."""
        return filled_database(self.service, self.url)

    @property
    def is_leader(self) -> bool:
        """Whether the database is recreated for this service."""
        return self.database.leader is self

    def done(self, detail: str = "", facts: Mapping[str, Fact] | None = None) -> Outcome:
        """Return the outcome of a stage that succeeded."""
        return Outcome(service=self.name, detail=detail, facts=facts or {})

    async def admin(self) -> "asyncpg.Connection":
        """Return a connection to another database on the service's server.

        It stays open until `close`. If the server has closed it, a new one is opened.
        """
        if self._admin is None or self._admin.is_closed():
            used = [run.url.database for run in self.context.services]
            self._admin = await connect_beside(self.url, used=used)
            # A crash that loses a tag also loses the new database it belongs to.
            await self._admin.execute("SET synchronous_commit = off")
        return self._admin

    async def close(self) -> None:
        """Close the connection that `admin` has opened."""
        opened, self._admin = self._admin, None
        if opened:
            await close(opened)

    async def prove_disposable(self) -> "asyncpg.Connection":
        """Prove that the database may be destroyed, and return the connection that proved it.

        Raises:
            Refused: With the condition that does not hold.
        """
        admin = await self.admin()
        await self.context.guard.prove_disposable(admin, self.service, self.url.database)
        return admin

    async def prove_place(self) -> tuple[str, int]:
        """Prove the database disposable; return its server's start time and its OID there."""
        return await databases.place(await self.prove_disposable(), self.url.database)

    async def history(self) -> History:
        """Return the service's revisions, which are read once per run."""
        if self._history is None:
            self._history = await self.context.histories.history(self.service, self.url)
        return self._history

    def require_own_version_tables(self, reported: Sequence[VersionTable] = ()) -> None:
        """Require that no other service of a shared database uses the same version table.

        Args:
            reported: The tables that a migration of the service has reported; empty if none has
                run.

        Raises:
            Refused: If two services use the same version table.
        """
        members = self.database.members
        if len(members) == 1:
            return
        self.version_tables = reported or self.version_tables
        known = [(member.service, member.known_version_tables()) for member in members]
        for (one, tables), (other, its_tables) in combinations(known, 2):
            if common := same_tables(tables, its_tables):
                raise same_table(one, other, common)

    def known_version_tables(self) -> Sequence[VersionTable] | None:
        """Return the version tables that are known without asking `env.py`; None if none are."""
        return self.version_tables or self.context.histories.known_version_tables(
            self.service, self.url
        )


def begin(context: Context, services: Sequence[Service]) -> None:
    """Create the state of the services of a run.

    Args:
        context: Receives them as `services`.
        services: The selected services, in registry order.

    Raises:
        ConfigurationError: If the URL of a service cannot be resolved.
    """
    linked = {run.name: run for run in _link(context, services)}
    selected = {service.name: linked[service.name] for service in services}
    seed_after = seeding_predecessors(services)
    for name, run in selected.items():
        run.server.runs.append(run)
        run.migrate_after = [selected[n] for n in run.service.migrate_after if n in selected]
        run.seed_after = [selected[n] for n in seed_after[name] if n in selected]
    context.services = tuple(selected.values())


def _link(context: Context, services: Sequence[Service]) -> list[ServiceRun]:
    """Return a run for each service and each that shares a database with it, with its server."""
    servers: dict[str, ServerRun] = {}
    runs = []
    for members in _databases(context, services):
        database = DatabaseRun()
        for member in members:
            name = member.service.compose_service
            if name not in servers:
                on_it = [s for s in context.registry.services if s.compose_service == name]
                servers[name] = ServerRun(name=name, services=on_it)
            run = ServiceRun(
                context=context,
                service=member.service,
                resolved=member.resolved,
                database=database,
                server=servers[name],
            )
            database.members.append(run)
            runs.append(run)
    return runs


def _databases(context: Context, services: Sequence[Service]) -> list[Sequence[Member]]:
    """Return the members of each database of the services."""
    urls = resolve_all(services, context.settings).values()
    alone = [
        [Member(service=service, resolved=resolved)]
        for service, resolved in zip(services, urls, strict=True)
        if not service.shared_database
    ]
    return [*alone, *shared_databases(context.registry, services, context.settings)]


def filled_database(service: Service, url: DatabaseUrl) -> str:
    """Return the database on a service's server that init scripts fill.

    That is its database of development also in testing: they do not know that of testing.
    """
    is_testing = url.database == service.testing_database
    return service.database if is_testing else url.database


def _url_or_none(service: Service, settings: Settings) -> DatabaseUrl | None:
    try:
        return resolve(service, settings).url
    except HuleEduError:
        return None


# The order of the services within a stage.


def after_migrated(run: ServiceRun) -> Sequence[ServiceRun]:
    """Return the services that must be migrated before one."""
    return run.migrate_after


def after_leader(run: ServiceRun) -> Sequence[ServiceRun]:
    """Return the service for which a service's database is recreated, unless it is the same."""
    return () if run.is_leader else (run.database.leader,)


def after_seeded(run: ServiceRun) -> Sequence[ServiceRun]:
    """Return the services that must be seeded before one."""
    return run.seed_after
