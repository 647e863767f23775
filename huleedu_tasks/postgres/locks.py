"""The advisory lock of a run on a database, its fencing token, and sessions that block a run.

A session of its own holds the lock outside any transaction, so that PostgreSQL releases it when
the session ends for any reason. A run polls the lock: `CREATE INDEX CONCURRENTLY` would wait for a
statement that waits for the lock.
"""

import asyncio
import random
import secrets
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from huleedu_tasks.errors import Refused, ServerError
from huleedu_tasks.postgres.connections import answering, is_pooled

if TYPE_CHECKING:
    import asyncpg

# Two arbitrary numbers: the bytes of "hule", and 1.
LOCK = (0x68756C65, 1)
# The session with the lock also holds this one, under the run's random number: the fencing token.
FENCE = LOCK[0] + 1
# Every session that the migrations of a run open holds this one shared, under the run's token.
SESSION = LOCK[0] + 2
# A command that creates a throwaway database holds this one, under a hash of the name.
NAME = LOCK[0] + 3
LOST = "lock-lost"
HOLDER_PREFIX = "huleedu-tasks lock "
RUN_PREFIX = "huleedu-tasks run "
BETWEEN_TRIES = (0.1, 0.3)
ENDING_SECONDS = 10.0
# With keepalives, the lock of a host that lost its network is released after half a minute.
_SESSION = {
    "idle_session_timeout": "0",
    "statement_timeout": "0",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "4",
}
# application_name is limited to 63 bytes (PostgreSQL, NAMEDATALEN).
_LONGEST_NAME = 63


async def acquire(
    connection: "asyncpg.Connection",
    *,
    place: str,
    holder: str,
    wait: float,
    notify: Callable[[str], object],
) -> None:
    """Take the lock on a connection's database. The connection holds it until it is closed.

    Args:
        place: The database and its server, for messages.
        holder: The host and process of this run, shown to other runs that wait for the lock.
        wait: Seconds to wait for another run to release it.
        notify: Called with a message that names the holder, before waiting.

    Raises:
        Refused: If another run still holds it after `wait` seconds; the message names that run.
    """
    # An older server does not have all these settings.
    for name, value in _SESSION.items():
        await connection.execute(
            "SELECT set_config(name, $2, false) FROM pg_settings WHERE name = $1", name, value
        )
    deadline = time.monotonic() + wait
    waited_for = ""
    while not await _try(connection):
        other = await lock_holder(connection)
        if time.monotonic() >= deadline:
            raise Refused(
                f"{place} is being migrated by {other or 'another session'}; waited {wait:g} s "
                "for it.",
                code="migration-running",
                hint="Wait until that run ends, or set HULEEDU_RUN_WAIT to more seconds.",
            )
        if other and other != waited_for:
            notify(f"{place} is being migrated by {other}; waiting up to {wait:g} s for it to end.")
            waited_for = other
        # A random interval keeps waiting runs from polling at the same moment.
        await asyncio.sleep(random.uniform(*BETWEEN_TRIES))
    name = f"{HOLDER_PREFIX}{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {holder}"
    await connection.execute("SELECT set_config('application_name', $1, false)", _short(name))


async def lock_name(connection: "asyncpg.Connection", name: str) -> None:
    """Wait for the lock on the name of a throwaway database, and take it until `unlock_name`.

    It is effective among sessions of the same maintenance database.
    """
    await connection.execute(f"SELECT pg_advisory_lock({NAME}, {_hash(name)})")


async def unlock_name(connection: "asyncpg.Connection", name: str) -> None:
    """Release the lock on a name."""
    await connection.execute(f"SELECT pg_advisory_unlock({NAME}, {_hash(name)})")


def _hash(name: str) -> int:
    """Return a hash in the range of PostgreSQL's integer."""
    return zlib.crc32(name.encode()) - 2**31


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """The lock of one run, as SQL expressions for any session of the database.

    Attributes:
        token: The run's fencing token, which the session with the lock holds as a second lock.
    """

    token: int

    @property
    def is_held(self) -> str:
        """A boolean expression: the session with the token holds the lock."""
        return f"""\
EXISTS (
  SELECT FROM pg_locks AS lock JOIN pg_locks AS token USING (pid, locktype, database, objsubid)
  WHERE {_ADVISORY}
    AND lock.granted AND lock.classid = {LOCK[0]}::oid AND lock.objid = {LOCK[1]}::oid
    AND token.granted AND token.classid = {FENCE}::oid AND token.objid = {self.token}::oid
)"""

    @property
    def joined(self) -> str:
        """`is_held`, which also registers the session that evaluates it as one of the run."""
        return f"pg_try_advisory_lock_shared({SESSION}, {self.token}) AND {self.is_held}"

    @property
    def others(self) -> str:
        """An expression that counts the other sessions of the run."""
        return f"""\
(SELECT count(DISTINCT pid) FROM pg_locks
 WHERE {_ADVISORY} AND classid = {SESSION}::oid AND objid = {self.token}::oid
   AND pid <> pg_backend_pid())"""


async def take_token(connection: "asyncpg.Connection", *, place: str) -> Hold:
    """Take a random fencing token in the session that holds the lock.

    Args:
        place: The database and its server, for messages.

    Raises:
        Refused: If the session has lost the lock.
    """
    hold = Hold(token=1 + secrets.randbelow(2**31 - 1))
    await connection.execute("SELECT pg_advisory_lock($1, $2)", FENCE, hold.token)
    if not await is_held(connection, hold):
        raise lock_lost(place, "nothing was run")
    return hold


async def is_held(connection: "asyncpg.Connection", hold: Hold) -> bool:
    """Whether the session with a token holds the lock, according to the server."""
    held: bool = await connection.fetchval(f"SELECT {hold.is_held}")
    return held


def lock_lost(place: str, done: str) -> Refused:
    """Return the error of a run that lost its lock.

    Args:
        place: The database and its server.
        done: A clause that says what was run.
    """
    return Refused(
        f"The run lost its advisory lock on {place}; {done}.",
        code=LOST,
        hint="Check whether another run migrates (`invoke prod.history`). Then run the same "
        "command "
        "again; it continues at the current revision.",
    )


async def transaction_status(connection: "asyncpg.Connection", number: int) -> str:
    """Return the status of a transaction: `committed`, `aborted` or `in progress`.

    Returns:
        The status; an empty string if the transaction is too old.

    Raises:
        ServerError: If the server does not answer, or does not know the transaction.
    """
    async with answering():
        status: str | None = await connection.fetchval("SELECT txid_status($1)", number)
    return status or ""


async def require_hold(
    connection: "asyncpg.Connection", other: "asyncpg.Connection", *, place: str, variable: str
) -> None:
    """Require that the lock is effective: behind a pooler two sessions may be the same one.

    Args:
        connection: The connection that holds the lock.
        other: A second connection to the same database.
        place: The database and its server, for messages.
        variable: The variable with the URL that bypasses a pooler.

    Raises:
        Refused: If the lock is not effective.
    """
    if not await is_pooled(connection) and not await _try(other):
        return
    raise Refused(
        f"The advisory lock on {place} is not effective: a connection pooler shares its "
        "session between clients.",
        code="lock-not-effective",
        hint=f"Set {variable} to the URL of the server itself.",
    )


async def end_runs(
    connection: "asyncpg.Connection", prefix: str = RUN_PREFIX, hold: Hold | None = None
) -> None:
    """End sessions of earlier runs in a connection's database, and wait until they ended.

    This run holds the lock, so no other run migrates. A session that still does belongs to a run
    that was killed, which the server has not detected yet.

    Args:
        prefix: The prefix of the sessions' application_name.
        hold: The run whose sessions are ended, whatever their names; None for all runs.

    Raises:
        ServerError: If the sessions do not end.
    """
    import asyncpg

    deadline = time.monotonic() + ENDING_SECONDS
    token = hold.token if hold else None
    while pids := [row["pid"] for row in await connection.fetch(_RUNS, f"{prefix}%", token)]:
        try:
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM unnest($1::int[]) AS pid", pids
            )
            allowed = True
        except asyncpg.InsufficientPrivilegeError:
            allowed = False
        if not allowed or time.monotonic() >= deadline:
            raise ServerError(
                f"Sessions of an earlier run did not end: pid {', '.join(map(str, pids))}.",
                code="sessions-not-ended",
                hint="Ask an administrator to run SELECT pg_terminate_backend(pid): the sessions "
                "do not respond, or belong to a role that this one may not end.",
            )
        await asyncio.sleep(BETWEEN_TRIES[0] / 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocker:
    """A session or prepared transaction whose lock a session of this run waits for.

    Attributes:
        pid: None for a prepared transaction, which has no session.
        who: User, application and address, as far as the role may see them.
        seconds: How long its transaction has been open; None if the role may not see it.
    """

    pid: int | None
    who: str
    seconds: float | None

    @property
    def name(self) -> str:
        """Its pid and user, without the changing duration."""
        return f"pid {self.pid} ({self.who})" if self.pid else "a prepared transaction"

    def __str__(self) -> str:
        since = "" if self.seconds is None else f", in a transaction open for {self.seconds:.0f} s"
        return f"{self.name}{since}"


async def blockers(connection: "asyncpg.Connection", name: str) -> tuple[Blocker, ...]:
    """Return the blockers of sessions in a connection's database; empty if none waits.

    Args:
        name: The application_name of the sessions that may wait.
    """
    rows = await connection.fetch(_BLOCKERS, name)
    return tuple(Blocker(**row) for row in rows)


def run_name(run: str) -> str:
    """Return the application_name of a run's sessions."""
    return _short(f"{RUN_PREFIX}{run}")


async def _try(connection: "asyncpg.Connection") -> bool:
    taken: bool = await connection.fetchval("SELECT pg_try_advisory_lock($1, $2)", *LOCK)
    return taken


async def lock_holder(connection: "asyncpg.Connection") -> str:
    """Return the run that holds the lock on a connection's database; an empty string if none."""
    row = await connection.fetchrow(_HOLDER, *LOCK)
    if row is None:
        return ""
    name = row["name"].removeprefix(HOLDER_PREFIX)
    since, _, who = name.partition(" ")
    # A session that has just taken the lock has not set its name yet.
    described = f"{who} since {since}" if name != row["name"] else name
    return f"{described} (from {row['address']}, server pid {row['pid']})"


def _short(name: str) -> str:
    return name.encode()[:_LONGEST_NAME].decode(errors="ignore")


_HOLDER = """\
SELECT pid, coalesce(application_name, 'another session') AS name,
  coalesce(host(client_addr), 'the server itself') AS address
FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE locktype = 'advisory' AND granted AND objsubid = 2
  AND classid = $1::int::oid AND objid = $2::int::oid
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""

_ADVISORY = """\
locktype = 'advisory' AND objsubid = 2
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"""

# The service's code may have changed the application_name of a session.
_RUNS = f"""\
SELECT pid FROM pg_stat_activity
WHERE datname = current_database() AND application_name LIKE $1
UNION
SELECT pid FROM pg_locks
WHERE {_ADVISORY} AND classid = {SESSION}::oid AND coalesce(objid = $2::int::oid, true)
"""

# pg_blocking_pids() returns 0 for a prepared transaction.
_BLOCKERS = """\
SELECT DISTINCT other.pid,
       concat_ws(' ', other.usename, nullif(other.application_name, ''), host(other.client_addr))
           AS who,
       extract(epoch FROM clock_timestamp() - other.xact_start)::float AS seconds
FROM pg_stat_activity AS own
CROSS JOIN LATERAL unnest(pg_blocking_pids(own.pid)) AS number
LEFT JOIN pg_stat_activity AS other ON other.pid = number
WHERE own.datname = current_database() AND own.application_name = $1
"""
