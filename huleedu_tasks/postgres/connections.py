"""Connections to PostgreSQL, with failures said in words."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from huleedu_tasks.config.urls import DatabaseUrl
from huleedu_tasks.errors import ServerError

if TYPE_CHECKING:
    import asyncpg

APPLICATION_NAME = "huleedu-tasks"
CONNECT_TIMEOUT = 10.0
# Exists in every cluster initdb made, and is nobody's own.
MAINTENANCE_DATABASE = "postgres"
# PGSSLMODE and PGTARGETSESSIONATTRS, where a developer has them, are meant for servers elsewhere.
_ON_THIS_MACHINE = {"ssl": "prefer", "target_session_attrs": "any"}


class Unreachable(ServerError):
    """Nothing answers at the address, or not in time."""


class LoginRefused(ServerError):
    """The server knows neither this user nor this password."""


class DatabaseMissing(ServerError):
    """The server has no database of that name."""


@asynccontextmanager
async def connection(
    url: DatabaseUrl, *, database: str = "", timeout: float = CONNECT_TIMEOUT
) -> "AsyncIterator[asyncpg.Connection]":
    """Connect for the time of a `with` block.

    Args:
        database: Another database than the URL's, on the same server.
        timeout: Seconds the server may take to accept the connection.

    Raises:
        ServerError: Unreachable, LoginRefused or DatabaseMissing, where it is one of these.
    """
    opened = await _connect(url, database or url.database, timeout)
    try:
        yield opened
    finally:
        # Cancelled or not: the server must not be left with a connection that blocks a DROP.
        opened.terminate() if _is_cancelled() else await _close(opened)


async def _connect(url: DatabaseUrl, database: str, timeout: float) -> "asyncpg.Connection":
    import asyncpg

    try:
        return await asyncpg.connect(
            dsn=f"postgresql://?{urlencode(url.tls)}" if url.tls else None,
            host=url.host,
            port=url.port,
            user=url.user,
            password=url.password.reveal() or None,
            database=database,
            timeout=timeout,
            **(_ON_THIS_MACHINE if url.is_local and not url.tls else {}),
            server_settings={"application_name": APPLICATION_NAME},
        )
    except (
        asyncpg.InvalidPasswordError,
        asyncpg.InvalidAuthorizationSpecificationError,
    ) as error:
        raise LoginRefused(
            f"{url.address} refused the login of {url.user!r}: {error}",
            hint="Compare user and password with those the server was made with.",
        ) from None
    except asyncpg.InvalidCatalogNameError:
        raise DatabaseMissing(
            f"{url.address} has no database {database!r}.",
            hint="`invoke db.reset` creates it in development.",
        ) from None
    except (OSError, TimeoutError) as error:
        raise Unreachable(
            f"Nothing answers at {url.address}: {_reason(error) or f'silent for {timeout:g} s'}.",
            hint="`invoke db.up` starts the development servers.",
        ) from None
    except asyncpg.PostgresError as error:
        raise ServerError(f"{url.address} does not accept connections: {error}") from None
    except (asyncpg.InterfaceError, ValueError) as error:
        raise ServerError(f"No connection can be made to {url}: {error}") from None


def _reason(error: Exception) -> str:
    # asyncio's own words repeat the address, once for each that the name has.
    number = error.errno if isinstance(error, OSError) else None
    return os.strerror(number) if number else str(error)


async def _close(opened: "asyncpg.Connection") -> None:
    try:
        await opened.close(timeout=CONNECT_TIMEOUT)
    except Exception:
        # The work is done or has failed already: a connection lost meanwhile adds nothing.
        opened.terminate()


def _is_cancelled() -> bool:
    task: asyncio.Task[Any] | None = asyncio.current_task()
    return task is not None and task.cancelling() > 0
