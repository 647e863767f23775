"""Reports where a service's `env.py` would connect, and ends the process before it does.

Loaded by its path in the process that runs Alembic, like `worker.py` beside it: the interpreter may
be the service's own, and older than ours. The driver itself checks the parameters,
without reaching a server.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

POSTGRESQL = "postgresql"
DEFAULT_PORT = "5432"
LOOPBACK = ("localhost", "127.0.0.1", "::1")
# No server listens here, so that libpq only checks its parameters.
NOWHERE = "/nonexistent/huleedu-tasks"
DOCUMENTATION_ADDRESS = "192.0.2.1"
SECONDS = 5
# The prefix of a server's Unix socket.
SOCKET_FILE = ".s.PGSQL."
# Parameters that SQLAlchemy does not pass to the driver.
OF_SQLALCHEMY = (
    "async_fallback",
    "async_creator_fn",
    "prepared_statement_cache_size",
    "prepared_statement_name_func",
)
# Names of parameters in different drivers, and libpq's variable.
HOST, PORT, DATABASE, USER = "host", "port", "database", "user"
NAMES = {
    HOST: (("hostaddr", "unix_sock", "host"), "PGHOST"),
    PORT: (("port",), "PGPORT"),
    DATABASE: (("database", "dbname"), "PGDATABASE"),
    USER: (("user", "username"), "PGUSER"),
}
Parameters = "dict[str, Any]"


class FirstConnection:
    """Intercepts the first connection that `env.py` opens, and writes it to a file.

    Args:
        file: The file that receives a JSON document; it is not written if `env.py` does not
            connect.
        url: The URL that `env.py` was given.
        targets: The module `target_check.py`.
        drivers: The module `drivers.py`.
        variables: The environment variables that were read.
    """

    def __init__(self, file: str, url: str, *, targets: Any, drivers: Any, variables: Any) -> None:
        from sqlalchemy import event
        from sqlalchemy.engine import Engine

        self._file = file
        self._url = url
        self._targets = targets
        self._drivers = drivers
        self._variables = variables
        self._connect: dict[str, Callable[..., Any]] = {}
        self._network = _Network(self._refused)
        event.listen(Engine, "do_connect", self._by_sqlalchemy)
        watches = dict.fromkeys(drivers.DRIVERS, self._seal)
        for name in [driver for driver in watches if driver in sys.modules]:
            watches.pop(name)(sys.modules[name], self)
        finder = targets._WatchingFinder(watches, self)  # noqa: SLF001  # loaded by its path
        sys.meta_path.insert(0, finder)

    def _seal(self, driver: ModuleType, _: object) -> None:
        """Intercept connections without SQLAlchemy."""
        name = driver.__name__
        self._connect[name] = getattr(driver, "connect")  # noqa: B009  # drivers have no types here

        def connect(*args: Any, **options: Any) -> Any:
            self._by_driver(name, args, options)

        self._drivers.replace_connect(driver, connect)

    def _by_sqlalchemy(
        self, dialect: Any, record: object, words: Any, named: dict[str, Any]
    ) -> None:
        if dialect.name != POSTGRESQL:
            return
        from sqlalchemy.engine import make_url

        driver = dialect.driver.partition("_")[0]
        expected = _place_of(dialect.create_connect_args(make_url(self._url))[1])
        options = {name: value for name, value in named.items() if name not in OF_SQLALCHEMY}
        self._report_and_exit(
            place=_place_of(options),
            expected=expected,
            driver=driver,
            complaint=self._complaint(driver, words, options),
        )

    def _by_driver(self, driver: str, args: Any, options: dict[str, Any]) -> None:
        from sqlalchemy.engine import make_url

        words = dict(options)
        stated = words.pop("dsn", None) or words.pop("conninfo", None) or (args[0] if args else "")
        place = _place_of({**_parts_of(driver, str(stated or "")), **words})
        expected = _place_of(_parts_of(driver, str(make_url(self._url))))
        self._report_and_exit(place=place, expected=expected, driver=driver, complaint="")

    def _complaint(self, driver: str, words: Any, options: dict[str, Any]) -> str:
        """Return a driver's error about its parameters; an empty string if it accepts them."""
        plain = self._connect.get(driver)
        if plain is None:
            return ""
        try:
            if driver == "asyncpg":
                self._network.pretend()
                _run_apart(lambda: plain(*words, **options))
            elif driver == "pg8000":
                self._network.pretend()
                plain(*words, **options)
            else:
                others = {n: v for n, v in options.items() if n not in ("hostaddr", "port")}
                plain(*words, **{**others, "host": NOWHERE})
        except Exception as error:
            said = " ".join(str(error).split())
            if self._network.was_reached or NOWHERE in said:
                return ""
            return f"{type(error).__name__}: {said}"
        return ""

    def _refused(self, address: str) -> None:
        """Record that the service's code tried to connect to another address."""
        self._write({"refused": address})

    def _report_and_exit(
        self, *, place: dict[str, str], expected: dict[str, str], **facts: object
    ) -> None:
        address, database = f"{place[HOST]}:{place[PORT]}", place[DATABASE]
        self._write(
            {
                "place": place,
                "follows": _is_same(place, expected),
                "address": address,
                "database": database,
                "read": self._variables.names,
                "all_were_read": self._variables.all_were_read,
                "led": self._targets._leading_to(address, database),  # noqa: SLF001  # as above
                **facts,
            }
        )
        # Skip exit handlers of the service's code.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)

    def _write(self, document: dict[str, Any]) -> None:
        with open(self._file, "w", encoding="utf-8") as file:
            json.dump(document, file)


class _Network:
    """Refuses connections of the service's code.

    Args:
        refused: Called with each refused address.
    """

    def __init__(self, refused: Callable[[str], None]) -> None:
        import socket

        self.was_reached = False
        self._is_pretending = False
        plain_connect = socket.socket.connect
        plain_look_up = socket.getaddrinfo
        network = self

        def connect(own: Any, address: Any) -> Any:
            is_local = isinstance(address, (str, bytes)) and SOCKET_FILE not in str(address)
            if is_local:
                return plain_connect(own, address)
            network.was_reached = True
            if not network._is_pretending:
                refused(str(address))
            raise ConnectionRefusedError("connections are refused while env.py is checked")

        def look_up(host: Any, port: Any, *args: Any, **options: Any) -> Any:
            if not network._is_pretending:
                return plain_look_up(host, port, *args, **options)
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (DOCUMENTATION_ADDRESS, 5432))]

        socket.socket.connect = connect  # type: ignore[method-assign]
        socket.socket.connect_ex = connect  # type: ignore[method-assign]
        socket.getaddrinfo = look_up

    def pretend(self) -> None:
        """Resolve every host name, and record when a driver connects."""
        self._is_pretending, self.was_reached = True, False


def _run_apart(connect: Callable[[], Any]) -> None:
    """Await a driver's connection in an event loop of its own, which connects by `socket`."""
    import asyncio
    import threading

    errors = []

    def run() -> None:
        loop = asyncio.SelectorEventLoop()

        async def wait() -> None:
            await asyncio.wait_for(connect(), SECONDS)

        try:
            loop.run_until_complete(wait())
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(2 * SECONDS)
    for error in errors:
        raise error


def _parts_of(driver: str, stated: str) -> dict[str, Any]:
    """Return the parameters in a URL or in libpq's `name=value` form."""
    if "://" not in stated:
        module = importlib.import_module(
            "psycopg.conninfo" if driver == "psycopg" else "psycopg2.extensions"
        )
        parse = getattr(module, "conninfo_to_dict", None) or module.parse_dsn
        found: dict[str, Any] = parse(stated) if stated else {}
        return found
    from sqlalchemy.engine import make_url

    url = make_url(stated)
    return {**url.translate_connect_args(username="user"), **url.query}


def _place_of(options: dict[str, Any]) -> dict[str, str]:
    """Return host, port, database and user of parameters, as strings."""
    place = {}
    for part, (names, variable) in NAMES.items():
        stated = next((options[name] for name in names if options.get(name)), None)
        values = stated if isinstance(stated, (list, tuple)) else [stated]
        place[part] = ",".join(str(value) for value in values if value is not None)
        place[part] = place[part] or os.environ.get(variable, "")
    place[PORT] = place[PORT] or DEFAULT_PORT
    return place


def _is_same(one: dict[str, str], other: dict[str, str]) -> bool:
    hosts = {one[HOST], other[HOST]}
    same_host = len(hosts) == 1 or hosts <= set(LOOPBACK)
    return same_host and all(one[part] == other[part] for part in (PORT, DATABASE, USER))
