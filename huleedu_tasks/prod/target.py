"""A database of staging or production: where it is, how to connect, and its service's history."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from huleedu_tasks.config.registry import Service
from huleedu_tasks.config.urls import DatabaseUrl, ResolvedUrl
from huleedu_tasks.errors import HuleEduError, ServerError
from huleedu_tasks.migrations.alembic_history import AlembicHistories
from huleedu_tasks.migrations.revisions import NO_HISTORY, History, named
from huleedu_tasks.postgres.connections import (
    WHITE_SPACE,
    CertificateRefused,
    DatabaseMissing,
    LoginRefused,
    NameUnknown,
    NotOffered,
    Unreachable,
    connection,
)
from huleedu_tasks.postgres.databases import quoted
from huleedu_tasks.report import Fact

if TYPE_CHECKING:
    import asyncpg

DISABLED = "disable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A database to be migrated, with its settings and its history.

    Attributes:
        resolved: The URL of the server itself, without a pooler.
        environment: The environment, which the environment tag must match.
        variables: The prefix of that environment's variables.
        open_allowed: Whether the environment allows connections without TLS.
        history: The service's revisions, or the error that reading them raised.
        histories: The source of each service's revisions, read by its Alembic.
        usual: The service's own URL; `None` if it is `resolved`.
    """

    service: Service
    resolved: ResolvedUrl
    environment: str
    variables: str
    open_allowed: bool
    history: History | HuleEduError
    histories: AlembicHistories
    usual: ResolvedUrl | None = None

    @property
    def url(self) -> DatabaseUrl:
        """The URL of the database."""
        return self.resolved.url

    @property
    def known_history(self) -> History:
        """The service's revisions.

        Raises:
            HuleEduError: If they could not be read.
        """
        if isinstance(self.history, HuleEduError):
            raise self.history
        return self.history

    @property
    def address_facts(self) -> dict[str, Fact]:
        """The server and the name of the database, for a report."""
        return {"server": self.url.address, "database": self.url.database}

    def revision_facts(self, revisions: tuple[str, ...]) -> dict[str, Fact]:
        """Return the current revisions, the head and the number of pending ones, for a report."""
        history = self.history
        if isinstance(history, HuleEduError):
            return {"current": named(revisions), "head": None, "pending": None}
        return {
            "current": named(revisions),
            "head": named(history.heads),
            "pending": history.pending(revisions),
        }

    async def read_history(self) -> History:
        """Return the service's revisions from its current files.

        Raises:
            MigrationError: If they cannot be read.
        """
        return await self.histories.history(self.service, self.url)

    async def read_revisions(self, connection: "asyncpg.Connection") -> tuple[str, ...]:
        """Return the revisions in the service's version tables.

        Args:
            connection: A connection to its database.

        Raises:
            ServerError: If they cannot be read.
            Refused: If `env.py` connects to a different database.
        """
        history = self.history if isinstance(self.history, History) else NO_HISTORY
        return await self.histories.current(self.service, self.url, connection, history)

    def variable(self, part: str) -> str:
        """Return the name of the variable that contains a part of the URL, such as `HOST`."""
        return self.resolved.source if self.resolved.is_override else f"{self.variables}_{part}"

    def tls_mode(self, mode: str) -> str:
        """Return an instruction to set a TLS mode."""
        if self.resolved.is_override:
            name = "ssl" if self.url.scheme.endswith("+asyncpg") else "sslmode"
            return f"add ?{name}={mode} to {self.resolved.source}"
        return f"set {self.variables}_SSLMODE={mode}"


@asynccontextmanager
async def reach(target: Target) -> "AsyncIterator[asyncpg.Connection]":
    """Connect to a target for the time of a `with` block.

    Raises:
        ServerError: If the server cannot be reached; its hint names this environment's variables.
    """
    async with AsyncExitStack() as stack:
        try:
            opened = await stack.enter_async_context(connection(target.url))
        except ServerError as error:
            raise error.changed(hint=_connection_hint(target, error)) from error.__cause__
        yield opened


def without_white_space(variable: str) -> str:
    """Return the remedy for white space around the password in a variable."""
    return (
        f"Remove the white space from {variable}, unless the password contains it: `echo` adds a "
        "line break to a secret, `printf %s` does not."
    )


def _connection_hint(target: Target, error: ServerError) -> str:
    """Return the hint for a connection error, with the names of the variables."""
    url = target.url
    user = "" if target.resolved.is_override else "HULEEDU_DB_USER and "
    remedies: dict[type[ServerError], str] = {
        NameUnknown: f"Correct {target.variable('HOST')}, or ask the administrator of this "
        "network's DNS.",
        NotOffered: f"Turn on TLS on the server; if the network is trusted, "
        f"{target.tls_mode(DISABLED)}.",
        CertificateRefused: error.hint,
        Unreachable: f"Check {target.variable('HOST')} and whether this machine may reach the "
        "server: network, firewall, allowed addresses.",
        LoginRefused: f"Compare {user}{target.variable('PASSWORD')} with the server's roles, "
        "their CONNECT privilege and pg_hba.conf.",
        DatabaseMissing: f"Create it: CREATE DATABASE {quoted(url.database)} OWNER "
        f"{quoted(url.user)}.",
    }
    usual = error.hint or f"Check {target.variable('HOST')}, and read the server's log."
    if url.tls.get("sslmode", "").startswith("verify") and "sslrootcert" not in url.tls:
        usual = f"Set {target.variable('SSLROOTCERT')} to the file of certificate authorities."
    if error.code == WHITE_SPACE:
        return without_white_space(target.variable("PASSWORD"))
    return remedies.get(type(error), usual)
