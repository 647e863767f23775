"""The proofs that are required before a development command changes anything.

Three conditions must hold, and no single variable overrides them: the environment is disposable,
the database does not belong to another environment, and the server is the provider's own. A host
name or an address proves nothing: a tunnel to production can listen on 127.0.0.1.

Development and testing are two environments on one server, so neither may destroy the other's
databases.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from huleedu_tasks.config.registry import Service
from huleedu_tasks.config.settings import Environment, Settings
from huleedu_tasks.config.urls import ResolvedUrl
from huleedu_tasks.errors import HuleEduError, Refused, ServerError
from huleedu_tasks.postgres import databases
from huleedu_tasks.servers.protocol import Provider

if TYPE_CHECKING:
    import asyncpg


def require_disposable_environment(settings: Settings, command: str, *, hint: str = "") -> None:
    """Refuse a command outside development and testing.

    Args:
        command: Its name, for the message.
        hint: What to do there instead; an empty string if the command has no counterpart.

    Raises:
        Refused: In staging and production.
    """
    if settings.environment.is_disposable:
        return
    source = settings.value("HULEEDU_ENVIRONMENT").source
    raise Refused(
        f"{command} does not run in {settings.environment} (HULEEDU_ENVIRONMENT from {source}).",
        code="environment-refused",
        hint=hint
        or "Unset HULEEDU_ENVIRONMENT if this is development. The command runs only in "
        "development and testing.",
    )


def require_external_environment(settings: Settings, command: str) -> None:
    """Refuse a command outside staging and production.

    Args:
        command: Its name, for the message.

    Raises:
        Refused: In development and testing.
    """
    if not settings.environment.is_disposable:
        return
    raise Refused(
        f"{command} does not run in {settings.environment}.",
        code="environment-refused",
        hint="Set HULEEDU_ENVIRONMENT=production or HULEEDU_ENVIRONMENT=staging.",
    )


def require_own_address(service: Service, resolved: ResolvedUrl, provider: Provider) -> None:
    """Refuse an override variable that points to a server that is not the provider's.

    No connection is opened.

    Raises:
        Refused: If it does, with the variable and the address.
    """
    url = resolved.url
    if not provider.proves_identity or (url.is_local and url.port == service.port):
        return
    raise Refused(
        f"{service.name}: {resolved.source} points to {url.address}, not to the {provider.name} "
        f"server on localhost:{service.port}.",
        code="override-mismatch",
        hint=f"Unset {resolved.source}, or set HULEEDU_PROVIDER=existing to use that server.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """Proves that databases are disposable.

    Attributes:
        confirmed: The names of databases that the user has typed, for servers whose identity the
            provider cannot prove.
    """

    settings: Settings
    provider: Provider
    confirmed: Sequence[str] = ()

    async def prove_disposable(
        self, admin: "asyncpg.Connection", service: Service, database: str
    ) -> None:
        """Prove that a database may be destroyed, on the connection that will destroy it.

        Args:
            admin: A connection to the database's server, on any database.
            database: The database's name; it need not exist.

        Raises:
            Refused: With the condition that does not hold.
        """
        require_disposable_environment(self.settings, "This")
        await self._prove_server(admin, service)
        comment = await databases.find_comment(admin, database)
        if comment is not None:
            self._prove_tag(service, database, comment)

    def prove_comments(self, service: Service, comments: Mapping[str, str]) -> None:
        """Prove that a provider's whole server may be destroyed, by the comments of its databases.

        Args:
            comments: The comment of each database by its name, as the provider has read them.

        In development the databases of testing on that server may be destroyed as well: each run in
        testing creates its own.

        Raises:
            Refused: If a database is tagged as another environment's.
        """
        require_disposable_environment(self.settings, "This")
        for database, comment in comments.items():
            tag = self._accept_tag(service, database, comment)
            if self._is_of_development(service, tag):
                raise Refused(
                    f"{service.name}: the server also has the database {database!r} of "
                    "development, which would be destroyed in testing.",
                    code="other-environment",
                    hint="Omit --volumes, or run the command in development.",
                )

    async def other_server(self, connection: "asyncpg.Connection", service: Service) -> str:
        """Return a sentence if the server that answers is not the provider's own.

        Args:
            connection: A connection to any database of the server.

        Returns:
            The sentence; an empty string if it is the provider's own, or if that is not known.
        """
        told = await _identity_of(connection) if self.provider.proves_identity else None
        if told is None:
            return ""
        try:
            own = await self.provider.identity(service)
        except HuleEduError:
            # The provider has no running server.
            own = None
        if told == own:
            return ""
        return (
            f"not the {self.provider.name} server, but another one with its data in "
            f"{told.data_directory}, answers on port {service.port}"
        )

    async def _prove_server(self, admin: "asyncpg.Connection", service: Service) -> None:
        if not self.provider.proves_identity:
            return
        own = await self.provider.identity(service)
        if own is None:
            raise Refused(
                f"{service.name}: the {self.provider.name} provider has no running server.",
                code="server-not-running",
                hint="Run `invoke db.up`.",
            )
        if await _identity_of(admin) != own:
            raise Refused(
                f"{service.name}: the server that answers on port {service.port} is not the "
                f"{self.provider.name} server in {own.data_directory}.",
                code="server-mismatch",
                hint="Stop the tunnel, proxy or other PostgreSQL that listens there, then run "
                "`invoke db.up`.",
            )

    def _prove_tag(self, service: Service, database: str, comment: str) -> None:
        tag = self._accept_tag(service, database, comment)
        self._require_own_environment(service, database, tag)
        if not (tag or self.provider.proves_identity or database in self.confirmed):
            raise Refused(
                f"{service.name}: database {database!r} has no environment tag, and the "
                f"{self.provider.name} provider cannot prove that it is disposable "
                f"({self.provider.reason}).",
                code="environment-tag-missing",
                hint=f"Pass `--confirm {database}`, or type the name when asked on a terminal. The "
                "command then tags the database.",
            )

    def _require_own_environment(
        self, service: Service, database: str, tag: databases.EnvironmentTag | None
    ) -> None:
        """Refuse a database of testing in development, and of development in testing.

        On the provider's own server its name is enough; on an existing server, which may be that of
        a CI job, it must also be tagged. A service whose two environments share its database is
        accepted, and so is its database of development with a tag of testing, from versions before
        testing had databases of its own: the next command that changes it corrects the tag.
        """
        environment = self.settings.environment
        (other,) = {Environment.DEVELOPMENT, Environment.TESTING} - {environment}
        is_other = service.has_testing_database and database == service.database_in(other)
        proven = self.provider.proves_identity or (tag is not None and tag.environment == other)
        if not (is_other and proven):
            if self._is_of_development(service, tag):
                raise _tag_mismatch(service, database, str(other))
            return
        own = service.database_in(environment)
        remedy = (
            f', or state "testing_database": "{database}" in the registry if testing may destroy '
            "the data of development"
            if environment is Environment.TESTING
            else f", or set HULEEDU_ENVIRONMENT={other}"
        )
        raise Refused(
            f"{service.name}: database {database!r} belongs to {other}, and the environment is "
            f"{environment}.",
            code="other-environment",
            hint=f"Unset {service.url_variable}, or set it to the database {own!r}{remedy}.",
        )

    def _is_of_development(self, service: Service, tag: databases.EnvironmentTag | None) -> bool:
        """Whether this is testing, and a database is tagged as one that it does not share."""
        return (
            self.settings.environment is Environment.TESTING
            and service.has_testing_database
            and tag is not None
            and tag.environment == Environment.DEVELOPMENT
        )

    def _accept_tag(
        self, service: Service, database: str, comment: str
    ) -> databases.EnvironmentTag | None:
        """Refuse a tag of staging or production; return the tag, None if there is none."""
        try:
            tag = databases.parse_tag(database, comment)
        except ServerError as error:
            raise Refused(
                f"{service.name}: {error.message}", code=error.code, hint=error.hint
            ) from error
        disposable = [member for member in Environment if member.is_disposable]
        if tag is not None and tag.environment not in disposable:
            raise _tag_mismatch(service, database, tag.environment)
        return tag


def _tag_mismatch(service: Service, database: str, environment: str) -> Refused:
    return Refused(
        f"{service.name}: database {database!r} is tagged as {environment}.",
        code="environment-tag-mismatch",
        hint="Check which database the URL names. If the tag is wrong, correct it with "
        "COMMENT ON DATABASE.",
    )


async def _identity_of(admin: "asyncpg.Connection") -> databases.ServerIdentity | None:
    """Return a server's identity; None if the user may not read it."""
    try:
        return await databases.identity(admin)
    except ServerError:
        # The provider's own server would have allowed the query.
        return None
