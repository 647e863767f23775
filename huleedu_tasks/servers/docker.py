"""The monorepo's own database containers, as its compose files define them."""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from huleedu_tasks.compose.configuration_cache import ComposeAnswers
from huleedu_tasks.compose.container_facts import ContainerFacts
from huleedu_tasks.compose.container_state import ContainerState
from huleedu_tasks.compose.docker_compose import Compose, Project, port_line
from huleedu_tasks.compose.docker_failures import explain_up
from huleedu_tasks.compose.engine import Engine
from huleedu_tasks.compose.fresh_volumes import Fresh, FreshVolumes
from huleedu_tasks.compose.instance_override import OVERRIDE_FILE, InstanceAnswers, compose_of
from huleedu_tasks.compose.project_containers import ProjectContainers
from huleedu_tasks.config.registry import Registry, Service
from huleedu_tasks.config.settings import ProviderName, Settings
from huleedu_tasks.config.urls import POSTGRES_PORT, DatabaseUrl
from huleedu_tasks.errors import ConfigurationError, HuleEduError, ServerError
from huleedu_tasks.instances.instance import OTHER_PORTS, Instance
from huleedu_tasks.postgres import databases
from huleedu_tasks.postgres.binaries import find_program
from huleedu_tasks.postgres.clones import Activity
from huleedu_tasks.postgres.connections import maintenance_connection
from huleedu_tasks.postgres.databases import EnvironmentTag, ServerIdentity
from huleedu_tasks.servers.protocol import CONTAINERS_FILE, Admin, LogCommand, Started
from huleedu_tasks.servers.readiness import Admission
from huleedu_tasks.state_dir import exclusive

# From this many new containers on, a helper container that initialises them all is faster.
_WORTH_A_HELPER = 2
_FILLING_LOCK = "volumes.lock"


@dataclass(kw_only=True)
class DockerServers:
    """The database containers of one compose project, during one command.

    Attributes:
        instance: The instance that they belong to; None for the main fleet.
    """

    settings: Settings
    registry: Registry
    compose: Compose
    engine: Engine
    answers: ComposeAnswers | InstanceAnswers
    facts: ContainerFacts
    reason: str
    instance: Instance | None = None
    name: ProviderName = ProviderName.DOCKER
    proves_identity: bool = True
    _configured: tuple[Project, ProjectContainers] | None = None
    _reading: asyncio.Lock = field(default_factory=asyncio.Lock)
    # By compose service: several services may share one.
    _locks: dict[str, asyncio.Lock] = field(default_factory=dict)
    _is_up: set[str] = field(default_factory=set)
    # The counters of the databases of freshly initialised servers; None for other servers.
    _counted: dict[str, Mapping[str, Activity] | None] = field(default_factory=dict)
    _renewed: set[str] = field(default_factory=set)
    # The volumes that this command has filled.
    _filled: dict[str, "_Filled"] = field(default_factory=dict)
    _volumes_before: set[str] = field(default_factory=set)
    # Set as soon as `prepare` has started the containers of a compose service, or failed to.
    _arrivals: dict[str, asyncio.Event] = field(default_factory=dict)
    _bringing_up: asyncio.Task[None] | None = None

    @classmethod
    def create(
        cls,
        settings: Settings,
        registry: Registry,
        state: Path,
        *,
        reason: str,
        instance: Instance | None = None,
    ) -> "DockerServers":
        """Connect to the engine.

        Args:
            state: The project's state directory.
            reason: Why this provider was chosen.
            instance: As the attribute.

        Raises:
            HuleEduError: If no engine answers, or `docker` or the compose file is missing.
        """
        engine = Engine.connect(settings.process)
        environment = {**settings.compose_environment(), "DOCKER_HOST": engine.host}
        compose = Compose.create(registry.root, registry.compose_files, environment)
        answers: ComposeAnswers | InstanceAnswers = ComposeAnswers(
            compose=compose, path=state / "compose.json"
        )
        if instance:
            ports = {service.compose_service: service.port for service in registry.services}
            stated, compose = compose, compose_of(instance, compose)
            answers = InstanceAnswers.create(instance, stated, compose, ports)
        return cls(
            settings=settings,
            registry=registry,
            compose=compose,
            engine=engine,
            answers=answers,
            facts=ContainerFacts(path=state / CONTAINERS_FILE),
            reason=f"{reason}; {engine.host}",
            instance=instance,
        )

    async def prepare(
        self, services: Sequence[Service], login: DatabaseUrl, *, on_new: Callable[[], object]
    ) -> None:
        """Begin to create and start the containers of all services; `start` waits for each.

        If that fails, `start` tries each alone, so that one failure does not stop the others.
        """
        (project, containers), self._volumes_before = await asyncio.gather(
            self._configuration(), asyncio.to_thread(self.engine.volumes)
        )
        found = {container.service: container for container in await containers.look()}
        names = set()
        for service in services:
            with suppress(HuleEduError):
                await self._examine(service)
                names.add(service.compose_service)
        images = {name: str(project.services[name].get("image") or "") for name in names}
        ids = await self._image_ids({*images.values()})
        # The comparison that Compose makes; `docker compose up` would change nothing here.
        self._is_up = {
            name
            for name, image in images.items()
            if (container := found.get(name))
            and container.runs
            and container.config_hash == project.hashes.get(name)
            and container.image == ids[image]
        }
        if names - found.keys():
            on_new()
        if rest := names - self._is_up:
            containers.forget(rest)
            self._arrivals = {name: asyncio.Event() for name in rest}
            self._bringing_up = asyncio.create_task(self._bring_up(rest, found))

    async def start(
        self, service: Service, url: DatabaseUrl, *, admin: Admin | None = None
    ) -> Started:
        """Return when a service's database accepts its user; create it if it is missing."""
        await self._ensure_up(service)
        name = service.compose_service
        async with self._lock(service):
            admission = await self._admission(service, url, admin)
            found = await admission.wait(self.settings.start_timeout)
            # Of services that share a server, only the first finds it freshly initialised.
            counted = self._counted.setdefault(name, found)
        return Started(
            done="created" if self._was_made_now(admission.container) else "running",
            is_new=counted is not None,
            counted=counted or {},
        )

    async def stop(self, service: Service) -> str:
        """Stop a service's container, keeping it and its volume."""
        _, containers = await self._configuration()
        container = await containers.find(service)
        if container is None:
            return "never started"
        if container.status not in ("running", "restarting", "paused"):
            return "not running"
        await self.compose.stop([service.compose_service])
        return "stopped"

    async def renew(self, service: Service, url: DatabaseUrl) -> Started:
        """Remove a service's container and data once, unless they are new; start a new one."""
        name = service.compose_service
        async with self._lock(service):
            # Another service on this server may already have removed the container.
            container = None if name in self._renewed else await self._own(service)
            if container and not self._was_made_now(container):
                _, containers = await self._configuration()
                await containers.remove(service, container)
                containers.forget([name])
                if data := container.data_mount:
                    self._volumes_before.discard(data.volume)
                self._is_up.discard(name)
                self._counted.pop(name, None)
                self._filled.pop(name, None)
            self._renewed.add(name)
        return await self.start(service, url)

    async def identity(self, service: Service) -> ServerIdentity | None:
        """Read the identity of a service's server inside its container.

        Raises:
            Refused: If the container is not this checkout's, or does not publish the port.
        """
        _, containers = await self._configuration()
        return await containers.identity(await containers.alive(service))

    async def comments_inside(self, service: Service, url: DatabaseUrl) -> Mapping[str, str]:
        """Read the databases' comments inside the container; empty for a volume that is new.

        Raises:
            Refused: If they cannot be read, or another server accepts the login.
        """
        await self._ensure_up(service)
        admission = await self._admission(service, url)
        if self._was_made_now(admission.container):
            return {}
        # The login may be refused: a lost password is one reason to reset.
        with suppress(ServerError):
            async with maintenance_connection(admission.url) as connection:
                told = await databases.identity(connection)
                await admission.expect_own(told, admission.container)
        timeout = self.settings.start_timeout
        return await admission.containers.comments(service, timeout=timeout)

    async def init_scripts(self, service: Service) -> str:
        """Return a fingerprint of the scripts that run on a new volume; empty if there are none."""
        _, containers = await self._configuration()
        return await containers.init_scripts(await containers.alive(service))

    def psql(self) -> str:
        """Return the path of the machine's `psql`, else of the package's; empty if none exists."""
        return find_program("psql")

    def logs(self, services: Sequence[Service], *, follow: bool, lines: int) -> LogCommand:
        """Return the command that shows the containers' logs."""
        if self.instance and not (override := self.instance.directory / OVERRIDE_FILE).exists():
            raise ConfigurationError(
                f"The override {override} of this instance does not exist yet.",
                code="log-missing",
                hint="Run `invoke db.up`, which starts the servers.",
            )
        names = sorted({service.compose_service for service in services})
        following = ["--follow"] if follow else []
        arguments = self.compose.command("logs", f"--tail={lines}", *following, *names)
        return LogCommand(arguments=arguments, environment=self.compose.environment)

    # Read once per command.

    async def _configuration(self) -> tuple[Project, ProjectContainers]:
        async with self._reading:
            if self._configured is None:
                project = await self.answers.project()
                containers = ProjectContainers(
                    engine=self.engine,
                    project=project.name,
                    directory=self.compose.directory,
                    facts=self.facts,
                )
                self._configured = project, containers
        return self._configured

    async def _image_ids(self, names: Collection[str]) -> dict[str, str]:
        """Return the image id of each name; an empty string where the engine does not know it."""
        found = await asyncio.gather(
            *(asyncio.to_thread(self.engine.image, name) for name in names), return_exceptions=True
        )
        return {
            name: image if isinstance(image, str) else ""
            for name, image in zip(names, found, strict=True)
        }

    async def _own(self, service: Service) -> ContainerState:
        _, containers = await self._configuration()
        return await containers.own(service)

    def _lock(self, service: Service) -> asyncio.Lock:
        return self._locks.setdefault(service.compose_service, asyncio.Lock())

    def _was_made_now(self, container: ContainerState) -> bool:
        """Whether this command created the volume with a container's data."""
        data = container.data_mount
        return bool(data and data.volume and data.volume not in self._volumes_before)

    # Starting a container.

    async def _bring_up(self, names: Collection[str], found: Mapping[str, ContainerState]) -> None:
        """Start the containers of compose services, each as soon as its volume is ready.

        Args:
            found: The containers before, by compose service.
        """
        # Another command of this checkout may be filling the same volumes.
        lock = self.facts.path.with_name(_FILLING_LOCK)
        try:
            with suppress(HuleEduError, OSError), exclusive(lock):
                fresh, groups = await self._fresh_groups(names, found)
                filled = {one.container.service for group in groups for one in group}
                await asyncio.gather(
                    self._up({*names} - filled), *(self._fill(fresh, group) for group in groups)
                )
            await self._up({name for name in names if not self._arrivals[name].is_set()})
        finally:
            for name in names:
                self._arrivals[name].set()

    async def _fresh_groups(
        self, names: Collection[str], found: Mapping[str, ContainerState]
    ) -> tuple[FreshVolumes, list[list[Fresh]]]:
        """Create the containers that do not exist yet; return those to initialise together."""
        _, containers = await self._configuration()
        fresh = FreshVolumes(engine=self.engine, project=containers.project)
        unstarted = {name for name, container in found.items() if container.is_unstarted}
        new = {*names} - (found.keys() - unstarted)
        if len(new) < _WORTH_A_HELPER and not unstarted & new:
            return fresh, []
        await self.compose.create_containers(sorted(new))
        created = [state for state in await containers.look() if state.service in new]
        groups = [
            group
            for group in await fresh.groups(created)
            if len(group) >= _WORTH_A_HELPER
            or any(one.container.service in unstarted for one in group)
        ]
        return fresh, groups

    async def _fill(self, fresh: FreshVolumes, group: Sequence[Fresh]) -> None:
        """Initialise the volumes of a group, and start its containers."""
        begun = datetime.now(UTC)
        starting = []
        async for identifiers in fresh.fill(group):
            for name, identifier in identifiers.items():
                self._filled[name] = _Filled(begun=begun, identifier=identifier)
            starting.append(asyncio.create_task(self._up(identifiers)))
        await asyncio.gather(*starting)

    async def _up(self, names: Collection[str]) -> None:
        """Start containers, unless Compose fails."""
        if not names:
            return
        with suppress(HuleEduError):
            await self.compose.up(sorted(names))
            self._is_up.update(names)
        for name in names:
            self._arrivals[name].set()

    async def _examine(self, service: Service) -> None:
        """Require that a container may be started; remove it if its initdb was interrupted.

        Raises:
            ConfigurationError: If registry and compose files disagree.
            Refused: If it belongs to another checkout.
            ContainerDown: If it is paused.
        """
        project, containers = await self._configuration()
        _require_agreement(project, service)
        container = await containers.find(service)
        if container is None:
            return
        if container.status == "paused":
            await containers.alive(service)
        if await containers.is_interrupted_initdb(container):
            await containers.remove(service, container)
            containers.forget([service.compose_service])

    async def _ensure_up(self, service: Service) -> None:
        name = service.compose_service
        async with self._lock(service):
            if arrival := self._arrivals.get(name):
                await arrival.wait()
            if name in self._is_up:
                return
            await self._examine(service)
            _, containers = await self._configuration()
            containers.forget([name])
            try:
                await self.compose.up([name])
            except HuleEduError as error:
                raise await self._explain_start(service, error) from error
            self._is_up.add(name)

    async def _explain_start(self, service: Service, error: HuleEduError) -> HuleEduError:
        project, _ = await self._configuration()
        image = str(project.services[service.compose_service].get("image"))
        explained = await asyncio.to_thread(
            explain_up,
            error.output,
            self.engine,
            image=image,
            port=service.port,
            place=self._port_place(service),
        )
        return explained or error

    def _port_place(self, service: Service) -> str:
        """Return where the port of a service's server can be changed, as an imperative."""
        if self.instance:
            return OTHER_PORTS
        name = service.compose_service
        line = port_line(self.compose.possible_files, name)
        change = f"publish another port for {name!r} in {line or 'the compose file'}"
        without = self.registry.without_port
        stated = [other for other in self._sharing(service) if other not in without]
        if not stated:
            return change
        return (
            f"{change}, and state it as 'port' of {', '.join(stated)} in {self.registry.path.name} "
            "(without 'port' there, the compose file's port is used)"
        )

    async def _admission(
        self, service: Service, url: DatabaseUrl, admin: Admin | None = None
    ) -> Admission:
        _, containers = await self._configuration()
        container = await containers.own(service)
        # An override variable may name another server; the container is at its own port.
        own = replace(url, host="localhost", port=service.port)
        filled = self._filled.get(service.compose_service)
        if filled and container.runs:
            containers.note_filled(container, filled.identifier)
        return Admission(
            containers=containers,
            service=service,
            container=container,
            url=own,
            admin=admin if own == url else None,
            tag=EnvironmentTag(environment=str(self.settings.environment)),
            is_new=self._counted.get(service.compose_service) is not None,
            initialised=filled.begun if filled else None,
            sharing=self._sharing(service),
        )

    def _sharing(self, service: Service) -> tuple[str, ...]:
        """Return the names of all services on a service's server."""
        return tuple(
            other.name
            for other in self.registry.services
            if other.compose_service == service.compose_service
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Filled:
    """A volume that this command has filled.

    Attributes:
        begun: When it began.
        identifier: The system identifier of its server.
    """

    begun: datetime
    identifier: int


def _require_agreement(project: Project, service: Service) -> None:
    """Require that the registry and the compose files agree on a service.

    Raises:
        ConfigurationError: If they do not.
    """
    name = service.compose_service
    if name not in project.services:
        known = ", ".join(project.services) or "no services"
        raise ConfigurationError(
            f"The compose files have no service {name!r} for {service.name}; they have {known}.",
            code="compose-service-missing",
            hint="Add it to the compose files, or state 'compose_service' in the registry.",
        )
    published = project.published_ports(name, POSTGRES_PORT)
    if str(service.port) not in published:
        raise ConfigurationError(
            f"The compose service {name!r} publishes {', '.join(published) or 'no port'}, and the "
            f"registry states {service.port} for {service.name}.",
            code="port-mismatch",
            hint="State the same port in both.",
        )
