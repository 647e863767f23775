"""The monorepo's own database containers, as its compose files define them.

Ready means that the service's own user is let in over TCP, from outside, to its own database. A
health check would be asked only at its next interval, and `pg_isready` inside the container
answers while the image still initialises a new volume on a temporary server.
"""

import asyncio
import hashlib
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from huleedu_tasks.config.registry import Registry, Service
from huleedu_tasks.config.settings import ProviderName, Settings
from huleedu_tasks.config.urls import DatabaseUrl
from huleedu_tasks.errors import ConfigurationError, HuleEduError, Refused, ServerError
from huleedu_tasks.postgres import databases
from huleedu_tasks.postgres.connections import (
    MAINTENANCE_DATABASE,
    DatabaseMissing,
    LoginRefused,
    connection,
)
from huleedu_tasks.postgres.databases import Mark, ServerIdentity
from huleedu_tasks.servers import Started
from huleedu_tasks.servers.binaries import find_psql
from huleedu_tasks.servers.compose import Compose, Project
from huleedu_tasks.servers.engine import ContainerState, Engine
from huleedu_tasks.servers.ports import holder

POSTGRES_PORT = 5432
INIT_FOLDER = "/docker-entrypoint-initdb.d"
POLL_INTERVAL = 0.05
# Asking the engine costs more than trying to log in.
STATE_INTERVAL = 0.5
ATTEMPT_TIMEOUT = 5.0
LOG_LINES = 15
RUNNING = "running"
DEFAULT_PGDATA = "/var/lib/postgresql/data"
_PORT_TAKEN = r"port is already allocated|address already in use"
_NAME_TAKEN = r'The container name "/([^"]+)" is already in use'


@dataclass(kw_only=True)
class DockerServers:
    """The database containers of one compose project."""

    settings: Settings
    compose: Compose
    engine: Engine
    reason: str
    name: ProviderName = ProviderName.DOCKER
    proves_identity: bool = True
    _newborn: set[str] = field(default_factory=set)
    _renewing: dict[str, asyncio.Lock] = field(default_factory=dict)
    _up_together: bool = False
    _known_project: Project | None = None
    _reading: asyncio.Lock = field(default_factory=asyncio.Lock)

    @classmethod
    def create(cls, settings: Settings, registry: Registry, *, reason: str) -> "DockerServers":
        """Connect to the engine.

        Args:
            reason: Why this provider was chosen.

        Raises:
            ServerError: If no engine can be used.
            ConfigurationError: If there is no compose file.
        """
        engine = Engine.connect(settings.process)
        environment = {**settings.child_environment(), "DOCKER_HOST": engine.host}
        compose = Compose(root=registry.root, files=registry.compose_files, environment=environment)
        if not compose.has_files:
            raise ConfigurationError(
                f"There is no compose file in {registry.root}.",
                hint="Name it as 'compose_files' in the registry, or in COMPOSE_FILE.",
            )
        return cls(
            settings=settings, compose=compose, engine=engine, reason=f"{reason}; {engine.host}"
        )

    async def prepare(self, services: Sequence[Service], login: DatabaseUrl) -> None:
        """Create and start the containers of all services at once.

        If that fails, each is tried alone in `start`, so that the others do not suffer.
        """
        self._newborn = await self._without_volume(services)
        project = await self._project()
        known = [service for service in services if _problem(project, service) is None]
        try:
            await self.compose.up(sorted({service.compose_service for service in known}))
            self._up_together = True
        except HuleEduError:
            self._up_together = False

    async def start(self, service: Service, url: DatabaseUrl) -> Started:
        """Return when a service's database accepts its user; make the database if it is missing."""
        if problem := _problem(await self._project(), service):
            raise problem
        if not self._up_together:
            await self._up_alone(service)
        container = await self._own_container(service)
        own = replace(url, host="localhost", port=service.port)
        await self._until_admitted(service, container, own)
        newborn = service.compose_service in self._newborn
        return Started(done="created" if newborn else "running", newborn=newborn)

    async def stop(self, service: Service) -> str:
        """Stop a service's container, keeping it and its volume."""
        container = await self._find(service)
        if container is None:
            return "never started"
        if container.status not in (RUNNING, "restarting", "paused"):
            return "not running"
        await self.compose.stop([service.compose_service])
        return "stopped"

    async def renew(self, service: Service, url: DatabaseUrl) -> Started:
        """Remove a service's container and volume once, and start it anew."""
        name = service.compose_service
        async with self._renewing.setdefault(name, asyncio.Lock()):
            if name not in self._newborn:
                project = await self._project()
                await self.compose.remove(name)
                if volume := _volume(project, service):
                    await asyncio.to_thread(self.engine.remove_volume, volume, project.name)
                self._newborn.add(name)
                self._up_together = False
        return await self.start(service, url)

    async def identity(self, service: Service) -> ServerIdentity | None:
        """Read which server is the service's own inside its container.

        Raises:
            Refused: If the container is not this checkout's, or does not publish the port.
        """
        container = await self._own_container(service)
        code, said = await self._execute(container, ["pg_controldata"], {"LC_ALL": "C"})
        for line in said.splitlines():
            label, _, value = line.partition(":")
            if code == 0 and label == "Database system identifier":
                return ServerIdentity(
                    system_identifier=int(value), data_directory=container.data_directory
                )
        return None

    async def comments_inside(self, service: Service, url: DatabaseUrl) -> Mapping[str, str]:
        """Read the databases' comments inside the container, where no password is needed.

        Raises:
            Refused: If they cannot be read.
        """
        container = await self._own_container(service)
        user = container.variables.get("POSTGRES_USER", "postgres")
        psql = ["psql", "-XAt", "--field-separator-zero", "--record-separator-zero", "-U", user]
        command = [*psql, "-d", MAINTENANCE_DATABASE, "-c", databases.COMMENTS]
        code, said = await self._execute(container, command, {})
        if code == 0:
            cells = said.split("\0")
            return dict(zip(cells[::2], cells[1::2], strict=False))
        volume = _volume(await self._project(), service)
        also = f" and `docker volume rm {volume}`" if volume else ""
        raise Refused(
            f"{service.name}: whose databases are in the container {container.name} cannot be "
            f"read: {said.strip()}",
            hint="If they may go, remove them by hand: `docker rm --force --volumes "
            f"{container.name}`{also}.",
        )

    async def init_scripts(self, service: Service) -> str:
        """Return a fingerprint of what ran when the volume was new; empty if nothing did."""
        container = await self._own_container(service)
        listing = f"cd {INIT_FOLDER} 2>/dev/null && find . -type f -exec sha256sum {{}} + | sort"
        code, said = await self._execute(container, ["sh", "-c", listing], {})
        return hashlib.sha256(said.encode()).hexdigest()[:16] if code == 0 and said else ""

    def psql(self) -> str:
        """Return the machine's `psql`, or the package's."""
        return find_psql()

    def logs(self, services: Sequence[Service], *, follow: bool, lines: int) -> list[str]:
        """Return the command that shows the containers' logs."""
        names = sorted({service.compose_service for service in services})
        following = ["--follow"] if follow else []
        return self.compose.command("logs", f"--tail={lines}", *following, *names)

    # What is asked of Compose and of the engine.

    async def _project(self) -> Project:
        async with self._reading:
            if self._known_project is None:
                self._known_project = await self.compose.project()
        return self._known_project

    async def _without_volume(self, services: Sequence[Service]) -> set[str]:
        """Return the compose services whose volume does not exist yet."""
        project = await self._project()
        missing = set()
        for service in services:
            volume = _volume(project, service)
            if volume and not await asyncio.to_thread(self.engine.has_volume, volume):
                missing.add(service.compose_service)
        return missing

    async def _up_alone(self, service: Service) -> None:
        try:
            await self.compose.up([service.compose_service])
        except ServerError as error:
            raise await asyncio.to_thread(self._explain_up, service, error) from error

    def _explain_up(self, service: Service, error: ServerError) -> ServerError:
        if re.search(_PORT_TAKEN, error.output):
            return ServerError(
                f"Port {service.port} is taken by {self._port_holder(service.port)}.",
                hint="Stop it, or publish another port in the compose file and state it in the "
                "registry.",
            )
        if name := re.search(_NAME_TAKEN, error.output):
            other = self.engine.named(name[1])
            whose = f" of the checkout {other.directory}" if other and other.directory else ""
            return ServerError(
                f"The container name {name[1]} is taken by a container{whose}.",
                hint="The compose file fixes that name with 'container_name', so only one checkout "
                "can run at a time: stop the other one with `docker compose down` there.",
            )
        return error

    def _port_holder(self, port: int) -> str:
        container = self.engine.publisher(port)
        if container is None:
            return holder(port)
        whose = f" of {container.directory}" if container.directory else ""
        return f"the container {container.name}{whose}"

    async def _find(self, service: Service) -> ContainerState | None:
        project = await self._project()
        return await asyncio.to_thread(self.engine.container, project.name, service.compose_service)

    async def _own_container(self, service: Service) -> ContainerState:
        """Return the container that is provably this checkout's own database server.

        Raises:
            Refused: If there is none, it belongs elsewhere, or it does not publish the port.
        """
        container = await self._find(service)
        if container is None:
            raise Refused(
                f"{service.name}: the compose project has no container for "
                f"{service.compose_service!r}.",
                hint="Run `invoke db.up`.",
            )
        own = str(self.compose.directory)
        if container.directory and container.directory != own:
            raise Refused(
                f"{service.name}: the container {container.name} belongs to the checkout "
                f"{container.directory}, not to {own}.",
                hint="Both have the same project name. Set COMPOSE_PROJECT_NAME in one of them, "
                "or work in the other.",
            )
        if container.status == RUNNING and not container.publishes(service.port):
            raise Refused(
                f"{service.name}: the container {container.name} does not publish port "
                f"{service.port} on this machine.",
                hint="Run `invoke db.up`, which applies the compose file, or compare the ports of "
                "compose file and registry.",
            )
        return container

    async def _execute(
        self, container: ContainerState, command: Sequence[str], environment: Mapping[str, str]
    ) -> tuple[int, str]:
        return await asyncio.to_thread(self.engine.execute, container, command, environment)

    async def _until_admitted(
        self, service: Service, container: ContainerState, url: DatabaseUrl
    ) -> None:
        """Try to log in until it succeeds, or until it can be told that it never will."""
        deadline = time.monotonic() + self.settings.start_timeout
        next_look = time.monotonic() + STATE_INTERVAL
        while True:
            try:
                return await self._admit(service, url)
            except LoginRefused as error:
                raise _born_with_another_password(service, container, error) from error
            except ServerError as error:
                if time.monotonic() > deadline:
                    raise await self._not_ready(service, container, error) from error
            if time.monotonic() > next_look:
                await self._expect_life(service, container)
                next_look = time.monotonic() + STATE_INTERVAL
            await asyncio.sleep(POLL_INTERVAL)

    async def _admit(self, service: Service, url: DatabaseUrl) -> None:
        try:
            async with connection(url, timeout=ATTEMPT_TIMEOUT):
                return
        except DatabaseMissing:
            # A server two services share was made with the database of one of them.
            if await self.identity(service) is None:
                raise
        async with connection(url, database=MAINTENANCE_DATABASE) as admin:
            if await databases.identity(admin) != await self.identity(service):
                raise Refused(
                    f"{service.name}: another server than its container answers at {url.address}.",
                    hint=f"See what else listens on port {service.port}, on ::1 for example.",
                )
            mark = Mark(environment=str(self.settings.environment))
            await databases.create(admin, url.database, mark)

    async def _expect_life(self, service: Service, container: ContainerState) -> None:
        now = await self._find(service)
        if now is None:
            raise ServerError(
                f"The container {container.name} was removed while it was waited for.",
                hint="Run the command again.",
            )
        if now.status == "paused":
            raise ServerError(
                f"The container {now.name} is paused.", hint=f"`docker unpause {now.name}`."
            )
        if now.status != RUNNING:
            raise ServerError(
                f"The container {now.name} is {now.status} (exit code {now.exit_code}).",
                output=await asyncio.to_thread(self.engine.log_tail, now, LOG_LINES),
                hint="Its last log lines name the cause. If its volume is damaged, `invoke "
                f"db.reset --volumes --service {service.name}` makes a new one.",
            )

    async def _not_ready(
        self, service: Service, container: ContainerState, error: ServerError
    ) -> ServerError:
        return ServerError(
            f"The container {container.name} does not let the user in after "
            f"{self.settings.start_timeout:g} s: {error.message}",
            output=await asyncio.to_thread(self.engine.log_tail, container, LOG_LINES),
            hint="HULEEDU_START_TIMEOUT allows more time.",
        )


def _problem(project: Project, service: Service) -> ConfigurationError | None:
    """Return what registry and compose files disagree on, or None."""
    name = service.compose_service
    if name not in project.services:
        known = ", ".join(project.services) or "none at all"
        return ConfigurationError(
            f"The compose files have no service {name!r} for {service.name}; they have {known}.",
            hint="Add it to them, or state 'compose_service' in the registry.",
        )
    published = project.published_ports(name, POSTGRES_PORT)
    if service.port not in published:
        ports = ", ".join(map(str, published)) or "no port"
        return ConfigurationError(
            f"The compose service {name!r} publishes {ports}, and the registry says "
            f"{service.port}.",
            hint="Make the two agree.",
        )
    return None


def _volume(project: Project, service: Service) -> str:
    """Return the engine's name of the volume with a service's data; empty if it has none."""
    configured = project.services.get(service.compose_service, {}).get("environment")
    variables = configured if isinstance(configured, Mapping) else {}
    path = str(variables.get("PGDATA") or DEFAULT_PGDATA)
    for candidate in (path, str(Path(path).parent)):
        if volume := project.volume_at(service.compose_service, candidate):
            return project.volumes.get(volume, volume)
    return ""


def _born_with_another_password(
    service: Service, container: ContainerState, error: LoginRefused
) -> LoginRefused:
    return LoginRefused(
        f"{error.message} The volume of {container.name} was made with another user or password: "
        "the image uses POSTGRES_USER and POSTGRES_PASSWORD only when a volume is new.",
        hint=f"Put the old ones back into .env, or lose its data: `invoke db.reset --volumes "
        f"--service {service.name}`.",
    )
