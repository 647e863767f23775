"""Builds a service's history up to given revisions in a throwaway database.

A database that was built is kept as a template: with the same inputs, the next replay copies it.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence, Set
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from huleedu_tasks import parallel
from huleedu_tasks.config.registry import Registry, Service
from huleedu_tasks.config.settings import Environment, ProviderName, Settings
from huleedu_tasks.config.urls import DatabaseUrl, resolve, resolve_direct, resolve_each
from huleedu_tasks.errors import MigrationError
from huleedu_tasks.instances.instance import Instance
from huleedu_tasks.migrations import runner
from huleedu_tasks.migrations.alembic_history import AlembicHistories
from huleedu_tasks.migrations.child_process import Alembic
from huleedu_tasks.migrations.inputs import Inputs, Present
from huleedu_tasks.migrations.observation import Observation, throwaway_observation
from huleedu_tasks.migrations.results import Used
from huleedu_tasks.migrations.revisions import History
from huleedu_tasks.postgres import clones, databases
from huleedu_tasks.postgres.connections import connection
from huleedu_tasks.postgres.databases import EnvironmentTag
from huleedu_tasks.process import scratch_directory
from huleedu_tasks.schema.throwaway_servers import (
    RunningServer,
    ThrowawayServer,
    ThrowawayServers,
    address_of,
)
from huleedu_tasks.templates.policy import Build, TemplatePolicy

# What a report names as the provider of databases that a command creates for itself.
PROVIDER = "throwaway"
PROVIDER_REASON = "databases of this command only"
_WHY = "a replay"
# Templates of one service, each with the history up to other revisions.
_KEPT = 6


class RevisionFailed(MigrationError):
    """A revision, or the commit of revisions, failed on a throwaway database.

    Attributes:
        revision: The revision that failed; an empty string if Alembic failed outside of one.
        statement: The SQL that failed; an empty string if the error is not of a statement.
    """

    revision: str = ""
    statement: str = ""


@dataclass(kw_only=True)
class Replays:
    """The replays of one command. `aclose` stops the servers and processes that they started.

    Attributes:
        settings: The settings of development or testing, see `disposable`.
        registry: All services.
        state: The project's state directory.
        instance: The instance whose servers of development may be used; None for the main fleet.
        notify: Called with a sentence if another command uses a server.
    """

    settings: Settings
    registry: Registry
    state: Path
    instance: Instance | None
    notify: Callable[[str], object] = str
    histories: AlembicHistories = field(init=False)
    _templates: TemplatePolicy = field(init=False)
    _until: AsyncExitStack = field(default_factory=AsyncExitStack)
    _starting: dict[str, asyncio.Task[RunningServer]] = field(default_factory=dict)
    _servers: dict[str, ThrowawayServer] = field(default_factory=dict)
    _throwaway_servers: ThrowawayServers = field(init=False)
    _inputs: dict[DatabaseUrl, Inputs] = field(default_factory=dict)
    _turns: dict[tuple[str, str], asyncio.Lock] = field(default_factory=dict)

    def __post_init__(self) -> None:
        stated = self.settings
        self.settings = disposable(stated, self.registry.services)
        self.histories = AlembicHistories(settings=self.settings, state=self.state)
        self._throwaway_servers = ThrowawayServers(
            settings=self.settings,
            registry=self.registry,
            state=self.state,
            instance=self.instance,
            external=external_addresses(stated, self.registry.services),
            notify=self.notify,
        )
        self._templates = TemplatePolicy(
            settings=self.settings,
            present=Present.of(self.settings),
            keeps_templates=True,
            fresh=False,
        )

    @asynccontextmanager
    async def database(
        self,
        service: Service,
        history: History,
        at: Sequence[str],
        *,
        step: Callable[[str], object] = str,
    ) -> AsyncIterator[DatabaseUrl]:
        """Create a database at given revisions, and drop it at the end of a `with` block.

        Args:
            history: The revisions of the service.
            at: The revisions to apply, with those that they need; empty for none.
            step: Called with each step.

        Raises:
            HuleEduError: If no server can be used.
            MigrationError: If a revision fails.
        """
        server = await self.server(service)
        name = clones.replay_name(service.database, _label(service, at))
        async with server.database(name) as url:
            await self._fill(server, url, history, at, step)
            yield url

    async def server(self, service: Service) -> ThrowawayServer:
        """Return the server of a service, which is started at its first use.

        Services may share a server; each has a connection of its own.

        Raises:
            HuleEduError: If no server can be used.
        """
        if service.name not in self._servers:
            name = service.compose_service
            if name not in self._starting:
                starting = self._throwaway_servers.start(service, self._until)
                self._starting[name] = asyncio.create_task(starting)
            running = await asyncio.shield(self._starting[name])
            self._servers[service.name] = await self._throwaway_servers.connect(
                running, service, self._until
            )
        return self._servers[service.name]

    async def upgrade(
        self, service: Service, url: DatabaseUrl, history: History, at: Sequence[str]
    ) -> None:
        """Apply the revisions of another service to a throwaway database of this command.

        Raises:
            MigrationError: If a revision fails.
        """
        await self._upgrade(await self.server(service), service, url, history, at, None)

    def turn(self, service: Service) -> asyncio.Lock:
        """Return the lock for work on several throwaway databases with the names of a database."""
        key = service.compose_service, service.database
        return self._turns.setdefault(key, asyncio.Lock())

    def alembic(self, service: Service, url: DatabaseUrl) -> Alembic:
        """Return a service's Alembic for a throwaway database."""
        return self.histories.alembic(service, url)

    def known_inputs(self, service: Service) -> Inputs:
        """Return the inputs of a replay that are known before it begins, without its server."""
        return self._templates.known_inputs([self._registered(service)])

    def inputs_of(self, url: DatabaseUrl) -> Inputs | None:
        """Return the inputs of a database of this command; None if it has no valid template."""
        return self._inputs.get(url)

    @property
    def present(self) -> Present:
        """The inputs as they were when the command began."""
        return self._templates.present

    @property
    def tag(self) -> EnvironmentTag:
        """The environment tag of throwaway databases."""
        return EnvironmentTag(environment=str(self.settings.environment))

    async def aclose(self) -> None:
        """Drop what is left, and stop the servers and the processes."""
        for starting in self._starting.values():
            starting.cancel()
        await asyncio.gather(*self._starting.values(), return_exceptions=True)
        await parallel.run_to_end(self._until.aclose())
        await parallel.run_to_end(self.histories.aclose())

    async def _fill(
        self,
        server: ThrowawayServer,
        url: DatabaseUrl,
        history: History,
        at: Sequence[str],
        step: Callable[[str], object],
    ) -> None:
        """Copy a template, or build the database and keep it as a template."""
        predecessors = list(self._predecessors(server.service))
        # On a server of development it would remain; the port of this start would be an input.
        is_kept = bool(at) and server.running.is_own
        registered = [self._registered(service) for service in (server.service, *predecessors)]
        build = (
            await self._templates.begin(server.admin, registered, "", why=_WHY) if is_kept else None
        )
        self._inputs.pop(url, None)
        template = await self._templates.find_valid(server.admin, build, url.database)
        if template:
            name, tag = template
            await clones.clone(server.admin, name, url.database, self.tag)
            self._inputs[url] = tag.parts
            return
        step("building its history")
        await self._create(server, url, build)
        for predecessor in predecessors:
            its_history = await self.histories.history(predecessor)
            await self._upgrade(server, predecessor, url, its_history, its_history.heads, build)
        await self._upgrade(server, server.service, url, history, at, build)
        # A role of a template could not be dropped.
        if build and not await clones.holds_roles(server.admin, url.database):
            await self._templates.keep(server.admin, build, url, self.tag)
            if kept := await self._templates.find_valid(server.admin, build, url.database):
                self._inputs[url] = kept[1].parts
            await clones.drop_old_replays(server.admin, server.service.database, kept=_KEPT)

    async def _create(self, server: ThrowawayServer, url: DatabaseUrl, build: Build | None) -> None:
        await databases.create(server.admin, url.database, self.tag)
        if not server.service.extensions:
            return
        async with connection(url, uncounted=True) as owner:
            for extension in server.service.extensions:
                await databases.create_extension(owner, extension)
        if build:
            build.add(Used(sessions=1))

    async def _upgrade(
        self,
        server: ThrowawayServer,
        service: Service,
        url: DatabaseUrl,
        history: History,
        at: Sequence[str],
        build: Build | None,
    ) -> None:
        is_whole = len(at) > 1 and set(at) == set(history.heads)
        for revision in (runner.HEADS,) if is_whole else at:
            with scratch_directory() as scratch:
                session = await throwaway_observation(server.admin, url, scratch / "events")
                try:
                    done = await runner.upgrade(
                        self.alembic(service, url), history, revision, session=session, beside=at
                    )
                except MigrationError as error:
                    raise _failed(error, session) from error
            if build:
                build.add(done.used)

    def _predecessors(self, service: Service) -> Iterable[Service]:
        """Return the services that must be migrated before one in the same database, in order."""
        found: dict[str, Service] = {}

        def add(names: Sequence[str]) -> None:
            for name in names:
                (other,) = self.registry.select([name])
                is_member = other.shared_database and other.database == service.database
                if is_member and name not in found:
                    add(other.migrate_after)
                    found[name] = other

        if service.shared_database:
            add(service.migrate_after)
        return found.values()

    def _registered(self, service: Service) -> Service:
        (found,) = self.registry.select([service.name])
        return found


def disposable(settings: Settings, services: Sequence[Service]) -> Settings:
    """Return settings of development, unless they are of development or testing already.

    A replay runs a service's code on a throwaway server also while production is examined. The URL
    variables and an existing server that such a command states may be those of production, so
    they are left out.
    """
    if settings.environment.is_disposable:
        return settings
    urls = {
        name
        for service in services
        for name in (
            service.url_variable,
            service.direct_url_variable,
            service.alembic_url_variable,
        )
    }
    stated = {settings.own_name("HULEEDU_ENVIRONMENT"): str(Environment.DEVELOPMENT)}
    if settings.provider is ProviderName.EXISTING:
        stated[settings.own_name("HULEEDU_PROVIDER")] = str(ProviderName.AUTO)
    return replace(
        settings,
        process={**_without(settings.process, urls), **stated},
        file=_without(settings.file, urls),
    )


def external_addresses(
    settings: Settings, services: Sequence[Service]
) -> frozenset[tuple[str, int]]:
    """Return the addresses of staging or production; none in development and testing."""
    if settings.environment.is_disposable:
        return frozenset()
    urls = [
        resolved.url
        for one in (resolve, resolve_direct)
        for resolved in resolve_each(services, settings, one)[0].values()
    ]
    return frozenset(map(address_of, urls))


def _without(variables: Mapping[str, str], names: Set[str]) -> dict[str, str]:
    return {name: value for name, value in variables.items() if name not in names}


def _failed(error: MigrationError, session: Observation) -> MigrationError:
    """Return the error of a run with the revision and the statement that failed, if one did.

    The commit of all revisions may fail as well, which is that of none of them.
    """
    events = session.read_events()
    event = next((e for e in events if e["event"] == "failed"), {})
    was_begun = any(e["event"] == "begun" for e in events)
    if not event.get("revision") and not (event.get("sqlstate") and was_begun):
        return error
    found = RevisionFailed(error.message, code=error.code, hint=error.hint, output=error.output)
    found.revision, found.statement = event["revision"] or "", event["statement"].strip()
    return found


def _label(service: Service, at: Sequence[str]) -> str:
    """Return a short name of revisions of a service, which may share its database."""
    return hashlib.sha256(" ".join((service.name, *at)).encode()).hexdigest()[: clones.LABEL_LENGTH]
