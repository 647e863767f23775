"""Being let in to a container's server: waited for, and seen to be that very server.

Ready means that the service's own user is let in over TCP, from outside, to its own database. A
health check would be asked only at its next interval, and `pg_isready` inside the container
answers while the image still initialises a new volume on a temporary server.
"""

import asyncio
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from huleedu_tasks.compose.container_state import ContainerState
from huleedu_tasks.compose.containers import ContainerDown, Containers, if_damaged
from huleedu_tasks.config.registry import Service
from huleedu_tasks.config.urls import DatabaseUrl
from huleedu_tasks.errors import Refused, ServerError
from huleedu_tasks.postgres import clones, databases
from huleedu_tasks.postgres.connections import (
    DatabaseMissing,
    LoginRefused,
    connection,
    maintenance_connection,
)
from huleedu_tasks.postgres.databases import EnvironmentTag, ServerIdentity
from huleedu_tasks.servers.login_advice import explain_login

if TYPE_CHECKING:
    import asyncpg

POLL_INTERVAL = 0.05
# Asking the engine costs more than trying to log in.
STATE_INTERVAL = 0.5
ATTEMPT_TIMEOUT = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """One service's way into its container.

    Attributes:
        container: As it was when it was brought up.
        url: The database, at the container's own port.
        environment tag: What a database made here is tagged with.
        sharing: The names of all services on the server.
    """

    containers: Containers
    service: Service
    container: ContainerState
    url: DatabaseUrl
    tag: EnvironmentTag
    sharing: tuple[str, ...] = ()

    async def wait(self, timeout: float) -> bool:
        """Log in, and make the database if the server has none of that name.

        Args:
            timeout: Seconds it may take.

        Returns:
            Whether the server is still as new as the image has made it.

        Raises:
            LoginRefused: If the server refuses the user or the password.
            ContainerDown: If the container does not run, or has died meanwhile.
            Refused: If another server answers.
            ServerError: If time is over.
        """
        deadline = time.monotonic() + timeout
        next_look = time.monotonic() + STATE_INTERVAL
        while True:
            try:
                return await self._try()
            except LoginRefused as error:
                raise await self._explained(error) from error
            except ServerError as error:
                if time.monotonic() > deadline:
                    raise await self._not_ready(error, timeout) from error
            if time.monotonic() > next_look:
                await self.containers.alive(self.service, anew=True)
                next_look = time.monotonic() + STATE_INTERVAL
            await asyncio.sleep(POLL_INTERVAL)

    async def expect_own(self, told: ServerIdentity, container: ContainerState) -> None:
        """See that the server which answers is the one in the container.

        Raises:
            Refused: If it is not.
        """
        if told != await self.containers.identity(container):
            raise Refused(
                f"{self.service.name}: another server than the container {container.name} "
                f"answers at {self.url.address}.",
                code="server-mismatch",
                hint=f"A tunnel, a proxy or another PostgreSQL listens on port {self.url.port}, "
                "on ::1 for example. Stop it.",
            )

    async def _try(self) -> bool:
        try:
            async with connection(self.url, timeout=ATTEMPT_TIMEOUT) as user:
                return await self._accept(user)
        except DatabaseMissing:
            # A server two services share was made with the database of one of them.
            async with maintenance_connection(self.url) as admin:
                is_new = await self._accept(admin)
                await databases.create(admin, self.url.database, self.tag)
                return is_new

    async def _accept(self, asked: "asyncpg.Connection") -> bool:
        """See whose server answers; return whether nobody has written to it yet."""
        now = await self.containers.alive(self.service)
        if now.started != self.container.started:
            raise ContainerDown(
                f"The container {now.name} has died while it was waited for, and was started "
                "again.",
                code="container-stopped",
                output=await self.containers.log_tail(now),
                hint=f"Its log names the cause: `docker logs {now.name}`. An init script that "
                "failed is not run again: correct it, and run `invoke db.reset`.",
            )
        try:
            told = await databases.identity(asked)
        except ServerError:
            # A user who may not ask is let in; who wants to destroy has to prove it anyway.
            return False
        await self.expect_own(told, now)
        return await clones.is_new(asked, now.started)

    async def _explained(self, error: LoginRefused) -> LoginRefused:
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
            f"The container {self.container.name} does not let the user in after {timeout:g} s: "
            f"{error.message}",
            code="server-not-ready",
            output=await self.containers.log_tail(self.container),
            hint=f"HULEEDU_START_TIMEOUT allows more time. {if_damaged(self.container)}",
        )
