"""PostgreSQL servers run as child processes of the user, one per compose service of the registry.

`initdb` runs once; each server starts from a copy of that data directory. There is one directory
per major version, since no other version can read its data.
"""

import os
import pwd
import shutil
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from huleedu_tasks.config.registry import Service
from huleedu_tasks.config.settings import ProviderName, Settings
from huleedu_tasks.config.urls import DatabaseUrl
from huleedu_tasks.errors import ConfigurationError, ServerError
from huleedu_tasks.instances.instance import OTHER_PORTS, Instance
from huleedu_tasks.postgres import databases
from huleedu_tasks.postgres.binaries import Binaries, find_binaries, find_program, package_directory
from huleedu_tasks.postgres.connections import (
    LoginRefused,
    database_closed,
    maintenance_connection,
)
from huleedu_tasks.postgres.databases import EnvironmentTag, ServerIdentity
from huleedu_tasks.process import Account
from huleedu_tasks.servers.cluster import PORT_IN_USE, Cluster
from huleedu_tasks.servers.protocol import EMBEDDED_DIRECTORY, Admin, LogCommand, Started
from huleedu_tasks.state_dir import is_reachable, make_directory, unwritable

if TYPE_CHECKING:
    import asyncpg

# No compose service has such a name.
TEMPLATE = ".template"
# Accounts that a server can run as if this process is root, in order of preference.
UNPRIVILEGED = ("postgres", "nobody")


@dataclass(frozen=True, kw_only=True)
class EmbeddedServers:
    """The servers in one state directory.

    Attributes:
        instance: The instance that they belong to; None for the main fleet.
    """

    settings: Settings
    directory: Path
    binaries: Binaries
    account: Account | None
    reason: str
    name: ProviderName = ProviderName.EMBEDDED
    proves_identity: bool = True
    instance: Instance | None = None
    _renewed: set[str] = field(default_factory=set)

    @classmethod
    def create(
        cls,
        settings: Settings,
        state: Path,
        extensions: Sequence[str],
        *,
        reason: str,
        instance: Instance | None = None,
    ) -> "EmbeddedServers":
        """Find the PostgreSQL programs and the account that servers run as.

        Args:
            state: The project's state directory.
            extensions: Extensions the servers must have.
            reason: Why this provider was chosen.
            instance: As the attribute.

        Raises:
            ConfigurationError: If no usable PostgreSQL or account was found.
        """
        binaries = find_binaries(settings, extensions)
        return cls(
            settings=settings,
            directory=state / EMBEDDED_DIRECTORY,
            binaries=binaries,
            account=server_account(),
            reason=f"{reason}; PostgreSQL {binaries.version} from {binaries.source}",
            instance=instance,
        )

    async def prepare(
        self, services: Sequence[Service], login: DatabaseUrl, *, on_new: Callable[[], object]
    ) -> None:
        """Create the cluster that all others are copied from, unless it exists."""
        clusters = [self._cluster(service) for service in services]
        if not all(cluster.exists for cluster in clusters):
            on_new()
            template = self._template
            # Another command may be about to create it.
            async with self._lock(template):
                if not template.exists:
                    await self._create(template, login)

    async def start(
        self, service: Service, url: DatabaseUrl, *, admin: Admin | None = None
    ) -> Started:
        """Start a service's server unless it runs, and return when its database accepts its user.

        A server with another password gets the current one. A missing database is created, as the
        PostgreSQL image does with POSTGRES_DB.
        """
        cluster = self._cluster(service)
        async with self._lock(cluster):
            is_new = not cluster.exists
            if cluster.serves_its_port:
                done = "running"
            else:
                await self._start(cluster)
                done = "started"
            try:
                await self._log_in(service, cluster, url, admin)
            except LoginRefused:
                await cluster.stop()
                await self._runnable(cluster).set_login(url.user, url.password)
                await self._start(cluster)
                await self._log_in(service, cluster, url, admin)
                done = f"{done}, login renewed"
        return Started(done=done, is_new=is_new)

    async def stop(self, service: Service) -> str:
        """Stop a service's server of any major version if it runs, and keep its data."""
        own = self._cluster(service)
        clusters = self._of_every_version(own)
        if not clusters:
            return "never started"
        async with self._lock(own):
            stopped = [await cluster.stop() for cluster in clusters]
        return "stopped" if any(stopped) else "not running"

    async def renew(self, service: Service, url: DatabaseUrl) -> Started:
        """Remove a service's data directory once, and start a server on a new one."""
        cluster = self._cluster(service)
        async with self._lock(cluster):
            if service.compose_service not in self._renewed:
                await cluster.stop()
                await cluster.remove()
                self._renewed.add(service.compose_service)
        return await self.start(service, url)

    async def identity(self, service: Service) -> ServerIdentity | None:
        """Read the identity of a service's server from its data directory; None if it has none."""
        return self._cluster(service).identity()

    async def comments_inside(self, service: Service, url: DatabaseUrl) -> Mapping[str, str]:
        """Start the server, which sets the current password if needed, and read the comments."""
        await self.start(service, url)
        own = replace(url, host="localhost", port=service.port)
        async with maintenance_connection(own) as admin:
            return await databases.comments(admin)

    async def init_scripts(self, service: Service) -> str:
        """Return an empty string: embedded servers run no init scripts."""
        return ""

    def has_its_port(self, service: Service) -> bool:
        """Whether a service's server runs, possibly not ready yet, on the service's port."""
        return self._cluster(service).has_its_port

    def psql(self) -> str:
        """Return the path of the `psql` beside `postgres`, else the machine's; empty if none."""
        own = self.binaries.program("psql")
        return str(own) if own.is_file() else find_program("psql")

    def logs(self, services: Sequence[Service], *, follow: bool, lines: int) -> LogCommand:
        """Return the command that shows the servers' log files."""
        files = sorted({self._cluster(service).log for service in services})
        if missing := [file for file in files if not file.exists()]:
            raise ConfigurationError(
                f"The log {missing[0]} does not exist yet.",
                code="log-missing",
                hint="Run `invoke db.up`, which starts the servers.",
            )
        following = ["-F"] if follow else []
        arguments = ["tail", "-n", str(lines), *following, *map(str, files)]
        return LogCommand(arguments=arguments, environment=self.settings.tool_environment())

    @property
    def _version_directory(self) -> Path:
        return self.directory / f"postgresql-{self.binaries.major}"

    @property
    def _template(self) -> Cluster:
        """The cluster that all others are copied from; for an instance, that of the main fleet."""
        own = self._cluster_at(TEMPLATE, port=0)
        if own.exists or self.instance is None:
            return own
        main = self._cluster_at(TEMPLATE, port=0, home=self.instance.home / EMBEDDED_DIRECTORY)
        return main if main.exists else own

    def _cluster(self, service: Service) -> Cluster:
        return self._cluster_at(service.compose_service, port=service.port)

    def _cluster_at(self, name: str, *, port: int, home: Path | None = None) -> Cluster:
        place = (home or self.directory) / self._version_directory.name / name
        return Cluster(
            binaries=self.binaries,
            data=place / "data",
            log=place / "server.log",
            port=port,
            account=self.account,
            durable=self.settings.embedded_durable,
        )

    @asynccontextmanager
    async def _lock(self, cluster: Cluster) -> AsyncIterator[None]:
        """Lock one cluster against other processes while it is created, started or stopped.

        Raises:
            ServerError: If another process holds the lock for too long.
        """
        from filelock import AsyncFileLock, Timeout

        place = cluster.data.parent
        path = place / "lock"
        try:
            make_directory(path.parent)
            async with AsyncFileLock(
                path, timeout=self.settings.start_timeout, poll_interval=0.01, run_in_executor=False
            ):
                yield
        except Timeout:
            raise ServerError(
                f"Another process held the lock of the server {place.name!r} for more than "
                f"{self.settings.start_timeout:g} s.",
                code="server-locked",
                hint="Wait for it to end, or set HULEEDU_START_TIMEOUT to wait longer.",
            ) from None
        except OSError as error:
            raise unwritable(path, error) from error

    async def _create(self, template: Cluster, login: DatabaseUrl) -> None:
        template = self._runnable(template)
        await template.create(login.user)
        await template.set_login(login.user, login.password)

    async def _start(self, cluster: Cluster) -> None:
        if not cluster.exists:
            await cluster.copy_from(self._template)
        # A server that is not ready, listens on another port, or is of another major version.
        for running in self._of_every_version(cluster):
            await running.stop()
        try:
            await self._runnable(cluster).start(self.settings.start_timeout)
        except ServerError as error:
            if self.instance and error.code == PORT_IN_USE:
                raise error.changed(hint=f"Stop it, or {OTHER_PORTS}.") from error
            raise

    def _of_every_version(self, cluster: Cluster) -> list[Cluster]:
        """Return the existing clusters of a server, at most one per major version."""
        place = cluster.data.relative_to(self._version_directory)
        return [
            replace(cluster, data=data) for data in self.directory.glob(f"postgresql-*/{place}")
        ]

    def _runnable(self, cluster: Cluster) -> Cluster:
        return replace(cluster, binaries=self._programs)

    async def _log_in(
        self, service: Service, cluster: Cluster, url: DatabaseUrl, admin: Admin | None
    ) -> None:
        # An override variable may name another server; the embedded one is at its own port.
        own = replace(url, host="localhost", port=service.port)
        if admin and own == url:
            await self._accept(await admin(), service, cluster, url)
            return
        async with maintenance_connection(own) as opened:
            await self._accept(opened, service, cluster, url)

    async def _accept(
        self, admin: "asyncpg.Connection", service: Service, cluster: Cluster, url: DatabaseUrl
    ) -> None:
        """Verify the server's identity, and create the database if it is missing.

        Raises:
            ServerError: If another server answers.
            DatabaseClosed: If the database does not allow connections. Any other database accepts
                the user, who is a superuser.
        """
        await _expect_identity(admin, service, cluster)
        is_open = await databases.allows_connections(admin, url.database)
        if is_open is None:
            tag = EnvironmentTag(environment=str(self.settings.environment))
            await databases.create(admin, url.database, tag)
        elif not is_open:
            raise database_closed(url, url.database)

    @cached_property
    def _programs(self) -> Binaries:
        """The programs, copied if the server's account may not enter their directory."""
        if self.account is None or is_reachable(self.binaries.directory):
            return self.binaries
        package = package_directory()
        source = self.binaries.directory.parent
        copy = self._version_directory / f"programs-{self.binaries.version}"
        if not copy.exists():
            partial = make_directory(copy.with_name(f"{copy.name}.partial-{os.getpid()}"))
            # The package's programs find their libraries by a relative path.
            if package and source.is_relative_to(package):
                libraries = package.with_name(f"{package.name}.libs")
                shutil.copytree(source, partial / package.name / source.name, symlinks=True)
                if libraries.is_dir():
                    shutil.copytree(libraries, partial / libraries.name, symlinks=True)
            else:
                shutil.copytree(source, partial / "programs" / source.name, symlinks=True)
            try:
                partial.rename(copy)
            except OSError:
                # Another process finished the same copy first.
                shutil.rmtree(partial)
        (directory,) = copy.glob(f"*/{source.name}/{self.binaries.directory.name}")
        return replace(self.binaries, directory=directory)


def server_account() -> Account | None:
    """Return the account that servers run as; None for the current user, unless that is root.

    Raises:
        ConfigurationError: If this process is root and no unprivileged account exists.
    """
    if os.geteuid() != 0:
        return None
    for name in UNPRIVILEGED:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(name=name, uid=entry.pw_uid, gid=entry.pw_gid)
    raise ConfigurationError(
        f"PostgreSQL does not run as root, and no account {' or '.join(UNPRIVILEGED)} exists.",
        code="root-unsupported",
        hint="Run the command as an ordinary user, or create one of these accounts.",
    )


async def _expect_identity(
    connection: "asyncpg.Connection", service: Service, cluster: Cluster
) -> None:
    if await databases.identity(connection) != cluster.identity():
        raise ServerError(
            f"Another server than the embedded one in {cluster.data} answered at "
            f"localhost:{service.port}.",
            code="server-mismatch",
            hint=f"Stop the other server on port {service.port} (on ::1, for example).",
        )
