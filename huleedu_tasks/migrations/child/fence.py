"""Asks the server about Alembic's own session before a revision runs, and after it was rolled back.

Loaded by its path in the process that runs Alembic, like `worker.py` beside it: the interpreter may
be the service's own, and older than ours.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

# The session's local transaction number (PostgreSQL, pg_locks: virtualxid) grows by one with each
# transaction, whoever has begun it and whether it writes.
STATE = """\
SELECT split_part(own.virtualtransaction, '/', 2)::bigint AS number,
       {held} AS held,
       {others} AS others
FROM pg_locks AS own
WHERE own.pid = pg_backend_pid() AND own.locktype = 'virtualxid'
  AND own.virtualxid = own.virtualtransaction
"""
TRANSACTION = "SELECT txid_current()"
# A session that was closed a moment ago may still show.
LOOKS, BETWEEN_LOOKS = 20, 0.025
# libpq, PQtransactionStatus: active, in a transaction, in a failed one.
IN_TRANSACTION = (1, 2, 3)
DEFAULT_PORT = 5432
STARTS_A_PROCESS = frozenset(
    {
        "os.exec",
        "os.fork",
        "os.forkpty",
        "os.posix_spawn",
        "os.spawn",
        "os.system",
        "pty.spawn",
        "subprocess.Popen",
    }
)


class Fence:
    """Lets a revision begin only while the run's lock is held, and tells how its work has ended.

    Args:
        held: An SQL expression that is true while the run holds its lock.
        others: An SQL expression that counts the other sessions of the run.
        url: The URL of the database.
        tell: Told what the server says.
        keep: Told of a revision of which something may stay whatever comes of it.
        lose: Raises because the lock was lost.
        committed: Called when Alembic's session has committed between two revisions.
    """

    def __init__(
        self,
        *,
        held: str,
        others: str,
        url: str,
        tell: Callable[..., None],
        keep: Callable[[str], None],
        lose: Callable[[], None],
        committed: Callable[[], None],
    ) -> None:
        self._state_sql = STATE.format(held=held, others=others)
        self._port = urlsplit(url).port or DEFAULT_PORT
        self._tell = tell
        self._keep = keep
        self._lose = lose
        self._committed = committed
        # Alembic's own connection, and the revision that it has begun last.
        self._driver: Any = None
        self._revision = ""
        self._is_inside = False
        # The number of the only transaction that the revision may have.
        self._number: int | None = None
        self._has_transaction_id = False
        self._failed_to_commit = False
        sys.addaudithook(self._hear)

    def enter(self, connection: Any, revision: str) -> None:
        """Let a revision begin, if the lock is held.

        Args:
            connection: SQLAlchemy's, of Alembic.

        Raises:
            LockLost: If it is not.
        """
        self._watch(connection.dialect)
        driver = connection.connection.dbapi_connection
        was_open = is_in_transaction(driver)
        number, held, others = self._state(driver)
        if not was_open:
            # What follows must be the first statement of its transaction, which we leave to it.
            driver.rollback()
            number += 1
        if not held:
            self._lose()
        if was_open and driver is self._driver and self._number not in (None, number):
            # The revision before this one has ended the transaction that it began in.
            self._keep(self._revision)
        self._driver, self._revision = driver, revision
        is_known = was_open is not None and not getattr(driver, "autocommit", False)
        self._number = number if is_known else None
        self._has_transaction_id = False
        if others and self._others_remain(driver, was_open=bool(was_open)):
            self._keep(revision)
        if was_open:
            self._tell_transaction()
        self._is_inside = True

    def leave(self) -> None:
        """Take note that the code of a revision has ended."""
        self._is_inside = False

    def executing(self, driver: Any) -> None:
        """Tell the transaction's id before the first statement of a revision."""
        if driver is self._driver and self._number is not None and not self._has_transaction_id:
            # In a transaction that has failed the statement itself will say so.
            with suppress(Exception):
                self._tell_transaction()

    def is_own(self, driver: Any) -> bool:
        """Whether a connection is Alembic's own."""
        return driver is self._driver

    def _tell_transaction(self) -> None:
        self._has_transaction_id = True
        (number,) = _row(self._driver, TRANSACTION)
        self._tell("transaction", revision=self._revision, id=number)

    def _state(self, driver: Any) -> Sequence[Any]:
        number, held, others = _row(driver, self._state_sql)
        return int(number), held, int(others)

    def _others_remain(self, driver: Any, *, was_open: bool) -> bool:
        for _ in range(LOOKS):
            time.sleep(BETWEEN_LOOKS)
            _, _, others = self._state(driver)
            if not was_open:
                driver.rollback()
                self._number = None if self._number is None else self._number + 1
            if not others:
                return False
        return True

    # How a transaction ends.

    def _watch(self, dialect: Any) -> None:
        """Have the ends of transactions told that SQLAlchemy itself brings about."""
        if hasattr(dialect, "is_fenced"):
            return
        dialect.is_fenced = True
        commit, rollback = dialect.do_commit, dialect.do_rollback

        def do_commit(connection: Any) -> None:
            driver = getattr(connection, "dbapi_connection", connection)
            was_open = is_in_transaction(driver)
            try:
                commit(connection)
            except BaseException:
                self._failed_to_commit = bool(was_open)
                raise
            if driver is self._driver and not self._is_inside:
                self._revision, self._number = "", None
                self._committed()

        def do_rollback(connection: Any) -> None:
            driver = getattr(connection, "dbapi_connection", connection)
            was_open = self._failed_to_commit or bool(is_in_transaction(driver))
            self._failed_to_commit = False
            rollback(connection)
            if driver is self._driver and self._revision:
                self._rolled_back(driver, was_open=was_open)

        dialect.do_commit, dialect.do_rollback = do_commit, do_rollback

    def _rolled_back(self, driver: Any, *, was_open: bool) -> None:
        """Tell whether the transaction that was rolled back is the only one there was."""
        if self._is_inside:
            # The revision goes on in another one.
            self._keep(self._revision)
            return
        revision, self._revision = self._revision, ""
        # A connection that is lost does not say; another session will be asked.
        with suppress(Exception):
            number, _, _ = self._state(driver)
            driver.rollback()
            is_only = was_open and self._number is not None and number == self._number + 1
            self._tell("rolled back", revision=revision, is_only=is_only)

    # What may have sessions that nobody sees.

    def _hear(self, event: str, arguments: Sequence[Any]) -> None:
        """Take an audit event (Python, Audit events table)."""
        if not self._is_inside:
            return
        # What is raised here would be raised by what is being done.
        with suppress(Exception):
            if event in STARTS_A_PROCESS or (
                event == "socket.connect" and self._may_be_server(arguments[1])
            ):
                self._keep(self._revision)

    def _may_be_server(self, place: Any) -> bool:
        if isinstance(place, tuple):
            return place[1] in (self._port, DEFAULT_PORT)
        return ".s.PGSQL." in str(place)


def is_in_transaction(driver: Any) -> bool | None:
    """Whether the server has an open transaction for a connection, as it has said last.

    Args:
        driver: A driver's connection, or an adapter of one.

    Returns:
        None if the driver does not tell.
    """
    # SQLAlchemy's adapters of asynchronous drivers have the driver's own inside.
    inner = getattr(driver, "_connection", driver)
    if hasattr(inner, "is_in_transaction"):
        return bool(inner.is_in_transaction())
    if hasattr(inner, "_in_transaction"):
        return bool(inner._in_transaction)  # noqa: SLF001  # pg8000 tells nowhere else
    status = getattr(getattr(inner, "info", None), "transaction_status", None)
    return None if status is None else int(status) in IN_TRANSACTION


def _row(driver: Any, sql: str) -> list[Any]:
    cursor = driver.cursor()
    try:
        cursor.execute(sql)
        row = cursor.fetchone()
    finally:
        cursor.close()
    return list(row.values() if hasattr(row, "values") else row)
