"""One server of a test run: databases are copied and dropped over connections that stay open."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from huleedu_tasks.config.registry import Service
from huleedu_tasks.guard import Guard
from huleedu_tasks.postgres import clones, databases
from huleedu_tasks.postgres.connections import close, connect_beside
from huleedu_tasks.postgres.databases import EnvironmentTag
from huleedu_tasks.postgres.server_errors import converted_errors
from huleedu_tasks.testing.runs import owner_of
from huleedu_tasks.testing.testing_app import TestingApp

if TYPE_CHECKING:
    import asyncpg


class Server:
    """A server, as one worker of the run uses it.

    Args:
        service: A service with a database on it.
        run: The tag of the databases that are created: checkout, worker and pid.
    """

    def __init__(self, app: TestingApp, service: Service, run: Mapping[str, str]) -> None:
        self._tag = EnvironmentTag(environment=str(app.settings.environment), pytest=run)
        # A test does not wait until the database of the last one is dropped.
        self._copying = _Line(app, service)
        self._dropping = _Line(app, service)

    async def copy(self, template: str, name: str) -> None:
        """Create a database as a copy of a template.

        Raises:
            ServerError: If it cannot be created.
        """
        async with self._copying.proven() as admin:
            with converted_errors(f"Database {name!r} could not be copied from {template!r}"):
                await clones.clone(admin, template, name, self._tag)

    async def drop(self, name: str) -> None:
        """Drop a database that this run has created, and end the sessions on it.

        Raises:
            ServerError: If it cannot be dropped.
        """
        async with self._dropping.proven() as admin:
            with converted_errors(f"Database {name!r} could not be dropped"):
                await databases.drop(admin, name)

    async def drop_all(self, is_wanted: Callable[[str, str], bool]) -> None:
        """Drop the databases of test runs that are wanted.

        Args:
            is_wanted: Whether the databases of a run are dropped, by its token and its checkout;
                that is an empty string if the database has no tag.

        Raises:
            Refused: If a database is not proven disposable.
        """
        async with self._dropping.proven() as admin:
            for name, comment in (await databases.comments(admin)).items():
                tag = databases.parse_tag(name, comment) if owner_of(name) else None
                checkout = tag.pytest.get("checkout", "") if tag else ""
                if owner_of(name) and is_wanted(owner_of(name), checkout):
                    await self._dropping.prove(admin, name)
                    await databases.drop(admin, name)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._copying.aclose()
        await self._dropping.aclose()


class _Line:
    """A connection to a maintenance database of a server, which one statement at a time uses."""

    def __init__(self, app: TestingApp, service: Service) -> None:
        self._guard = Guard(settings=app.settings, provider=app.provider)
        self._service = service
        self._url = app.source(service)
        self._opened: asyncpg.Connection | None = None
        self._turn = asyncio.Lock()

    async def prove(self, admin: "asyncpg.Connection", database: str) -> None:
        """Prove that a database may be destroyed.

        Raises:
            Refused: With the condition that does not hold.
        """
        await self._guard.prove_disposable(admin, self._service, database)

    @asynccontextmanager
    async def proven(self) -> "AsyncIterator[asyncpg.Connection]":
        """Hold the connection for a `with` block; its server is proven to be the provider's."""
        async with self._turn:
            if self._opened is None or self._opened.is_closed():
                self._opened = await connect_beside(self._url)
                await self.prove(self._opened, self._url.database)
                await self._opened.execute("SET synchronous_commit = off")
            yield self._opened

    async def aclose(self) -> None:
        """Close the connection, if it was opened."""
        if self._opened:
            await close(self._opened)
