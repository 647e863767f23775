"""Waits until a container's server accepts a service's login, and verifies the server's identity.

Ready means that the service's own user can log in over TCP, from the host, to its own database; or
to a maintenance database, if it has the privilege to connect to its own. A health check runs only
at its next interval, and `pg_isready` inside the container succeeds while the image still
initialises a new volume on a temporary server.
"""

import asyncio
import time
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

from huleedu_tasks.compose.container_state import ContainerState
from huleedu_tasks.compose.project_containers import ContainerDown, ProjectContainers, if_damaged
from huleedu_tasks.config.registry import Service
from huleedu_tasks.config.urls import DatabaseUrl
from huleedu_tasks.errors import Refused, ServerError
from huleedu_tasks.postgres import clones, databases
from huleedu_tasks.postgres.clones import Activity
from huleedu_tasks.postgres.connections import (
    DatabaseMissing,
    LoginRefused,
    Unreachable,
    connection,
    maintenance_connection,
)
from huleedu_tasks.postgres.databases import EnvironmentTag, ServerIdentity
from huleedu_tasks.servers.login_advice import explain_login
from huleedu_tasks.servers.protocol import Admin

if TYPE_CHECKING:
    import asyncpg

POLL_INTERVAL = 0.05
# The longer a server takes, the longer the intervals: this share of the time it has taken so far.
POLL_SHARE = 0.04
# A request to the engine takes longer than an attempt to log in.
STATE_INTERVAL = 0.5
ATTEMPT_TIMEOUT = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """One service's login to the server in its container.

    Attributes:
        container: Its state after `docker compose up`.
        url: The URL of the database, at the port that the container publishes.
        admin: The command's connection to another database; None to log in to this one.
        tag: The environment tag of a database that is created here.
        is_new: Whether the server was found freshly initialised before.
        sharing: The names of all services on the server.
        initialised: When this command began to initialise its data; None if the image did.
    """

    containers: ProjectContainers
    service: Service
    container: ContainerState
    url: DatabaseUrl
    admin: Admin | None = None
    tag: EnvironmentTag
    is_new: bool = False
    sharing: tuple[str, ...] = ()
    initialised: datetime | None = None

    async def wait(self, timeout: float) -> dict[str, Activity] | None:
        """Log in, and create the database if it is missing.

        Args:
            timeout: Seconds it may take.

        Returns:
            The counters of each database of a freshly initialised server, before anything was
            written to it; None if the server is not freshly initialised.

        Raises:
            LoginRefused: If the server refuses the user or the password.
            ContainerDown: If the container does not run, or was restarted meanwhile.
            Refused: If another server answers.
            ServerError: If the server is not ready in time.
        """
        began = time.monotonic()
        deadline = began + timeout
        next_look = began + STATE_INTERVAL
        while True:
            try:
                return await self._try()
            except LoginRefused as error:
                raise await self._explain_login(error) from error
            except ServerError as error:
                if time.monotonic() > deadline:
                    raise await self._not_ready(error, timeout) from error
            if time.monotonic() > next_look:
                await self.containers.alive(self.service, refresh=True)
                next_look = time.monotonic() + STATE_INTERVAL
            await asyncio.sleep(max(POLL_INTERVAL, (time.monotonic() - began) * POLL_SHARE))

    async def expect_own(self, told: ServerIdentity, container: ContainerState) -> None:
        """Require that the server which answers is the one in the container.

        Args:
            told: The identity that the server reports over the connection.

        Raises:
            Refused: If it is another one.
            ServerError: If the container's own identity cannot be read.
        """
        own = await self.containers.identity(container)
        if own is None:
            raise ServerError(
                f"The data of the container {container.name} could not be read.",
                code="container-unreadable",
                hint=f"Read its log: `docker logs {container.name}`.",
            )
        if told != own:
            raise Refused(
                f"{self.service.name}: another server than the container {container.name} "
                f"answered at {self.url.address}.",
                code="server-mismatch",
                hint="Stop the tunnel, proxy or other PostgreSQL that listens on port "
                f"{self.url.port} (on ::1, for example).",
            )

    async def _try(self) -> dict[str, Activity] | None:
        if beside := await self._connection_beside():
            return await self._accept(beside)
        try:
            async with connection(self.url, timeout=ATTEMPT_TIMEOUT) as user:
                return await self._accept(user)
        except DatabaseMissing:
            # The image creates one database; services that share the server have others.
            async with maintenance_connection(self.url) as admin:
                counted = await self._accept(admin)
                await self._create(admin, is_new=counted is not None or self.is_new)
                return counted

    async def _connection_beside(self) -> "asyncpg.Connection | None":
        """Return a connection to another database, if its server admits the user to this one.

        Returns:
            The connection; None if only a login to this database shows whether it admits the user.
        """
        if self.admin is None:
            return None
        try:
            admin = await self.admin()
        except Unreachable:
            raise
        except ServerError:
            return None
        return admin if await databases.admits(admin, self.url.database) else None

    async def _create(self, admin: "asyncpg.Connection", *, is_new: bool) -> None:
        """Create the database.

        Init scripts fill the database of development. That of testing begins as they left it: on a
        new server as a copy of it, later of its init snapshot. Any other database is empty.
        """
        name, filled = self.url.database, self.service.database
        if name == self.service.testing_database:
            source = filled if is_new else clones.init_snapshot_name(filled)
            await clones.create_like(admin, source, name, self.tag)
        else:
            await databases.create(admin, name, self.tag)

    async def _accept(self, connection: "asyncpg.Connection") -> dict[str, Activity] | None:
        """Verify the server's identity; return what `wait` returns."""
        now = await self.containers.alive(self.service)
        if now.started != self.container.started:
            raise ContainerDown(
                f"The container {now.name} exited and was restarted before its server was ready.",
                code="container-stopped",
                output=await self.containers.log_tail(now, of_last_start=False),
                hint=f"Read its log: `docker logs {now.name}`. If an init script failed, correct "
                "it and run `invoke db.reset`: it does not run again.",
            )
        try:
            told = await databases.identity(connection)
        except ServerError:
            # A user without the right to read it is accepted; the guard requires it before a reset.
            return None
        await self.expect_own(told, now)
        return await clones.counted_if_new(connection, self.initialised or now.started)

    async def _explain_login(self, error: LoginRefused) -> LoginRefused:
        return await asyncio.to_thread(
            explain_login,
            error,
            self.container,
            self.url,
            read_file=partial(self.containers.engine.read_file, self.container),
            sharing=self.sharing,
        )

    async def _not_ready(self, error: ServerError, timeout: float) -> ServerError:
        return ServerError(
            f"The container {self.container.name} did not accept the login within {timeout:g} s: "
            f"{error.message}",
            code="server-not-ready",
            output=await self.containers.log_tail(self.container),
            hint=f"Set HULEEDU_START_TIMEOUT to allow more time. {if_damaged(self.container)}",
        )
