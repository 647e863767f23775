"""The monorepo's own database containers, as its compose files define them.

Ready means that the service's own user is let in over TCP, from outside, to its own database. A
health check would be asked only at its next interval, and `pg_isready` inside the container
answers while the image still initialises a new volume on a temporary server.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from huleedu_tasks.config.registry import Registry, Service
from huleedu_tasks.config.settings import ProviderName, Settings
from huleedu_tasks.config.urls import DatabaseUrl
from huleedu_tasks.errors import ConfigurationError, HuleEduError, Refused, ServerError
from huleedu_tasks.postgres import copies, databases
from huleedu_tasks.postgres.connections import (
    MAINTENANCE_DATABASE,
    DatabaseMissing,
    LoginRefused,
    connection,
)
from huleedu_tasks.postgres.databases import Mark, ServerIdentity
from huleedu_tasks.servers.binaries import find_psql
from huleedu_tasks.servers.complaints import explain_up
from huleedu_tasks.servers.compose import Compose, Project
from huleedu_tasks.servers.containers import Containers, if_damaged
from huleedu_tasks.servers.engine import ContainerState, Engine
from huleedu_tasks.servers.protocol import Started

if TYPE_CHECKING:
    import asyncpg

POSTGRES_PORT = 5432
POLL_INTERVAL = 0.05
# Asking the engine costs more than trying to log in.
STATE_INTERVAL = 0.5
ATTEMPT_TIMEOUT = 5.0


@dataclass(kw_only=True)
class DockerServers:
    """The database containers of one compose project, during one run."""

    settings: Settings
    compose: Compose
    engine: Engine
    reason: str
    name: ProviderName = ProviderName.DOCKER
    proves_identity: bool = True
    _configured: tuple[Project, Containers] | None = None
    _reading: asyncio.Lock = field(default_factory=asyncio.Lock)
    # By compose service, since services may share one.
    _locks: dict[str, asyncio.Lock] = field(default_factory=dict)
    _is_up: set[str] = field(default_factory=set)
    _is_newborn: dict[str, bool] = field(default_factory=dict)
    _renewed: set[str] = field(default_factory=set)
    _volumes_before: set[str] = field(default_factory=set)

    @classmethod
    def create(cls, settings: Settings, registry: Registry, *, reason: str) -> "DockerServers":
        """Connect to the engine.

        Args:
            reason: Why this provider was chosen.

        Raises:
            HuleEduError: If there is no engine to use, no `docker`, or no compose file.
        """
        engine = Engine.connect(settings.process)
        environment = {**settings.child_environment(), "DOCKER_HOST": engine.host}
        compose = Compose.create(registry.root, registry.compose_files, environment)
        return cls(
            settings=settings, compose=compose, engine=engine, reason=f"{reason}; {engine.host}"
        )

    async def prepare(self, services: Sequence[Service], login: DatabaseUrl) -> None:
        """Create and start the containers of all services at once.

        If that fails, each is tried alone later, so that the others do not suffer.
        """
        await self._configuration()
        self._volumes_before = await asyncio.to_thread(self.engine.volumes)
        names = set()
        for service in services:
            with suppress(HuleEduError):
                await self._examine(service)
                names.add(service.compose_service)
        if names:
            with suppress(HuleEduError):
                await self.compose.up(sorted(names))
                self._is_up = names

    async def start(self, service: Service, url: DatabaseUrl) -> Started:
        """Return when a service's database accepts its user; make the database if it is missing."""
        await self._ensure_up(service)
        container = await self._own(service)
        own = replace(url, host="localhost", port=service.port)
        async with self._lock(service):
            await self._until_admitted(service, container, own)
        return Started(
            done="created" if self._was_made_now(container) else "running",
            newborn=self._is_newborn[service.compose_service],
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
        """Remove a service's container and data once, unless this run has made them; start anew."""
        name = service.compose_service
        async with self._lock(service):
            container = await self._own(service)
            if name not in self._renewed and not self._was_made_now(container):
                _, containers = await self._configuration()
                await containers.remove(service, container)
                if data := container.data_mount:
                    self._volumes_before.discard(data.volume)
                self._is_up.discard(name)
                self._is_newborn.pop(name, None)
            self._renewed.add(name)
        return await self.start(service, url)

    async def identity(self, service: Service) -> ServerIdentity | None:
        """Read which server is the service's own inside its container.

        Raises:
            Refused: If the container is not this checkout's, or does not publish the port.
        """
        _, containers = await self._configuration()
        return await containers.identity(await containers.alive(service))

    async def comments_inside(self, service: Service, url: DatabaseUrl) -> Mapping[str, str]:
        """Read the databases' comments inside the container; a volume made just now has none.

        Raises:
            Refused: If they cannot be read.
        """
        await self._ensure_up(service)
        _, containers = await self._configuration()
        if self._was_made_now(await containers.own(service)):
            return {}
        return await containers.comments(service, timeout=self.settings.start_timeout)

    async def init_scripts(self, service: Service) -> str:
        """Return a fingerprint of what runs when the volume is new; empty if nothing does."""
        _, containers = await self._configuration()
        return await containers.init_scripts(await containers.alive(service))

    def psql(self) -> str:
        """Return the machine's `psql`, or the package's."""
        return find_psql()

    def logs(self, services: Sequence[Service], *, follow: bool, lines: int) -> list[str]:
        """Return the command that shows the containers' logs."""
        names = sorted({service.compose_service for service in services})
        following = ["--follow"] if follow else []
        return self.compose.command("logs", f"--tail={lines}", *following, *names)

    # What is asked once.

    async def _configuration(self) -> tuple[Project, Containers]:
        async with self._reading:
            if self._configured is None:
                project = await self.compose.project()
                containers = Containers(
                    engine=self.engine, project=project.name, directory=self.compose.directory
                )
                self._configured = project, containers
        return self._configured

    async def _own(self, service: Service) -> ContainerState:
        _, containers = await self._configuration()
        return await containers.own(service)

    def _lock(self, service: Service) -> asyncio.Lock:
        return self._locks.setdefault(service.compose_service, asyncio.Lock())

    def _was_made_now(self, container: ContainerState) -> bool:
        """Whether this run has made the volume a container's data lies on."""
        data = container.data_mount
        return bool(data and data.volume and data.volume not in self._volumes_before)

    # How a container comes up.

    async def _examine(self, service: Service) -> None:
        """See that a container may be brought up, and has no data that was never finished.

        Raises:
            ConfigurationError: If registry and compose files disagree.
            Refused: If it is another checkout's.
            ServerError: If it is paused.
        """
        project, containers = await self._configuration()
        _require_agreement(project, service)
        container = await containers.find(service)
        if container is None:
            return
        if container.status == "paused":
            await containers.alive(service)
        if await containers.is_stillborn(container):
            await containers.remove(service, container)

    async def _ensure_up(self, service: Service) -> None:
        name = service.compose_service
        async with self._lock(service):
            if name in self._is_up:
                return
            await self._examine(service)
            try:
                await self.compose.up([name])
            except HuleEduError as error:
                raise await self._explained(service, error) from error
            self._is_up.add(name)

    async def _explained(self, service: Service, error: HuleEduError) -> HuleEduError:
        project, _ = await self._configuration()
        image = str(project.services[service.compose_service].get("image"))
        explained = await asyncio.to_thread(
            explain_up, error.output, self.engine, image=image, port=service.port
        )
        return explained or error

    # How it is waited for.

    async def _until_admitted(
        self, service: Service, container: ContainerState, url: DatabaseUrl
    ) -> None:
        """Try to log in until it succeeds, or until it can be told that it never will."""
        deadline = time.monotonic() + self.settings.start_timeout
        next_look = time.monotonic() + STATE_INTERVAL
        _, containers = await self._configuration()
        while True:
            try:
                return await self._admit(service, container, url)
            except LoginRefused as error:
                raise _born_with_another_password(service, container, error) from error
            except ServerError as error:
                if time.monotonic() > deadline:
                    raise await self._not_ready(container, error) from error
            if time.monotonic() > next_look:
                await containers.alive(service)
                next_look = time.monotonic() + STATE_INTERVAL
            await asyncio.sleep(POLL_INTERVAL)

    async def _admit(self, service: Service, container: ContainerState, url: DatabaseUrl) -> None:
        """Log in once: to the database, and to the server that is the container's."""
        try:
            async with connection(url, timeout=ATTEMPT_TIMEOUT) as user:
                await self._accept(user, service, container)
        except DatabaseMissing:
            # A server two services share was made with the database of one of them.
            async with connection(url, database=MAINTENANCE_DATABASE) as admin:
                await self._accept(admin, service, container)
                mark = Mark(environment=str(self.settings.environment))
                await databases.create(admin, url.database, mark)

    async def _accept(
        self, asked: "asyncpg.Connection", service: Service, container: ContainerState
    ) -> None:
        """See whose server answers, and whether it is as new as the image has made it."""
        _, containers = await self._configuration()
        now = await containers.alive(service)
        if now.started != container.started:
            raise ServerError(
                f"The container {container.name} has died while it was waited for, and was "
                "started again.",
                output=await containers.log_tail(now),
                hint=f"Its log names the cause: `docker logs {now.name}`. An init script that "
                "failed is not run again: correct it, and run `invoke db.reset`.",
            )
        if await databases.identity(asked) != await containers.identity(now):
            raise Refused(
                f"{service.name}: another server than the container {container.name} answers at "
                f"localhost:{service.port}.",
                hint=f"A tunnel, a proxy or another PostgreSQL listens on port {service.port}, on "
                "::1 for example. Stop it.",
            )
        name = service.compose_service
        if name not in self._is_newborn:
            self._is_newborn[name] = await copies.is_newborn(asked, container.started)

    async def _not_ready(self, container: ContainerState, error: ServerError) -> ServerError:
        _, containers = await self._configuration()
        return ServerError(
            f"The container {container.name} does not let the user in after "
            f"{self.settings.start_timeout:g} s: {error.message}",
            output=await containers.log_tail(container),
            hint=f"HULEEDU_START_TIMEOUT allows more time. {if_damaged(container)}",
        )


def _require_agreement(project: Project, service: Service) -> None:
    """See that registry and compose files agree.

    Raises:
        ConfigurationError: If they do not.
    """
    name = service.compose_service
    if name not in project.services:
        known = ", ".join(project.services) or "none at all"
        raise ConfigurationError(
            f"The compose files have no service {name!r} for {service.name}; they have {known}.",
            hint="Add it to them, or state 'compose_service' in the registry.",
        )
    published = project.published_ports(name, POSTGRES_PORT)
    if str(service.port) not in published:
        raise ConfigurationError(
            f"The compose service {name!r} publishes {', '.join(published) or 'no port'}, and the "
            f"registry says {service.port}.",
            hint="Make the two agree.",
        )


def _born_with_another_password(
    service: Service, container: ContainerState, error: LoginRefused
) -> LoginRefused:
    return LoginRefused(
        f"{error.message} The volume of {container.name} was made with another user or password: "
        "the image uses POSTGRES_USER and POSTGRES_PASSWORD only when a volume is new.",
        hint=f"Put the old ones back into .env, or lose its data: `invoke db.reset --volumes "
        f"--service {service.name}`.",
    )
