"""Compares every connection that a service's code opens with the database that was proven.

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
# SQLAlchemy's own adapters of asynchronous drivers are in its dialects.
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
# How variables begin that no service reads to learn where its database is.
FOREIGN = ("PYTHON", "LC_", "LANG", "SQLALCHEMY_", "HULEEDU_WORKER")


class MayNotRun(BaseException):
    """Nothing may be done any more; no `except Exception` of the service's own code holds it."""


class WrongDatabase(MayNotRun):
    """The service's own code connected to another database."""


class LockLost(MayNotRun):
    """The run does not hold its advisory lock any more, as the server sees it."""


class ReadVariables:
    """Notes which environment variables are read in this process, from the moment it is made.

    Attributes:
        names: Those that were asked for by name, set or not, in order.
        all_were_read: Whether something went through the whole environment, as settings
            classes do.
        iterated: The name that was come to last by that.
    """

    def __init__(self) -> None:
        self._names: dict[str, None] = {}
        self.all_were_read = False
        self.iterated = ""
        notes = self
        plain: Any = type(os.environ)

        class Environment(plain):  # type: ignore[misc]  # made of the class that is there
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
        """Note that a variable was asked for."""
        # Whoever goes through all of them asks for the value of each.
        if isinstance(name, (str, bytes)) and os.fsdecode(name) != self.iterated:
            self._names.setdefault(os.fsdecode(name))

    @property
    def all_names(self) -> list[str]:
        """The names that were asked for, in order."""
        return list(self._names)

    @property
    def names(self) -> list[str]:
        """The names that were asked for and may be the service's own, in order."""
        return [name for name in self._names if not name.startswith(FOREIGN)]


class Target:
    """The database that was proven, and what happens when another one is connected to.

    Args:
        expected: The server's start and the database's number, as the server tells them.
        tell: Told of a connection to another database.
        variables: What was read of the environment.
        settings: Settings of PostgreSQL for each session that is opened without SQLAlchemy.
        lock: An SQL expression that is true while the run holds its lock; `true` without one.
        heard: Called when a connection is opened by a driver, by SQLAlchemy or not.
    """

    def __init__(
        self,
        expected: Sequence[object],
        tell: Callable[..., None],
        variables: ReadVariables,
        settings: dict[str, str],
        *,
        lock: str = "true",
        heard: Callable[[], None] = lambda: None,
    ) -> None:
        self.identity = IDENTITY.format(lock=lock)
        self.settings = [f"SET {name} = '{value}'" for name, value in settings.items()]
        self._expected = list(expected)
        self._tell = tell
        self._variables = variables
        self._heard = heard
        self.was_missed = False
        self.lock_was_lost = False
        # How many connections were opened by a driver, by SQLAlchemy or not.
        self.opened = 0
        _watch_drivers(self)

    def note_opened(self) -> None:
        """Count a connection that was opened by a driver."""
        self.opened += 1
        self._heard()

    def require(self, connection: Any, address: str = "", *, ends: bool = True) -> None:
        """Let nothing be done on another database.

        Args:
            connection: The driver's own, or an adapter with its methods.
            address: Host and port that were asked for.
            ends: Whether the transaction that this begins is rolled back.

        Raises:
            WrongDatabase: If the connection is to another database, or one before was.
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
        """Whether a driver's connection, or an adapter of one, is to a PostgreSQL server."""
        return type(connection).__module__.startswith(DRIVERS)

    def require_hit(self) -> None:
        """Let no revision begin after a connection to another database was opened.

        Raises:
            WrongDatabase: If one was, although the service's own code went on.
            LockLost: If the run had lost its lock before.
        """
        if self.was_missed:
            raise WrongDatabase("connected to another database before")
        if self.lock_was_lost:
            self.lose_lock()

    def lose_lock(self) -> None:
        """Let nothing more be done by this run.

        Raises:
            LockLost: Always.
        """
        if not self.lock_was_lost:
            self.lock_was_lost = True
            self._tell("lock lost")
        raise LockLost("the run does not hold its advisory lock any more")

    def compare(self, row: Sequence[Any], address: str) -> None:
        """Compare what a server tells of a connection.

        Raises:
            WrongDatabase: As `require`.
            LockLost: As `require`.
        """
        _, _, database, host, port, comment, held = row
        if list(row[:IDENTIFYING]) == self._expected and not self.was_missed:
            if not held or self.lock_was_lost:
                self.lose_lock()
            return
        address = address or (f"{host}:{port}" if host else "a Unix socket")
        if not self.was_missed:
            self.was_missed = True
            self._tell(
                "mismatch",
                database=database,
                address=address,
                comment=comment,
                read=self._variables.names,
                all_were_read=self._variables.all_were_read,
                led=_leading_to(address, database),
            )
        raise WrongDatabase(f"connected to another database: {database} on {address}")


def values_of(row: Any) -> list[Any]:
    """Return the columns of a row, of whatever kind the connection's rows are."""
    return list(row.values() if hasattr(row, "values") else row)


def _leading_to(address: str, database: str) -> list[str]:
    """Return the variables that name a database: as a URL, or else its parts."""
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


# What drivers have to connect by, apart from SQLAlchemy.


def _watch_drivers(target: Target) -> None:
    """Have each driver compare what it has connected, now or as soon as it is imported."""
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
    """Finds what others find, and has some modules watched once they are there."""

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
    """Loads as another loader does, and has the module watched."""

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
        # `importlib.resources` and the like ask the loader itself.
        return getattr(self._loader, name)


def _watch_asyncpg(driver: Any, target: Target) -> None:
    plain = driver.connection.connect

    async def connect(*args: Any, **options: Any) -> Any:
        connection = await plain(*args, **options)
        target.note_opened()
        # A path for a Unix socket.
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
        # An asynchronous one is not connected yet.
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
            # Else the settings go with the first rollback.
            connection.commit()
    try:
        target.require(connection, f"{info.host}:{info.port}")
    except MayNotRun:
        connection.close()
        raise
