"""Checks Alembic's session on the server before each revision, and after a rollback.

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

# The local transaction number of a session (PostgreSQL, pg_locks: virtualxid) increases by one with
# each transaction, whether it writes or not.
STATE = """\
SELECT split_part(own.virtualtransaction, '/', 2)::bigint AS number,
       {held} AS held,
       {others} AS others
FROM pg_locks AS own
WHERE own.pid = pg_backend_pid() AND own.locktype = 'virtualxid'
  AND own.virtualxid = own.virtualtransaction
"""
TRANSACTION = "SELECT txid_current()"
# pg_locks may still list a session that has just been closed.
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
    """Requires the run's lock before each revision, and reports how its transaction ended.

    Args:
        held: An SQL expression that is true while the run holds its lock.
        others: An SQL expression that counts the other sessions of the run.
        url: The URL of the database.
        write_event: Writes an event.
        on_partial: Called with a revision that may be partially applied if it fails.
        on_lock_lost: Raises LockLost.
        on_commit: Called when Alembic's session committed between two revisions.
    """

    def __init__(
        self,
        *,
        held: str,
        others: str,
        url: str,
        write_event: Callable[..., None],
        on_partial: Callable[[str], None],
        on_lock_lost: Callable[[], None],
        on_commit: Callable[[], None],
    ) -> None:
        self._state_sql = STATE.format(held=held, others=others)
        self._port = urlsplit(url).port or DEFAULT_PORT
        self._write_event = write_event
        self._on_partial = on_partial
        self._on_lock_lost = on_lock_lost
        self._on_commit = on_commit
        # Alembic's connection, and the revision that it began last.
        self._driver: Any = None
        self._revision = ""
        self._is_inside = False
        # The local number of the only transaction that the revision may use.
        self._number: int | None = None
        self._has_transaction_id = False
        self._failed_to_commit = False
        sys.addaudithook(self._handle_event)

    def begin_revision(self, connection: Any, revision: str) -> None:
        """Require the lock before a revision begins.

        Args:
            connection: Alembic's connection, of SQLAlchemy.
            revision: The revision that begins.

        Raises:
            LockLost: If the run does not hold the lock.
        """
        self._watch(connection.dialect)
        driver = connection.connection.dbapi_connection
        was_open = is_in_transaction(driver)
        number, held, others = self._state(driver)
        if not was_open:
            # The revision's first statement must begin its transaction.
            driver.rollback()
            number += 1
        if not held:
            self._on_lock_lost()
        if was_open and driver is self._driver and self._number not in (None, number):
            # The previous revision ended the transaction in which it began.
            self._on_partial(self._revision)
        self._driver, self._revision = driver, revision
        is_known = was_open is not None and not getattr(driver, "autocommit", False)
        self._number = number if is_known else None
        self._has_transaction_id = False
        if others and self._others_remain(driver, was_open=bool(was_open)):
            self._on_partial(revision)
        if was_open:
            self._write_transaction()
        self._is_inside = True

    def end_revision(self) -> None:
        """Record that the code of a revision ended."""
        self._is_inside = False

    def executing(self, driver: Any) -> None:
        """Report the transaction id before the first statement of a revision."""
        if driver is self._driver and self._number is not None and not self._has_transaction_id:
            # In a failed transaction the statement itself raises the error.
            with suppress(Exception):
                self._write_transaction()

    def is_own(self, driver: Any) -> bool:
        """Whether a connection is that of Alembic."""
        return driver is self._driver

    def _write_transaction(self) -> None:
        self._has_transaction_id = True
        (number,) = _row(self._driver, TRANSACTION)
        self._write_event("transaction", revision=self._revision, id=number)

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

    # The ends of transactions.

    def _watch(self, dialect: Any) -> None:
        """Report commits and rollbacks by SQLAlchemy."""
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
                self._on_commit()

        def do_rollback(connection: Any) -> None:
            driver = getattr(connection, "dbapi_connection", connection)
            was_open = self._failed_to_commit or bool(is_in_transaction(driver))
            self._failed_to_commit = False
            rollback(connection)
            if driver is self._driver and self._revision:
                self._rolled_back(driver, was_open=was_open)

        dialect.do_commit, dialect.do_rollback = do_commit, do_rollback

    def _rolled_back(self, driver: Any, *, was_open: bool) -> None:
        """Report whether the revision used only the transaction that was rolled back."""
        if self._is_inside:
            # The revision continues in another transaction.
            self._on_partial(self._revision)
            return
        revision, self._revision = self._revision, ""
        # If the connection is lost, another session determines the status.
        with suppress(Exception):
            number, _, _ = self._state(driver)
            driver.rollback()
            is_only = was_open and self._number is not None and number == self._number + 1
            self._write_event("rolled back", revision=revision, is_only=is_only)

    # Processes and connections whose sessions are not observed.

    def _handle_event(self, event: str, arguments: Sequence[Any]) -> None:
        """Handle an audit event (Python, Audit events table)."""
        if not self._is_inside:
            return
        # An exception here would be raised in the service's code.
        with suppress(Exception):
            if event in STARTS_A_PROCESS or (
                event == "socket.connect" and self._may_be_server(arguments[1])
            ):
                self._on_partial(self._revision)

    def _may_be_server(self, place: Any) -> bool:
        if isinstance(place, tuple):
            return place[1] in (self._port, DEFAULT_PORT)
        return ".s.PGSQL." in str(place)


def is_in_transaction(driver: Any) -> bool | None:
    """Whether a connection has an open transaction, as the server last reported.

    Args:
        driver: A driver's connection, or an adapter of one.

    Returns:
        None if the driver does not expose it.
    """
    # SQLAlchemy's adapters of asynchronous drivers wrap the driver's connection.
    inner = getattr(driver, "_connection", driver)
    if hasattr(inner, "is_in_transaction"):
        return bool(inner.is_in_transaction())
    if hasattr(inner, "_in_transaction"):
        return bool(inner._in_transaction)  # noqa: SLF001  # pg8000 has no public attribute
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
