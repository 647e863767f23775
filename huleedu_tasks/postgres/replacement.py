"""Replaces a database by its successor, so that one of the two exists at every moment.

The successor is built under another name. One transaction renames the database to its predecessor's
name, and the successor to the database's name. The predecessor is kept until it is dropped.
"""

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from huleedu_tasks.errors import Finding, Refused, ServerError
from huleedu_tasks.postgres import databases
from huleedu_tasks.postgres.databases import literal, quoted
from huleedu_tasks.postgres.server_errors import code_of, explain, message_of

if TYPE_CHECKING:
    import asyncpg

# Database names are limited to 63 bytes (PostgreSQL, NAMEDATALEN).
_LONGEST_NAME = 63
_SUCCESSOR = "__new"
_PREDECESSOR = "__old"
_BETWEEN = "__swap"
_UNDO = "__undo"
_DIGEST = 8
# A rename waits 5 s for other sessions to end; a new one may connect meanwhile.
_ATTEMPTS = 3
_SYSTEM = ("template0", "template1")
_BLOCKED = ("database-in-use", "permission-denied")


@dataclass(frozen=True, slots=True, kw_only=True)
class Replaced:
    """The result of replacing a database.

    Attributes:
        is_kept: Whether a predecessor exists.
        slots: The names of the replication slots that will be dropped with it.
    """

    is_kept: bool
    slots: Sequence[str]


def successor_name(database: str) -> str:
    """Return the name of the database under which a successor is built."""
    return _own_name(database, _SUCCESSOR)


def predecessor_name(database: str) -> str:
    """Return the name of the database under which a predecessor is kept."""
    return _own_name(database, _PREDECESSOR)


def undo_name(database: str) -> str:
    """Return the name of the database that is another one's undo snapshot."""
    return _own_name(database, _UNDO)


async def discard_successor(admin: "asyncpg.Connection", database: str) -> str:
    """Drop the successor of a database if it exists, and return its name.

    Raises:
        Refused: If the database is template0 or template1.
    """
    if database in _SYSTEM:
        raise Refused(
            f"{database} is a template database of the server and was not replaced.",
            code="system-database",
            hint="Set another 'database' in the registry.",
        )
    name = successor_name(database)
    await databases.drop(admin, name)
    return name


async def put_in_place(
    admin: "asyncpg.Connection",
    database: str,
    *,
    is_unfinished: Callable[[], Awaitable[bool]],
    becomes_undo: Callable[[], Awaitable[bool]],
) -> Replaced:
    """Rename a database to its predecessor, and its successor to the database.

    Args:
        is_unfinished: Called if a predecessor exists already. Returns whether the database is an
            unfinished build; then the database is dropped and the predecessor is kept.
        becomes_undo: Called if it is not. Returns whether the existing predecessor becomes the
            undo snapshot instead of being dropped.

    Raises:
        ServerError: If sessions or other objects use the database. It keeps its name.
    """
    successor, predecessor = successor_name(database), predecessor_name(database)
    async with _keeping(admin, database):
        found = await admin.fetchrow(_FOUND, database, predecessor, undo_name(database))
        if found["prepared"] or found["subscriptions"]:
            raise await in_use(admin, database, "other objects of the server depend on it")
        renames = [(successor, database)]
        if found["there"] and found["kept"] and await is_unfinished():
            # The next run drops it if this one is interrupted before the drop.
            renames = _exchange(database, successor)
        elif found["there"]:
            renames = [(database, predecessor), (successor, database)]
            if found["kept"] and await becomes_undo():
                renames = _rotation(database, has_undo=found["undoable"])
            elif found["kept"]:
                await databases.drop(admin, predecessor)
        await _rename(admin, renames)
        if len(renames) > 2:
            await databases.drop(admin, successor)
    return Replaced(is_kept=found["kept"] or found["there"], slots=tuple(found["slots"]))


async def keep_as_undo(admin: "asyncpg.Connection", database: str, kept: str) -> None:
    """Rename a database to the undo snapshot of another one, and drop the earlier snapshot.

    Args:
        database: The name of the database whose undo snapshot it becomes.
        kept: The name of its predecessor, or of a copy that was built as its successor.

    Raises:
        ServerError: If sessions or other objects use one of them.
    """
    import asyncpg

    undo, between = undo_name(database), _own_name(database, _BETWEEN)
    # The next run drops it if this one is interrupted before the drop.
    spare = successor_name(database)
    renames = [(kept, undo)]
    if has_earlier := await databases.exists(admin, undo):
        renames = [(undo, between), (kept, undo), (between, spare)]
    try:
        await _rename(admin, renames)
    except asyncpg.PostgresError as error:
        raise await in_use(admin, kept, message_of(error), was="renamed") from error
    if has_earlier:
        await databases.drop(admin, spare)


async def drop_slots(admin: "asyncpg.Connection", database: str) -> None:
    """Drop the inactive replication slots of a database, which would keep the server's log."""
    await admin.execute(
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
        " WHERE database = $1 AND NOT active",
        database,
    )


async def exchange(admin: "asyncpg.Connection", database: str, other: str) -> None:
    """Exchange the names of two databases in one transaction, and end the sessions on both.

    Raises:
        ServerError: If sessions or other objects use one of them. Both keep their names.
    """
    import asyncpg

    try:
        await _rename(admin, _exchange(database, other))
    except asyncpg.ObjectInUseError as error:
        raise await in_use(admin, database, message_of(error)) from error


async def drop_predecessor(admin: "asyncpg.Connection", database: str) -> None:
    """Drop the predecessor of a database.

    Raises:
        ServerError: If sessions or other objects use it.
    """
    import asyncpg

    name = predecessor_name(database)
    try:
        await databases.drop(admin, name)
    except asyncpg.PostgresError as error:
        raise await in_use(admin, name, message_of(error), was="dropped") from error


@asynccontextmanager
async def building(admin: "asyncpg.Connection", database: str) -> AsyncIterator[str]:
    """Yield the name under which a `with` block builds the successor of a database.

    Raises:
        ServerError: If the block fails. The successor is dropped, the database is unchanged.
    """
    name = await discard_successor(admin, database)
    try:
        yield name
    except BaseException as error:
        with suppress(Exception):
            await databases.drop(admin, name)
        doing = f"The successor of database {database!r} could not be created; nothing was changed"
        if explained := explain(error, doing):
            raise explained from error
        raise


@asynccontextmanager
async def _keeping(admin: "asyncpg.Connection", database: str) -> AsyncIterator[None]:
    """Drop the successor if a `with` block fails, and name the objects that use the database."""
    try:
        yield
    except BaseException as error:
        failure = await _replacement_error(admin, database, error)
        with suppress(Exception):
            await databases.drop(admin, successor_name(database))
        if failure:
            raise failure from error
        raise


async def _replacement_error(
    admin: "asyncpg.Connection", database: str, error: BaseException
) -> ServerError | None:
    import asyncpg

    if isinstance(error, asyncpg.PostgresError) and code_of(error) in _BLOCKED:
        return await in_use(admin, database, message_of(error))
    return explain(error, f"Database {database!r} could not be replaced and is unchanged")


async def _rename(admin: "asyncpg.Connection", renames: Sequence[tuple[str, str]]) -> None:
    """End the sessions on databases, and rename all in one transaction."""
    import asyncpg

    names = ", ".join(literal(name) for name, _ in renames)
    statements = [
        # Workers of the server have no user; the server ends them itself.
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        f" WHERE datname IN ({names}) AND usesysid IS NOT NULL AND pid <> pg_backend_pid()",
        *(f"ALTER DATABASE {quoted(old)} RENAME TO {quoted(new)}" for old, new in renames),
    ]
    for attempt in range(_ATTEMPTS):
        try:
            # Statements in one message are one transaction.
            await admin.execute("; ".join(statements))
        except asyncpg.ObjectInUseError:
            if attempt == _ATTEMPTS - 1:
                raise
        else:
            return


async def in_use(
    admin: "asyncpg.Connection", database: str, reason: str, *, was: str = "replaced"
) -> ServerError:
    """Return an error that lists the sessions and objects that use a database.

    Args:
        reason: Why the server refused, as a clause.
        was: What could not be done to the database, as a participle.
    """
    rows = await admin.fetch(_HOLDERS, database)
    statements = "; ".join(dict.fromkeys(row["remedy"] for row in rows))
    return ServerError(
        f"Database {database!r} could not be {was} and is unchanged: {reason}.",
        code="database-in-use",
        findings=[Finding(place=row["kind"], problem=row["what"]) for row in rows],
        hint=f"Run in `invoke db.shell`: {statements}. Then run the command again."
        if statements
        else "Stop the programs that use it, and run the command again.",
    )


def _exchange(one: str, other: str) -> list[tuple[str, str]]:
    between = _own_name(one, _BETWEEN)
    return [(other, between), (one, other), (between, one)]


def _rotation(database: str, *, has_undo: bool) -> list[tuple[str, str]]:
    """Return the renames by which each database takes the place of the one before it.

    An earlier undo snapshot gets the successor's name.
    """
    successor, predecessor = successor_name(database), predecessor_name(database)
    undo, between = undo_name(database), _own_name(database, _BETWEEN)
    earlier = [(undo, successor)] if has_undo else []
    return [
        (successor, between),
        *earlier,
        (predecessor, undo),
        (database, predecessor),
        (between, database),
    ]


def _own_name(database: str, ending: str) -> str:
    if len((database + ending).encode()) <= _LONGEST_NAME:
        return database + ending
    # Another long name may have the same beginning.
    digest = hashlib.sha256(database.encode()).hexdigest()[:_DIGEST]
    room = _LONGEST_NAME - len(ending) - _DIGEST
    return database.encode()[:room].decode(errors="ignore") + digest + ending


_FOUND = """\
SELECT
  EXISTS (SELECT FROM pg_database WHERE datname = $1) AS there,
  EXISTS (SELECT FROM pg_database WHERE datname = $2) AS kept,
  EXISTS (SELECT FROM pg_database WHERE datname = $3) AS undoable,
  EXISTS (SELECT FROM pg_prepared_xacts WHERE database = $1) AS prepared,
  EXISTS (SELECT FROM pg_subscription JOIN pg_database AS d ON d.oid = subdbid WHERE datname = $1)
    AS subscriptions,
  ARRAY(SELECT slot_name::text FROM pg_replication_slots WHERE database = $1) AS slots
"""

_HOLDERS = """\
SELECT 'session ' || pid AS kind,
       concat_ws(', ', 'application_name ' || quote_literal(coalesce(application_name, '')),
                 'user ' || coalesce(usename, 'unknown'),
                 coalesce('from ' || host(client_addr), 'from the server itself'),
                 backend_type) AS what,
       format('SELECT pg_terminate_backend(%s)', pid) AS remedy
FROM pg_stat_activity WHERE datname = $1 AND usesysid IS NOT NULL AND pid <> pg_backend_pid()
UNION ALL
SELECT 'replication slot ' || slot_name,
       coalesce('used by pid ' || active_pid, 'not active'),
       format('SELECT pg_drop_replication_slot(%L)', slot_name)
FROM pg_replication_slots WHERE database = $1
UNION ALL
SELECT 'subscription ' || subname, 'must be dropped first',
       format('ALTER SUBSCRIPTION %1$I DISABLE; ALTER SUBSCRIPTION %1$I SET (slot_name = NONE);'
              ' DROP SUBSCRIPTION %1$I', subname)
FROM pg_subscription JOIN pg_database AS d ON d.oid = subdbid WHERE datname = $1
UNION ALL
SELECT 'prepared transaction ' || gid, 'of user ' || owner, format('ROLLBACK PREPARED %L', gid)
FROM pg_prepared_xacts WHERE database = $1
"""
