"""One migrating run at a time on a database, and who stands in its way.

The lock is PostgreSQL's advisory one, held by a session of its own outside any transaction, so
that it ends with its holder, however that ends. It is polled: a statement that waits for it would
keep `CREATE INDEX CONCURRENTLY` waiting for that statement.
"""

import asyncio
import random
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from huleedu_tasks.errors import Refused, ServerError
from huleedu_tasks.postgres.connections import answering

if TYPE_CHECKING:
    import asyncpg

# Any two numbers that nobody else uses: "hule", and the first of our locks.
LOCK = (0x68756C65, 1)
# Held beside it by one run, under a random number of its own: a fencing token.
FENCE = LOCK[0] + 1
# Held by every session that a run's migrations open, under the run's token and shared.
SESSION = LOCK[0] + 2
LOST = "lock-lost"
HOLDER_PREFIX = "huleedu-tasks lock "
RUN_PREFIX = "huleedu-tasks run "
BETWEEN_TRIES = (0.1, 0.3)
ENDING_SECONDS = 10.0
# A host that is gone without a word keeps its lock for half a minute, not for hours.
_SESSION = {
    "idle_session_timeout": "0",
    "statement_timeout": "0",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "4",
}
# A name in pg_stat_activity has 63 bytes (PostgreSQL, NAMEDATALEN).
_LONGEST_NAME = 63


async def acquire(
    connection: "asyncpg.Connection",
    *,
    place: str,
    holder: str,
    wait: float,
    notify: Callable[[str], object],
) -> None:
    """Take the lock of a connection's database, which is held as long as the connection.

    Args:
        place: The database in words, for messages.
        holder: Who we are, for others that find the lock taken: host and process.
        wait: Seconds to wait for somebody else to release it.
        notify: Told who is waited for.

    Raises:
        Refused: If somebody else still has it then; it names them.
    """
    # An older server does not have all of them.
    for name, value in _SESSION.items():
        await connection.execute(
            "SELECT set_config(name, $2, false) FROM pg_settings WHERE name = $1", name, value
        )
    deadline = time.monotonic() + wait
    waited_for = ""
    while not await _try(connection):
        other = await _holder(connection)
        if time.monotonic() >= deadline:
            raise Refused(
                f"{place} is being migrated by {other or 'somebody who does not show'}; waited "
                f"{wait:g} s for it.",
                code="migration-running",
                hint="Wait until that run has ended; HULEEDU_RUN_WAIT says how many seconds to "
                "wait.",
            )
        if other and other != waited_for:
            notify(f"{place} is being migrated by {other}; waiting up to {wait:g} s for it to end.")
            waited_for = other
        # Many who wait must not ask in step.
        await asyncio.sleep(random.uniform(*BETWEEN_TRIES))
    name = f"{HOLDER_PREFIX}{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {holder}"
    await connection.execute("SELECT set_config('application_name', $1, false)", _short(name))


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """The hold of one run on the lock, in SQL that any session of the database may ask.

    Attributes:
        token: The run's number, which the session with the lock holds as a lock of its own.
    """

    token: int

    @property
    def is_held(self) -> str:
        """An expression that is true while the session with the token holds the lock."""
        return f"""\
EXISTS (
  SELECT FROM pg_locks AS lock JOIN pg_locks AS token USING (pid, locktype, database, objsubid)
  WHERE {_ADVISORY}
    AND lock.granted AND lock.classid = {LOCK[0]}::oid AND lock.objid = {LOCK[1]}::oid
    AND token.granted AND token.classid = {FENCE}::oid AND token.objid = {self.token}::oid
)"""

    @property
    def joined(self) -> str:
        """The same; the session that asks becomes one of the run's, under whatever name."""
        return f"pg_try_advisory_lock_shared({SESSION}, {self.token}) AND {self.is_held}"

    @property
    def others(self) -> str:
        """How many sessions the run has besides the one that asks."""
        return f"""\
(SELECT count(DISTINCT pid) FROM pg_locks
 WHERE {_ADVISORY} AND classid = {SESSION}::oid AND objid = {self.token}::oid
   AND pid <> pg_backend_pid())"""


async def take_token(connection: "asyncpg.Connection", *, place: str) -> Hold:
    """Have the session that holds the lock hold a fencing token as well.

    Args:
        place: The database in words, for messages.

    Raises:
        Refused: If it does not hold the lock any more.
    """
    hold = Hold(token=1 + secrets.randbelow(2**31 - 1))
    await connection.execute("SELECT pg_advisory_lock($1, $2)", FENCE, hold.token)
    if not await is_held(connection, hold):
        raise lock_lost(place, "nothing was run")
    return hold


async def is_held(connection: "asyncpg.Connection", hold: Hold) -> bool:
    """Whether the session with a token holds the lock, as the server sees it."""
    held: bool = await connection.fetchval(f"SELECT {hold.is_held}")
    return held


def lock_lost(place: str, done: str) -> Refused:
    """Return the refusal to go on without the lock.

    Args:
        place: The database in words.
        done: What was done, or was not.
    """
    return Refused(
        f"The run lost its advisory lock on {place}; {done}.",
        code=LOST,
        hint="See whether another run migrates; then run the same command again: it begins where "
        "the database is.",
    )


async def transaction_status(connection: "asyncpg.Connection", number: int) -> str:
    """Return what became of a transaction: `committed`, `aborted` or `in progress`.

    Returns:
        An empty string if the server does not remember it.

    Raises:
        ServerError: If the server does not answer, or does not know the transaction.
    """
    async with answering():
        status: str | None = await connection.fetchval("SELECT txid_status($1)", number)
    return status or ""


async def require_hold(
    connection: "asyncpg.Connection", other: "asyncpg.Connection", *, place: str, variable: str
) -> None:
    """See that the lock keeps others out: behind a pooler two sessions may be one.

    Args:
        connection: The connection that has taken it.
        other: Another one to the same database.
        variable: Where a way past a pooler is stated.

    Raises:
        Refused: If it does not.
    """
    pid = await connection.fetchval("SELECT pg_backend_pid()")
    if pid == connection.get_server_pid() and not await _try(other):
        return
    raise Refused(
        f"The advisory lock on {place} is not effective: a connection pooler shares its "
        "session between clients.",
        code="lock-not-effective",
        hint=f"Name the server itself in {variable}.",
    )


async def end_runs(
    connection: "asyncpg.Connection", prefix: str = RUN_PREFIX, hold: Hold | None = None
) -> None:
    """End what runs have left behind in a connection's database, and wait until it is gone.

    Whoever holds the lock knows that nobody else migrates: a session that still does belongs to
    a run that was killed, and the server has not noticed yet.

    Args:
        prefix: How the sessions' names begin.
        hold: Whose sessions are ended, whatever they are named; None for those of all runs.

    Raises:
        ServerError: If the server does not end them.
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
                f"Sessions that migrate do not end: pid {', '.join(map(str, pids))}.",
                code="sessions-not-ended",
                hint="They belong to a run of another role or hang; have an administrator end them "
                "with pg_terminate_backend(pid).",
            )
        await asyncio.sleep(BETWEEN_TRIES[0] / 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocker:
    """Somebody whose lock a session of ours waits for.

    Attributes:
        pid: None for a prepared transaction, which has no session.
        who: User, application and address, as far as they are shown.
        seconds: How long the transaction has been open; None where that is not shown to us.
    """

    pid: int | None
    who: str
    seconds: float | None

    @property
    def name(self) -> str:
        """Who it is; the same as long as it is the same."""
        return f"pid {self.pid} ({self.who})" if self.pid else "a prepared transaction"

    def __str__(self) -> str:
        since = "" if self.seconds is None else f", in a transaction open for {self.seconds:.0f} s"
        return f"{self.name}{since}"


async def blockers(connection: "asyncpg.Connection", name: str) -> tuple[Blocker, ...]:
    """Return those for whom sessions of a name wait, in a connection's database."""
    rows = await connection.fetch(_BLOCKERS, name)
    return tuple(Blocker(**row) for row in rows)


def run_name(run: str) -> str:
    """Return the name that a run's sessions have in `pg_stat_activity`."""
    return _short(f"{RUN_PREFIX}{run}")


async def _try(connection: "asyncpg.Connection") -> bool:
    taken: bool = await connection.fetchval("SELECT pg_try_advisory_lock($1, $2)", *LOCK)
    return taken


async def _holder(connection: "asyncpg.Connection") -> str:
    row = await connection.fetchrow(_HOLDER, *LOCK)
    if row is None:
        return ""
    name = row["name"].removeprefix(HOLDER_PREFIX)
    since, _, who = name.partition(" ")
    # A lock taken a moment ago has no name yet.
    described = f"{who} since {since}" if name != row["name"] else name
    return f"{described} (from {row['address']}, server pid {row['pid']})"


def _short(name: str) -> str:
    return name.encode()[:_LONGEST_NAME].decode(errors="ignore")


_HOLDER = """\
SELECT pid, application_name AS name, coalesce(host(client_addr), 'the server itself') AS address
FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE locktype = 'advisory' AND granted AND objsubid = 2
  AND classid = $1::int::oid AND objid = $2::int::oid
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""

_ADVISORY = """\
locktype = 'advisory' AND objsubid = 2
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"""

# A session may have been given another name by what it runs.
_RUNS = f"""\
SELECT pid FROM pg_stat_activity
WHERE datname = current_database() AND application_name LIKE $1
UNION
SELECT pid FROM pg_locks
WHERE {_ADVISORY} AND classid = {SESSION}::oid AND coalesce(objid = $2::int::oid, true)
"""

# A prepared transaction has no session, and counts as number 0.
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
