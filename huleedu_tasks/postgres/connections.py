"""Connections to PostgreSQL, with failures said in words."""

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
from huleedu_tasks.postgres.failures import explain

if TYPE_CHECKING:
    import asyncpg

APPLICATION_NAME = "huleedu-tasks"
CONNECT_TIMEOUT = 10.0
ANSWER_TIMEOUT = 30.0
# Those that initdb makes; which of them a service uses itself is not connected to.
MAINTENANCE_DATABASES = ("postgres", "template1")
# PGSSLMODE and PGTARGETSESSIONATTRS, where a developer has them, are meant for servers elsewhere.
_ON_THIS_MACHINE = {"ssl": "prefer", "target_session_attrs": "any"}
# What such a session writes is not counted, so that what others write can be told from it. Only a
# superuser may ask for that.
UNCOUNTED = {"track_counts": "off"}
# The code of a login that is refused with a password that begins or ends with white space.
WHITE_SPACE = "password-white-space"
_OTHER_AUTHORITY = (
    "Name the file with the authority that has signed it; your provider offers it for download."
)
_OTHER_NAME = "Connect with a name that the certificate lists."
# By OpenSSL's numbers (x509_vfy.h): expired, and not made for this name or this address.
_CERTIFICATE_HINTS = {
    10: "Have the server's certificate renewed.",
    62: _OTHER_NAME,
    64: _OTHER_NAME,
}


class Unreachable(ServerError):
    """Nothing answers at the address, or not in time."""


class LoginRefused(ServerError):
    """The server knows neither this user nor this password."""


class DatabaseMissing(ServerError):
    """The server has no database of that name."""


class DatabaseClosed(ServerError):
    """The database exists, and accepts no connections."""


class NameUnknown(Unreachable):
    """The host's name leads to no address."""


class NotOffered(ServerError):
    """The server does not encrypt, and the URL wants that."""


class CertificateRefused(ServerError):
    """The server does not prove to be the one the URL names."""


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
        database: Another database than the URL's, on the same server.
        timeout: Seconds the server may take to accept the connection.
        uncounted: Whether the session asks for `UNCOUNTED`, which a server may refuse.

    Raises:
        ServerError: One of the classes above, where it is one of these.
    """
    opened = await connect(url, database=database, timeout=timeout, uncounted=uncounted)
    try:
        yield opened
    finally:
        await close(opened)


@asynccontextmanager
async def maintenance_connection(url: DatabaseUrl) -> "AsyncIterator[asyncpg.Connection]":
    """Connect beside the URL's database, for the time of a `with` block.

    Raises:
        ServerError: As `connect`.
    """
    opened = await connect_beside(url)
    try:
        yield opened
    finally:
        await close(opened)


async def connect_beside(url: DatabaseUrl, *, used: Collection[str] = ()) -> "asyncpg.Connection":
    """Connect to a database of a server that is not the URL's, until `close`.

    Args:
        used: Further databases that are not connected to.

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
            # One may be closed to this user, or dropped, and the next one not.
            first = first or error
    raise first or ServerError(
        f"{url.address} has no database from which {url.database!r} can be replaced.",
        code="no-maintenance-database",
        hint="State another 'database' in the registry for one of the services named "
        f"{' or '.join(MAINTENANCE_DATABASES)}.",
    )


@asynccontextmanager
async def answering(
    server: str = "The server", *, timeout: float | None = ANSWER_TIMEOUT
) -> AsyncIterator[None]:
    """Ask a server that was reached, not for ever, and say in words where it does not answer.

    Args:
        server: Who is asked, as the sentence begins.
        timeout: Seconds the `with` block may take; None for as long as it takes.

    Raises:
        ServerError: If it takes longer, the connection is lost, or the server refuses.
    """
    import asyncpg

    try:
        async with asyncio.timeout(timeout):
            yield
    except TimeoutError as error:
        raise ServerError(
            f"{server} has not answered within {timeout:g} s.",
            code="server-timeout",
            hint="See what it is busy with: SELECT * FROM pg_stat_activity.",
        ) from error
    except (
        asyncpg.PostgresError,
        asyncpg.InterfaceError,
        # A connection that ends while it is being used.
        asyncpg.InternalClientError,
        OSError,
    ) as error:
        doing = f"{server} did not answer to the end"
        raise explain(error, doing) or ServerError(
            f"{doing}: {error}.", code="connection-lost", hint="Read the server's log."
        ) from error


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
        # A startup parameter outlasts RESET ALL, and is refused with the whole connection.
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
            # A pooler may hand each statement to another session, which knows no cached ones.
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
            hint="If you have changed them in .env: `invoke db.up` makes an embedded server adopt "
            "them. Otherwise compare them with those the server was made with."
            if url.is_local
            else "Compare user and password with those the server was made with.",
        ) from None
    except asyncpg.InvalidCatalogNameError:
        raise DatabaseMissing(
            f"{url.address} has no database {database!r}.",
            code="database-missing",
            hint="`invoke db.reset` creates it in development.",
        ) from None
    except asyncpg.ObjectNotInPrerequisiteStateError:
        raise DatabaseClosed(
            f"{url.address} has closed the database {database!r} to connections.",
            code="database-closed",
            hint=f'Run ALTER DATABASE "{database}" ALLOW_CONNECTIONS true on the server, connected '
            "to another database.",
        ) from None
    except ssl.SSLError as error:
        raise CertificateRefused(
            f"The certificate of {url.address} is not accepted: {_certificate_reason(error)}.",
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
            f"No connection can be made to {url}: {error}",
            code="connection-invalid",
            hint="Correct the URL's parameters (`invoke db.url` shows where it comes from).",
        ) from None


def _unreachable(url: DatabaseUrl, error: OSError, timeout: float) -> ServerError:
    if isinstance(error, socket.gaierror):
        return NameUnknown(
            f"The host name {url.host!r} leads to no address: {error.strerror}.",
            code="host-unknown",
            hint="Correct the name, or ask whoever runs this network's DNS.",
        )
    if "rejected SSL upgrade" in str(error):
        return NotOffered(
            f"{url.address} offers no TLS.",
            code="tls-not-offered",
            hint="Have it turned on in the server's settings.",
        )
    return Unreachable(
        f"Nothing answers at {url.address}: {_reason(error) or f'silent for {timeout:g} s'}.",
        code="server-unreachable",
        hint="`invoke db.up` starts the development servers.",
    )


def _certificate_reason(error: ssl.SSLError) -> str:
    return str(getattr(error, "verify_message", "") or error.reason or error).rstrip(".")


def _reason(error: OSError) -> str:
    """Return the system's words; asyncio's repeat the address, for each that the name has."""
    numbers = [error.errno] if error.errno else re.findall(r"\[Errno (\d+)\]", str(error))
    return ", ".join(dict.fromkeys(os.strerror(int(n)) for n in numbers)) or str(error)


async def close(opened: "asyncpg.Connection") -> None:
    """End a connection, whatever has happened to it."""
    # Cancelled or not: the server must not be left with a connection that blocks a DROP.
    if _is_cancelled():
        opened.terminate()
        return
    try:
        await opened.close(timeout=CONNECT_TIMEOUT)
    except Exception:
        # The work is done or has failed already: a connection lost meanwhile adds nothing.
        opened.terminate()


def _is_cancelled() -> bool:
    task: asyncio.Task[Any] | None = asyncio.current_task()
    return task is not None and task.cancelling() > 0
