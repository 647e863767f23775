"""The proofs that must hold before a development command changes anything.

Three facts must agree, and no single variable overrides them: the environment is disposable, the
database does not belong to another one, and the server is the provider's own. What a name or an
address says is no proof: a tunnel to production can listen on 127.0.0.1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from huleedu_tasks.config.registry import Service
from huleedu_tasks.config.settings import Environment, Settings
from huleedu_tasks.config.urls import ResolvedUrl
from huleedu_tasks.errors import Refused, ServerError
from huleedu_tasks.postgres import databases
from huleedu_tasks.servers.protocol import Provider

if TYPE_CHECKING:
    import asyncpg


def require_disposable_environment(settings: Settings, command: str) -> None:
    """Let only development and testing pass.

    Raises:
        Refused: In staging and production.
    """
    if settings.environment.is_disposable:
        return
    source = settings.value("HULEEDU_ENVIRONMENT").source
    raise Refused(
        f"{command} does not run in {settings.environment} (HULEEDU_ENVIRONMENT from {source}).",
        code="environment-refused",
        hint="It is for development and testing. Unset HULEEDU_ENVIRONMENT if you are there.",
    )


def require_external_environment(settings: Settings, command: str) -> None:
    """Let only staging and production pass.

    Raises:
        Refused: In development and testing.
    """
    if not settings.environment.is_disposable:
        return
    raise Refused(
        f"{command} does not run in {settings.environment}.",
        code="environment-refused",
        hint="Set HULEEDU_ENVIRONMENT=production, or staging, for this command.",
    )


def require_own_address(service: Service, resolved: ResolvedUrl, provider: Provider) -> None:
    """Refuse an override that points away from the provider's server, before connecting to it.

    Raises:
        Refused: With the variable and where it points.
    """
    url = resolved.url
    if not provider.proves_identity or (url.is_local and url.port == service.port):
        return
    raise Refused(
        f"{service.name}: {resolved.source} points to {url.address}, not to the {provider.name} "
        f"server on localhost:{service.port}.",
        code="override-mismatch",
        hint=f"Unset {resolved.source}, or set HULEEDU_PROVIDER=existing to work on that server.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """What proves a database disposable.

    Attributes:
        confirmed: Names of databases a person has typed, for servers that prove nothing.
    """

    settings: Settings
    provider: Provider
    confirmed: Sequence[str] = ()

    async def prove_disposable(
        self, admin: "asyncpg.Connection", service: Service, database: str
    ) -> None:
        """Prove that a database may be destroyed, on the connection that will do it.

        Args:
            admin: A connection to the database's server, on another database or on this one.
            database: Its name; it need not exist.

        Raises:
            Refused: With the fact that does not hold.
        """
        require_disposable_environment(self.settings, "This")
        await self._prove_server(admin, service)
        if await databases.exists(admin, database):
            await self._prove_tag(admin, service, database)

    def prove_comments(self, service: Service, comments: Mapping[str, str]) -> None:
        """Prove that a provider's server may go as a whole, by what it says of its databases.

        Args:
            comments: The comment of each database, read from the provider's own side.

        Raises:
            Refused: If one of them belongs to another environment.
        """
        require_disposable_environment(self.settings, "This")
        for database, comment in comments.items():
            self._accept_tag(service, database, comment)

    async def _prove_server(self, admin: "asyncpg.Connection", service: Service) -> None:
        if not self.provider.proves_identity:
            return
        own = await self.provider.identity(service)
        if own is None:
            raise Refused(
                f"{service.name}: the {self.provider.name} provider has no server of its own "
                "to compare with.",
                code="server-not-running",
                hint="Run `invoke db.up`.",
            )
        if await _identity_of(admin) != own:
            raise Refused(
                f"{service.name}: the server that answers on port {service.port} is not the "
                f"{self.provider.name} server in {own.data_directory}.",
                code="server-mismatch",
                hint="A tunnel, a proxy or another PostgreSQL listens there. Stop it, then run "
                "`invoke db.up`.",
            )

    async def _prove_tag(
        self, admin: "asyncpg.Connection", service: Service, database: str
    ) -> None:
        comment = await databases.comment_of(admin, database)
        tagged = self._accept_tag(service, database, comment)
        if not (tagged or self.provider.proves_identity or database in self.confirmed):
            raise Refused(
                f"{service.name}: database {database!r} has no development tag, and nothing "
                f"else proves that it is disposable ({self.provider.reason}).",
                code="environment-tag-missing",
                hint="Type its name when asked on a terminal, or pass "
                f"`--confirm {database}`; from then on it has the tag.",
            )

    def _accept_tag(self, service: Service, database: str, comment: str) -> bool:
        """Refuse another environment's environment tag; return whether there is one at all."""
        try:
            tag = databases.parse_tag(database, comment)
        except ServerError as error:
            raise Refused(
                f"{service.name}: {error.message}", code=error.code, hint=error.hint
            ) from error
        # Development and testing use the same servers in turn, and both are disposable.
        disposable = [member for member in Environment if member.is_disposable]
        if tag is not None and tag.environment not in disposable:
            raise Refused(
                f"{service.name}: database {database!r} is tagged as {tag.environment}.",
                code="environment-tag-mismatch",
                hint="It is not this command's to change. If the tag is wrong, correct it with "
                "COMMENT ON DATABASE.",
            )
        return tag is not None


async def _identity_of(admin: "asyncpg.Connection") -> databases.ServerIdentity | None:
    try:
        return await databases.identity(admin)
    except ServerError:
        # Not allowed to ask, where our own server would allow it: not our own.
        return None
