"""Connections to PostgreSQL. Failures are raised as `ServerError` with a code and a hint."""

import asyncio
import os
import re
import socket
import ssl
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from huleedu_tasks.config.hosts import edge_of
from huleedu_tasks.config.urls import DatabaseUrl
from huleedu_tasks.errors import ServerError
from huleedu_tasks.postgres.server_errors import explain

if TYPE_CHECKING:
    import asyncpg

APPLICATION_NAME = "huleedu-tasks"
CONNECT_TIMEOUT = 10.0
ANSWER_TIMEOUT = 30.0
# Created by initdb. One that is a service's own database is skipped.
MAINTENANCE_DATABASES = ("postgres", "template1")
# PGSSLMODE and PGTARGETSESSIONATTRS of a developer are meant for remote servers.
_ON_THIS_MACHINE = {"ssl": "prefer", "target_session_attrs": "any"}
# Writes of such a session are not counted, so that writes of other sessions can be recognised.
# Only a superuser may set it.
UNCOUNTED = {"track_counts": "off"}
# The code of a refused login if the password begins or ends with white space.
WHITE_SPACE = "password-white-space"
_OTHER_AUTHORITY = (
    "Set the file with the authority that signed it; your provider offers it for download."
)
_OTHER_NAME = "Connect with a name that the certificate lists."
# By OpenSSL's numbers (x509_vfy.h): expired; host name mismatch; IP address mismatch.
_CERTIFICATE_HINTS = {
    10: "Renew the server's certificate.",
    62: _OTHER_NAME,
    64: _OTHER_NAME,
}


class Unreachable(ServerError):
    """No server answered at the address within the timeout."""


class LoginRefused(ServerError):
    """The server refused the user or the password."""


class DatabaseMissing(ServerError):
    """The server has no database of that name."""


class DatabaseClosed(ServerError):
    """The database exists and does not allow connections."""


class NameUnknown(Unreachable):
    """The host name does not resolve."""


class NotOffered(ServerError):
    """The server does not offer TLS, which the URL requires."""


class CertificateRefused(ServerError):
    """The server certificate is not verified."""


@asynccontextmanager
async def connection(
    url: DatabaseUrl,
    *,
    database: str = "",
    timeout: float = CONNECT_TIMEOUT,
    uncounted: bool = False,
) -> "AsyncIterator[asyncpg.Connection]":
    """Connect for the time of a `with` block.

    Args:
        database: Another database on the same server; an empty string for the URL's.
        timeout: Seconds the server may take to accept the connection.
        uncounted: Whether the session sets `UNCOUNTED`. If the server refuses the setting, the
            session connects without it.

    Raises:
        ServerError: If the connection fails; one of the classes above where one applies.
    """
    opened = await connect(url, database=database, timeout=timeout, uncounted=uncounted)
    try:
        yield opened
    finally:
        await close(opened)


@asynccontextmanager
async def maintenance_connection(url: DatabaseUrl) -> "AsyncIterator[asyncpg.Connection]":
    """Connect to a maintenance database of the URL's server, for the time of a `with` block.

    Raises:
        ServerError: As `connect`.
    """
    opened = await connect_beside(url)
    try:
        yield opened
    finally:
        await close(opened)


async def connect_beside(url: DatabaseUrl, *, used: Collection[str] = ()) -> "asyncpg.Connection":
    """Connect to a maintenance database, other than the URL's database, until `close`.

    Args:
        used: Names of further databases to skip.

    Raises:
        ServerError: As `connect`, for the first database that was tried.
    """
    first: ServerError | None = None
    for database in MAINTENANCE_DATABASES:
        if database in (url.database, *used):
            continue
        try:
            return await connect(url, database=database)
        except (DatabaseMissing, DatabaseClosed, LoginRefused) as error:
            # The next maintenance database may be available.
            first = first or error
    raise first or ServerError(
        f"{url.database!r} cannot be replaced: the services use both "
        f"{' and '.join(MAINTENANCE_DATABASES)} on {url.address}, so there is no other database "
        "to connect to.",
        code="no-maintenance-database",
        hint="Set another 'database' in the registry for a service that uses "
        f"{' or '.join(MAINTENANCE_DATABASES)}.",
    )


@asynccontextmanager
async def answering(
    server: str = "The server", *, timeout: float | None = ANSWER_TIMEOUT
) -> AsyncIterator[None]:
    """Limit the time of a `with` block that queries a server, and convert its errors.

    Args:
        server: The subject of the messages.
        timeout: Seconds the `with` block may take; None for no limit.

    Raises:
        ServerError: If the timeout expired, the connection was lost, or the server raised an
            error.
    """
    import asyncpg

    try:
        async with asyncio.timeout(timeout):
            yield
    except TimeoutError as error:
        raise ServerError(
            f"{server} did not answer within {timeout:g} s.",
            code="server-timeout",
            hint="Find the statements that it is running: SELECT * FROM pg_stat_activity.",
        ) from error
    except (
        asyncpg.PostgresError,
        asyncpg.InterfaceError,
        # asyncpg raises it if a connection ends during a query.
        asyncpg.InternalClientError,
        OSError,
    ) as error:
        doing = f"{server} stopped answering"
        raise explain(error, doing) or ServerError(
            f"{doing}: {error}.", code="connection-lost", hint="Read the server's log."
        ) from error


async def is_pooled(connection: "asyncpg.Connection") -> bool:
    """Whether a connection goes through a pooler, which invents the pid that it states.

    PgBouncer calls them "fake" keys.
    """
    pid = await connection.fetchval("SELECT pg_backend_pid()")
    return bool(pid != connection.get_server_pid())


async def connect(
    url: DatabaseUrl,
    *,
    database: str = "",
    timeout: float = CONNECT_TIMEOUT,
    uncounted: bool = False,
) -> "asyncpg.Connection":
    """Connect until `close`; arguments and errors are those of `connection`."""
    database = database or url.database
    if uncounted:
        # A startup parameter survives RESET ALL. A server that refuses it refuses the connection.
        with suppress(LoginRefused):
            return await _connect(url, database, timeout, UNCOUNTED)
    return await _connect(url, database, timeout, {})


async def _connect(
    url: DatabaseUrl, database: str, timeout: float, settings: Mapping[str, str]
) -> "asyncpg.Connection":
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
            # A pooler may send each statement to another session, without prepared statements.
            statement_cache_size=0,
            server_settings={"application_name": APPLICATION_NAME, **settings},
        )
    except (
        asyncpg.InvalidPasswordError,
        asyncpg.InvalidAuthorizationSpecificationError,
        asyncpg.InsufficientPrivilegeError,
    ) as error:
        edge = edge_of(url.password.reveal())
        raise LoginRefused(
            f"{url.address} refused the login of {url.user!r}: {error}"
            + (f"; the password {edge}" if edge else ""),
            code=WHITE_SPACE if edge else "login-refused",
            hint="Compare HULEEDU_DB_USER and HULEEDU_DB_PASSWORD with the server's role. On an "
            "embedded server, `invoke db.up` applies the values in .env."
            if url.is_local
            else "Compare the user and password with those of the server.",
        ) from None
    except asyncpg.InvalidCatalogNameError:
        raise DatabaseMissing(
            f"{url.address} has no database {database!r}.",
            code="database-missing",
            hint="`invoke db.reset` creates it in development and testing.",
        ) from None
    except asyncpg.ObjectNotInPrerequisiteStateError:
        raise database_closed(url, database) from None
    except ssl.SSLError as error:
        raise CertificateRefused(
            f"The certificate of {url.address} was not accepted: {_certificate_reason(error)}.",
            code="certificate-refused",
            hint=_CERTIFICATE_HINTS.get(getattr(error, "verify_code", 0), _OTHER_AUTHORITY),
        ) from None
    except (OSError, TimeoutError) as error:
        raise _unreachable(url, error, timeout) from None
    except asyncpg.PostgresError as error:
        doing = f"{url.address} did not accept the connection"
        raise (explain(error, doing) or error) from None
    except (asyncpg.InterfaceError, asyncpg.InternalClientError, ValueError) as error:
        raise ServerError(
            f"Connecting to {url} failed: {error}",
            code="connection-invalid",
            hint="Correct the URL's parameters (`invoke db.url` shows where it comes from).",
        ) from None


def database_closed(url: DatabaseUrl, database: str) -> DatabaseClosed:
    """Return the error that a database does not allow connections."""
    return DatabaseClosed(
        f"{url.address} does not allow connections to the database {database!r}.",
        code="database-closed",
        hint=f'Run ALTER DATABASE "{database}" ALLOW_CONNECTIONS true on the server, connected '
        "to another database.",
    )


def _unreachable(url: DatabaseUrl, error: OSError, timeout: float) -> ServerError:
    if isinstance(error, socket.gaierror):
        return NameUnknown(
            f"The host name {url.host!r} did not resolve: {error.strerror}.",
            code="host-unknown",
            hint="Correct the name, or ask the administrator of the DNS.",
        )
    if "rejected SSL upgrade" in str(error):
        return NotOffered(
            f"{url.address} does not offer TLS.",
            code="tls-not-offered",
            hint="Enable TLS on the server (ssl = on in postgresql.conf).",
        )
    return Unreachable(
        f"Nothing answers at {url.address}: {_reason(error) or f'silent for {timeout:g} s'}.",
        code="server-unreachable",
        hint="`invoke db.up` starts the development servers.",
    )


def _certificate_reason(error: ssl.SSLError) -> str:
    return str(getattr(error, "verify_message", "") or error.reason or error).rstrip(".")


def _reason(error: OSError) -> str:
    """Return the system's message. That of asyncio repeats it for each address of the name."""
    numbers = [error.errno] if error.errno else re.findall(r"\[Errno (\d+)\]", str(error))
    return ", ".join(dict.fromkeys(os.strerror(int(n)) for n in numbers)) or str(error)


async def close(opened: "asyncpg.Connection") -> None:
    """Close a connection, also one that was lost or whose task was cancelled."""
    # A connection left open on the server would block DROP DATABASE.
    if _is_cancelled():
        opened.terminate()
        return
    try:
        await opened.close(timeout=CONNECT_TIMEOUT)
    except Exception:
        # The work has succeeded or failed already.
        opened.terminate()


def _is_cancelled() -> bool:
    task: asyncio.Task[Any] | None = asyncio.current_task()
    return task is not None and task.cancelling() > 0
