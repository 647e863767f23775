"""The database of one service during a test."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from huleedu_tasks.errors import ConfigurationError
from huleedu_tasks.testing.failures import failure

if TYPE_CHECKING:
    import asyncpg
    from sqlalchemy import Engine
    from sqlalchemy.ext.asyncio import AsyncEngine

    from huleedu_tasks.config.urls import DatabaseUrl

_DIALECT = "postgresql"
_ASYNCPG = "asyncpg"
# By preference; `psycopg` is both.
_SYNCHRONOUS = ("psycopg", "psycopg2", "pg8000")
_ASYNCHRONOUS = (_ASYNCPG, "psycopg")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ServiceDatabase:
    """A service's database that exists for one test, class, module or session.

    Attributes:
        service: The name of the service.
        parts: The parts of its URL.
    """

    service: str
    parts: "DatabaseUrl"
    _engines: "list[Engine]" = field(default_factory=list)

    def __repr__(self) -> str:
        """Return the service and the URL without its password, for pytest's report of a failure."""
        return f"ServiceDatabase({self.service!r}, '{self.parts}')"

    @property
    def name(self) -> str:
        """The name of the database."""
        return self.parts.database

    @property
    def url(self) -> str:
        """The URL, with the driver of the service, as its variable has it."""
        return self.parts.reveal()

    @property
    def dsn(self) -> str:
        """The URL without a driver, for asyncpg, psycopg and psql."""
        return self.parts.plain.reveal()

    @asynccontextmanager
    async def connect(self, **options: Any) -> "AsyncIterator[asyncpg.Connection]":
        """Connect with asyncpg for the time of an `async with` block.

        Args:
            options: Further arguments of `asyncpg.connect`.
        """
        import asyncpg

        connection = await asyncpg.connect(self.dsn, **options)
        try:
            yield connection
        finally:
            await connection.close()

    def engine(self, **options: Any) -> "Engine":
        """Return a SQLAlchemy engine, which is disposed when the database is dropped.

        The driver is the service's own if it is synchronous, else one that is installed.

        Args:
            options: Further arguments of `sqlalchemy.create_engine`.

        Raises:
            Failed: The failure of the test, if no synchronous driver is installed.
        """
        import sqlalchemy

        __tracebackhide__ = True
        engine = sqlalchemy.create_engine(self._url_for(_SYNCHRONOUS), **options)
        self._engines.append(engine)
        return engine

    def async_engine(self, **options: Any) -> "AsyncEngine":
        """Return an asynchronous SQLAlchemy engine, which works in any event loop.

        It keeps no connections, unless `poolclass` says otherwise: a connection belongs to the
        event loop that opened it, and pytest may use another loop for the next test.

        Args:
            options: Further arguments of `sqlalchemy.ext.asyncio.create_async_engine`.
        """
        from sqlalchemy.ext.asyncio import create_async_engine
        from sqlalchemy.pool import NullPool

        return create_async_engine(
            self._url_for(_ASYNCHRONOUS), **{"poolclass": NullPool, **options}
        )

    def close(self) -> None:
        """Close the connections of all synchronous engines."""
        for engine in self._engines:
            engine.dispose()

    def _url_for(self, drivers: tuple[str, ...]) -> str:
        """Return the URL with the service's own driver if it is one of these, else another one."""
        __tracebackhide__ = True
        own = self.parts.scheme.partition("+")[2]
        if own in drivers:
            return self.url
        driver = next((name for name in drivers if find_spec(name)), "")
        if not driver:
            raise failure(
                ConfigurationError(
                    f"No driver for a synchronous engine is installed; {self.service} uses "
                    f"{self.parts.scheme}.",
                    code="driver-missing",
                    hint="Install one, for example `pip install 'psycopg[binary]'`, or use "
                    "async_engine().",
                ),
                pytrace=True,
            )
        tls = self.parts.tls
        if driver == _ASYNCPG:
            tls = {"ssl": tls["sslmode"]} if "sslmode" in tls else {}
        query = tuple(tls.items())
        return replace(self.parts, scheme=f"{_DIALECT}+{driver}", query=query).reveal()
