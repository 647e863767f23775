"""Compares every connection that a service's code opens with the verified database.

Loaded by its path in the process that runs Alembic, like `worker.py` beside it: the interpreter may
be the service's own, and older than ours.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any
from urllib.parse import unquote, urlsplit

POSTGRESQL = "postgresql"
# SQLAlchemy defines its adapters of asynchronous drivers in its dialects.
DRIVERS = ("asyncpg", "psycopg", "psycopg2", "pg8000", "sqlalchemy.dialects.postgresql")
IDENTITY = """\
SELECT extract(epoch FROM pg_postmaster_start_time())::text AS started, oid::bigint AS number,
       current_database()::text AS name, coalesce(host(inet_server_addr()), '') AS host,
       coalesce(inet_server_port(), 0) AS port,
       coalesce(shobj_description(oid, 'pg_database'), '') AS comment,
       {lock} AS held
FROM pg_database WHERE datname = current_database()
"""
IDENTIFYING = 2
DEFAULT_PORT = 5432
LOOPBACK = {"localhost", "127.0.0.1", "::1"}
HOST_NAME = re.compile(r"HOST|SERVER|ADDR", re.IGNORECASE)
PORT_NAME = re.compile(r"PORT", re.IGNORECASE)
DATABASE_NAME = re.compile(r"DB|DATABASE|NAME", re.IGNORECASE)
# Prefixes of variables that never contain the address of a service's database.
FOREIGN = ("PYTHON", "LC_", "LANG", "SQLALCHEMY_", "HULEEDU_WORKER")


class MayNotRun(BaseException):
    """The run must stop. `except Exception` in the service's code does not catch it."""


class WrongDatabase(MayNotRun):
    """The service's code connected to a different database."""


class LockLost(MayNotRun):
    """The run lost its advisory lock, according to the server."""


class ReadVariables:
    """Records the environment variables that this process reads.

    Attributes:
        names: Variables that were read by name, set or not, in order.
        all_were_read: Whether the whole environment was iterated, as settings classes do.
        iterated: The last name of that iteration; an empty string before one.
    """

    def __init__(self) -> None:
        self._names: dict[str, None] = {}
        self.all_were_read = False
        self.iterated = ""
        notes = self
        plain: Any = type(os.environ)

        class Environment(plain):  # type: ignore[misc]  # the class of os.environ
            def __getitem__(self, name: str) -> Any:
                notes.note(name)
                return plain.__getitem__(self, name)

            def __iter__(self) -> Iterator[Any]:
                notes.all_were_read = True
                for name in plain.__iter__(self):
                    notes.iterated = os.fsdecode(name)
                    yield name

            def __len__(self) -> int:
                notes.all_were_read = True
                length: int = plain.__len__(self)
                return length

        os.environ.__class__ = os.environb.__class__ = Environment

    def note(self, name: object) -> None:
        """Record that a variable was read."""
        # An iteration over all items reads each variable, too.
        if isinstance(name, (str, bytes)) and os.fsdecode(name) != self.iterated:
            self._names.setdefault(os.fsdecode(name))

    @property
    def all_names(self) -> list[str]:
        """The names of variables that were read, in order."""
        return list(self._names)

    @property
    def names(self) -> list[str]:
        """The names of variables that were read, without those of interpreters and libraries."""
        return [name for name in self._names if not name.startswith(FOREIGN)]


class Target:
    """The verified database. Stops the run if its code connects to a different one.

    Args:
        expected: The start time of the server and the OID of the database.
        write_event: Writes an event if the code connects to a different database.
        variables: The environment variables that were read.
        settings: Settings of PostgreSQL for each session that is opened without SQLAlchemy.
        lock: An SQL expression that is true while the run holds its lock; `true` without one.
        on_connection: Called after a driver opened a connection, for SQLAlchemy or not.
    """

    def __init__(
        self,
        expected: Sequence[object],
        write_event: Callable[..., None],
        variables: ReadVariables,
        settings: dict[str, str],
        *,
        lock: str = "true",
        on_connection: Callable[[], None] = lambda: None,
    ) -> None:
        self.identity = IDENTITY.format(lock=lock)
        self.settings = [f"SET {name} = '{value}'" for name, value in settings.items()]
        self._expected = list(expected)
        self._write_event = write_event
        self._variables = variables
        self._on_connection = on_connection
        self.was_missed = False
        self.lock_was_lost = False
        # The number of connections that drivers opened, for SQLAlchemy or not.
        self.opened = 0
        _watch_drivers(self)

    def note_opened(self) -> None:
        """Count a connection that a driver opened."""
        self.opened += 1
        self._on_connection()

    def require(self, connection: Any, address: str = "", *, ends: bool = True) -> None:
        """Require that a connection is to the verified database.

        Args:
            connection: A driver's connection, or an adapter with its methods.
            address: The requested host and port; an empty string if they are not known.
            ends: Whether to roll back the transaction that this query begins.

        Raises:
            WrongDatabase: If this connection or an earlier one is to a different database.
            LockLost: If the run does not hold its lock.
        """
        cursor = connection.cursor()
        try:
            cursor.execute(self.identity)
            row = values_of(cursor.fetchone())
        finally:
            cursor.close()
        if ends and not getattr(connection, "autocommit", False):
            connection.rollback()
        self.compare(row, address)

    @staticmethod
    def is_postgresql(connection: Any) -> bool:
        """Whether a connection, or an adapter of one, belongs to a driver of PostgreSQL."""
        return type(connection).__module__.startswith(DRIVERS)

    def require_hit(self) -> None:
        """Require that no revision begins after a mismatch, even if the code caught the exception.

        Raises:
            WrongDatabase: If a connection to a different database was opened.
            LockLost: If the run has lost its lock.
        """
        if self.was_missed:
            raise WrongDatabase("the process connected to a different database before")
        if self.lock_was_lost:
            self.raise_lock_lost()

    def raise_lock_lost(self) -> None:
        """Stop the run, because it lost its lock.

        Raises:
            LockLost: Always.
        """
        if not self.lock_was_lost:
            self.lock_was_lost = True
            self._write_event("lock lost")
        raise LockLost("the run lost its advisory lock")

    def compare(self, row: Sequence[Any], address: str) -> None:
        """Compare the identity of a connection with the verified database.

        Raises:
            WrongDatabase: As `require`.
            LockLost: As `require`.
        """
        _, _, database, host, port, comment, held = row
        if list(row[:IDENTIFYING]) == self._expected and not self.was_missed:
            if not held or self.lock_was_lost:
                self.raise_lock_lost()
            return
        address = address or (f"{host}:{port}" if host else "a Unix socket")
        if not self.was_missed:
            self.was_missed = True
            self._write_event(
                "mismatch",
                database=database,
                address=address,
                comment=comment,
                read=self._variables.names,
                all_were_read=self._variables.all_were_read,
                led=_leading_to(address, database),
            )
        raise WrongDatabase(
            f"the process connected to a different database: {database} on {address}"
        )


def values_of(row: Any) -> list[Any]:
    """Return the columns of a row, which may be a tuple or a dictionary."""
    return list(row.values() if hasattr(row, "values") else row)


def _leading_to(address: str, database: str) -> list[str]:
    """Return the variables with the URL of a database, or else those with parts of it."""
    host, _, port = address.rpartition(":")
    variables = {name: os.environ.get(name, "") for name in list(os.environ.keys())}
    urls = [name for name, value in variables.items() if _is_url_of(value, host, port, database)]
    parts = {host: HOST_NAME, port: PORT_NAME, database: DATABASE_NAME}
    return urls or [
        name for name, value in variables.items() if value in parts and parts[value].search(name)
    ]


def _is_url_of(value: str, host: str, port: str, database: str) -> bool:
    if "://" not in value:
        return False
    try:
        url = urlsplit(value)
        stated_port = url.port or DEFAULT_PORT
    except ValueError:
        return False
    same_host = url.hostname == host or {url.hostname, host} <= LOOPBACK
    return same_host and str(stated_port) == port and unquote(url.path) == f"/{database}"


# The functions by which drivers connect without SQLAlchemy.


def _watch_drivers(target: Target) -> None:
    """Patch each driver to compare its connections, now or when it is imported."""
    watches: dict[str, Callable[[Any, Target], None]] = {
        "asyncpg": _watch_asyncpg,
        "psycopg": _watch_psycopg,
        "psycopg2": _watch_psycopg2,
    }
    missing = {}
    for name, watch in watches.items():
        if name in sys.modules:
            watch(sys.modules[name], target)
        else:
            missing[name] = watch
    sys.meta_path.insert(0, _WatchingFinder(missing, target))


class _WatchingFinder(importlib.abc.MetaPathFinder):
    """Finds modules by the other finders, and patches some of them after their import."""

    def __init__(self, watches: dict[str, Callable[[Any, Target], None]], target: Target) -> None:
        self._watches = watches
        self._target = target

    def find_spec(
        self, name: str, path: Sequence[str] | None, module: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        watch = self._watches.pop(name, None)
        if watch is None:
            return None
        for finder in sys.meta_path:
            found = finder.find_spec(name, path, module) if finder is not self else None
            if found is not None and found.loader is not None:
                found.loader = _WatchingLoader(found.loader, watch, self._target)
                return found
        return None


class _WatchingLoader(importlib.abc.Loader):
    """Loads a module with another loader, and patches it."""

    def __init__(self, loader: Any, watch: Callable[[Any, Target], None], target: Target) -> None:
        self._loader = loader
        self._watch = watch
        self._target = target

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        self._watch(module, self._target)

    def __getattr__(self, name: str) -> Any:
        # For `importlib.resources` and others that use the loader.
        return getattr(self._loader, name)


def _watch_asyncpg(driver: Any, target: Target) -> None:
    plain = driver.connection.connect

    async def connect(*args: Any, **options: Any) -> Any:
        connection = await plain(*args, **options)
        target.note_opened()
        # A tuple, or the path of a Unix socket.
        place = getattr(connection, "_addr", None)
        address = f"{place[0]}:{place[1]}" if isinstance(place, tuple) else str(place or "")
        try:
            for setting in target.settings:
                await connection.execute(setting)
            target.compare(values_of(await connection.fetchrow(target.identity)), address)
        except MayNotRun:
            connection.terminate()
            raise
        return connection

    driver.connect = driver.connection.connect = connect


def _watch_psycopg(driver: Any, target: Target) -> None:
    of_class, of_async_class = (
        kind.__dict__["connect"].__func__ for kind in (driver.Connection, driver.AsyncConnection)
    )

    def connect(cls: Any, *args: Any, **options: Any) -> Any:
        connection = of_class(cls, *args, **options)
        target.note_opened()
        _require_or_close(connection, target)
        return connection

    async def connect_async(cls: Any, *args: Any, **options: Any) -> Any:
        connection = await of_async_class(cls, *args, **options)
        target.note_opened()
        for setting in target.settings:
            await connection.execute(setting)
        row = await (await connection.execute(target.identity)).fetchone()
        if not connection.autocommit:
            await connection.commit()
        try:
            target.compare(values_of(row), f"{connection.info.host}:{connection.info.port}")
        except MayNotRun:
            await connection.close()
            raise
        return connection

    driver.Connection.connect = classmethod(connect)
    driver.AsyncConnection.connect = classmethod(connect_async)
    driver.connect = driver.Connection.connect


def _watch_psycopg2(driver: Any, target: Target) -> None:
    plain = driver.connect

    def connect(*args: Any, **options: Any) -> Any:
        connection = plain(*args, **options)
        target.note_opened()
        # An asynchronous connection is not connected yet.
        if not connection.async_:
            _require_or_close(connection, target)
        return connection

    driver.connect = connect


def _require_or_close(connection: Any, target: Target) -> None:
    info = connection.info
    if target.settings:
        cursor = connection.cursor()
        cursor.execute("; ".join(target.settings))
        cursor.close()
        if not connection.autocommit:
            # The first rollback would otherwise reset the settings.
            connection.commit()
    try:
        target.require(connection, f"{info.host}:{info.port}")
    except MayNotRun:
        connection.close()
        raise
