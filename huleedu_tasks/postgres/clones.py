"""Copies databases, including properties that `CREATE DATABASE ... TEMPLATE` does not copy.

These are the settings, the grants, the comment and the connection limit of a database (PostgreSQL,
23.3 Template Databases).
"""

import hashlib
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

from huleedu_tasks.errors import ServerError
from huleedu_tasks.postgres import databases
from huleedu_tasks.postgres.databases import EnvironmentTag, literal, quoted, tagged
from huleedu_tasks.postgres.replacement import in_use
from huleedu_tasks.postgres.server_errors import converted_errors, message_of

if TYPE_CHECKING:
    import asyncpg

# Database names are limited to 63 bytes (PostgreSQL, NAMEDATALEN).
_LONGEST_NAME = 63
_INIT_SNAPSHOT = "__pristine"
_TEMPLATE = "__made_"
_THROWAWAY = "__throwaway"
_REPLAY = "__replay_"
LABEL_LENGTH = 8
_LONGEST_KEY = 12
_SNAPSHOT = "__snap_"
LONGEST_SNAPSHOT = 30
# Sessions are ended before a copy; a new one may connect meanwhile.
_ATTEMPTS = 3
_COUNTS_SESSIONS = (15,)
_STRATEGIES = (15,)
_FILE_CLONES = (18,)
_OTHERS = "other sessions used it"
_UNCOUNTED = "a server before PostgreSQL 15 does not count sessions"
# Settings that are lists; `SET ... TO` would take their value for one name (PostgreSQL,
# `dumputils.c`, variable_is_guc_list_quote).
_LISTS = (
    "local_preload_libraries",
    "search_path",
    "session_preload_libraries",
    "shared_preload_libraries",
    "temp_tablespaces",
    "unix_socket_directories",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """Counters of a database in `pg_stat_database`.

    Attributes:
        sessions: The number of sessions; running ones may be missing.
        writes: Rows inserted, updated and deleted, in tables and in PostgreSQL's catalogs, without
            those of sessions with `track_counts = off`. None if it is not known.
    """

    sessions: int = 0
    writes: int | None = 0


def init_snapshot_name(database: str) -> str:
    """Return the name of a database's init snapshot."""
    room = _LONGEST_NAME - len(_INIT_SNAPSHOT)
    return database.encode()[:room].decode(errors="ignore") + _INIT_SNAPSHOT


def throwaway_name(database: str) -> str:
    """Return the name of the database on which the revisions of a database are tried out."""
    return _name_beside(database, _THROWAWAY)


def replay_name(database: str, label: str) -> str:
    """Return the name of a database with the history of a database up to given revisions.

    Args:
        label: Distinguishes the revisions; of `LABEL_LENGTH` characters.
    """
    return f"{_replay_prefix(database)}{label}"


async def drop_old_replays(admin: "asyncpg.Connection", database: str, *, kept: int) -> None:
    """Drop the templates of replays of a database, except for those that were used last.

    Args:
        kept: How many are kept.
    """
    found = await _closed_databases(admin, _replay_prefix(database))
    for name, _ in sorted(found.items(), key=_last_used, reverse=True)[kept:]:
        await databases.drop(admin, name)


def _replay_prefix(database: str) -> str:
    room = LABEL_LENGTH + len(_TEMPLATE) + _LONGEST_KEY
    return _name_beside(database, _REPLAY, room=room)


async def counted_if_new(
    asked: "asyncpg.Connection", since: datetime
) -> dict[str, Activity] | None:
    """Return the counters of each database of a freshly initialised server.

    They were read before anything was written, so that they show each later write.

    Returns:
        The counters by the name of the database; empty if the server does not count sessions.
        None if it is not freshly initialised.
    """
    if not await _is_new(asked, since):
        return None
    if asked.get_server_version() < _COUNTS_SESSIONS:
        return {}
    rows = await asked.fetch(f"{_ACTIVITY} WHERE datname IS NOT NULL")
    counted = {name: Activity(sessions=sessions, writes=writes) for name, sessions, writes in rows}
    # What wrote before they were read is noticed here; what writes later is counted.
    return counted if await _is_new(asked, since) else None


async def _is_new(asked: "asyncpg.Connection", since: datetime) -> bool:
    """Whether initdb ran since a moment, and no transaction has written since the server started.

    `initdb` ends with a checkpoint, which records the next transaction id. PostgreSQL returns the
    time of a file in whole seconds.
    """
    is_new: bool = await asked.fetchval(
        "SELECT (pg_stat_file('PG_VERSION')).modification >= date_trunc('second', $1::timestamptz)"
        " AND checkpoint_time <= pg_postmaster_start_time()"
        " AND split_part(next_xid, ':', 1)::bigint << 32 | split_part(next_xid, ':', 2)::bigint"
        "   = pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
        " FROM pg_control_checkpoint()",
        since,
    )
    return is_new


async def clone(
    admin: "asyncpg.Connection",
    source: str,
    target: str,
    tag: EnvironmentTag,
    *,
    closed: bool = False,
) -> None:
    """Create a database as a copy of another one, which must have no sessions.

    Args:
        source: The name of the database to copy.
        target: The name of the copy.
        tag: The environment tag of the copy, written in the last statement.
        closed: Whether the copy does not allow connections.

    Raises:
        asyncpg.ObjectInUseError: If the source has sessions.
    """
    row = await admin.fetchrow(_COPIED, source)
    statement = (
        f"CREATE DATABASE {quoted(target)} TEMPLATE {quoted(source)}"
        f" OWNER {quoted(row['owner'])} CONNECTION LIMIT {row['datconnlimit']}"
        f" ALLOW_CONNECTIONS {not closed}"
    )
    if row["is_durable"] or admin.get_server_version() < _STRATEGIES:
        await admin.execute(statement)
    else:
        await _copy_files(admin, f"{statement} STRATEGY file_copy")
    if row["has_settings"]:
        await _copy_settings(admin, row["oid"], target)
    if row["granted"]:
        await _copy_grants(admin, row["oid"], target)
    comment = tagged(row["comment"], tag)
    await admin.execute(f"COMMENT ON DATABASE {quoted(target)} IS {literal(comment)}")


async def create_like(
    admin: "asyncpg.Connection", source: str, target: str, tag: EnvironmentTag
) -> None:
    """Create a database as a copy of another one; empty if that is missing or has sessions."""
    import asyncpg

    if await databases.exists(admin, source):
        with suppress(asyncpg.ObjectInUseError):
            await clone(admin, source, target, tag)
            return
    await databases.create(admin, target, tag)


async def _copy_files(admin: "asyncpg.Connection", statement: str) -> None:
    """Create a database by copying files: fastest where the server does not flush.

    It is faster than logging each page, and leaves no dirty buffers for the checkpoint of the next
    DROP DATABASE. From PostgreSQL 18 on, files share their blocks where the file system can do that
    (Btrfs, XFS, APFS); elsewhere on Linux the kernel copies them, and on macOS it is an error
    (PostgreSQL, `copydir.c`).
    """
    import asyncpg

    if admin.get_server_version() >= _FILE_CLONES:
        await admin.execute(
            "SELECT set_config(name, 'clone', false) FROM pg_settings"
            " WHERE name = 'file_copy_method' AND 'clone' = ANY (enumvals) AND source = 'default'"
        )
    try:
        await admin.execute(statement)
    except asyncpg.InternalServerError:
        if admin.get_server_version() < _FILE_CLONES:
            raise
        await admin.execute("SET file_copy_method = copy")
        await admin.execute(statement)


def template_name(database: str, key: str) -> str:
    """Return the name of a database's template.

    Args:
        key: Distinguishes the templates of one database.
    """
    return f"{_template_prefix(database)}{key}"


async def templates(admin: "asyncpg.Connection", database: str) -> dict[str, EnvironmentTag | None]:
    """Return the environment tags of a database's templates by name, most recently used first.

    A template is incomplete if its tag has no inputs, or is None because it cannot be parsed.
    """
    found = await _closed_databases(admin, _template_prefix(database))
    return dict(sorted(found.items(), key=_last_used, reverse=True))


def snapshot_name(database: str, name: str) -> str:
    """Return the name of the database that is a named snapshot of another one.

    Args:
        name: The snapshot's name, of at most `LONGEST_SNAPSHOT` bytes.
    """
    return f"{_name_beside(database, _SNAPSHOT, room=LONGEST_SNAPSHOT)}{name}"


async def snapshots(admin: "asyncpg.Connection", database: str) -> dict[str, EnvironmentTag | None]:
    """Return the environment tags of a database's named snapshots, by the names of the copies.

    A snapshot is incomplete if its tag is None or does not name it.
    """
    return await _closed_databases(admin, _name_beside(database, _SNAPSHOT, room=LONGEST_SNAPSHOT))


async def take_snapshot(
    admin: "asyncpg.Connection",
    database: str,
    copy: str,
    tag: EnvironmentTag,
    *,
    closed: bool = True,
) -> None:
    """End the sessions on a database, and copy it.

    Args:
        copy: The name of the copy.
        tag: The environment tag of the copy.
        closed: Whether the copy does not allow connections.

    Raises:
        ServerError: If sessions or other objects use the database, or the server cannot copy it.
    """
    import asyncpg

    # A crash of the server must not lose the environment tag.
    await admin.execute("SET synchronous_commit = on")
    for attempt in range(_ATTEMPTS):
        await _end_sessions(admin, database)
        try:
            with converted_errors(f"Database {database!r} could not be copied"):
                await clone(admin, database, copy, tag, closed=closed)
        except ServerError as error:
            cause = error.__cause__
            if not isinstance(cause, asyncpg.ObjectInUseError):
                raise
            if attempt == _ATTEMPTS - 1:
                raise await in_use(admin, database, message_of(cause), was="copied") from cause
        else:
            return


async def keep(
    admin: "asyncpg.Connection",
    database: str,
    name: str,
    tag: EnvironmentTag,
    *,
    sessions: int | None = None,
    writes: int | None = None,
) -> str:
    """Create a template from a database, which does not allow connections.

    The sessions on the database are ended. No template is kept if another session may have written
    to the database: if the server counted more sessions than this command opened, and more writes
    than before. The environment tag is written last; a template without it is incomplete, and is
    not used.

    Args:
        name: The name of the template.
        tag: The environment tag of the template, with its inputs.
        sessions: The number of sessions that this command opened on the database; None to keep
            the template whatever other sessions did.
        writes: The writes that were counted when the database was created; None if they are not
            known.

    Returns:
        Why no template was kept; an empty string if one was.
    """
    import asyncpg

    if sessions is not None and admin.get_server_version() < _COUNTS_SESSIONS:
        return _UNCOUNTED
    await databases.drop(admin, name)
    await _end_sessions(admin, database)
    try:
        await clone(admin, database, name, replace(tag, init="", parts={}), closed=True)
        if sessions is not None and not await is_ours(admin, database, sessions, writes):
            await databases.drop(admin, name)
            return _OTHERS
    except asyncpg.ObjectInUseError:
        return _OTHERS
    except asyncpg.PostgresError as error:
        await databases.drop(admin, name)
        return f"it could not be copied: {error}"
    # A crash of the server must not lose the environment tag, which makes the template complete.
    await admin.execute("SET synchronous_commit = on")
    complete = replace(tag, untouched=await counters(admin, name))
    await databases.write_tag(admin, name, complete)
    return ""


async def activity(admin: "asyncpg.Connection", database: str) -> Activity:
    """Read the counters of a database; zeros if the server does not count sessions.

    Since PostgreSQL 15 a server counts the writes of a session when it ends at the latest
    (PostgreSQL, 28.2 The Cumulative Statistics System).
    """
    if admin.get_server_version() < _COUNTS_SESSIONS:
        return Activity()
    row = await admin.fetchrow(f"{_ACTIVITY} WHERE datname = $1", database)
    return Activity(sessions=row["sessions"], writes=row["writes"]) if row else Activity()


async def counters(admin: "asyncpg.Connection", database: str) -> str:
    """Return the counters that show later whether a database was written to.

    They contain when the database and the server began to count, so that counters which a crash
    or `pg_stat_reset` has set to zero are not equal to the earlier ones.

    Returns:
        A string to compare; empty if the server does not count exactly.
    """
    if admin.get_server_version() < _COUNTS_SESSIONS:
        return ""
    found: str = await admin.fetchval(_COUNTERS, database)
    return found


async def is_written_to(
    admin: "asyncpg.Connection", database: str, tag: EnvironmentTag | None
) -> bool:
    """Whether a database without sessions may have been written to since it was built.

    A copy of a snapshot that no longer exists counts as written to.

    Args:
        tag: The environment tag of the database; None if it has none.
    """
    before = await _counters_at_build(admin, tag)
    return not before or before != await counters(admin, database)


async def is_only_analyzed(
    session: "asyncpg.Connection", database: str, tag: EnvironmentTag | None
) -> bool:
    """Whether statistics of ANALYZE are the only writes to a database since it was built.

    Autovacuum writes those of the server's shared catalogs to any database.

    Args:
        session: A session on the database, which has no other sessions.
    """
    before = await _counters_at_build(session, tag)
    if tag is None or not before:
        return False
    # In this order, a write between the two counts as one of a user.
    analyzed = await analyzed_rows(session)
    writes, *since = (await counters(session, database)).split()
    writes_before, *since_before = before.split()
    return since == since_before and int(writes) - analyzed == int(writes_before) - tag.analyzed


async def _counters_at_build(admin: "asyncpg.Connection", tag: EnvironmentTag | None) -> str:
    """Return the counters when a database was built; empty if they do not show a later write."""
    if tag is None or (tag.source and not await _has_oid(admin, tag.source)):
        return ""
    return tag.untouched


async def analyzed_rows(session: "asyncpg.Connection") -> int:
    """Return the writes of ANALYZE to the session's database; 0 if the server does not count."""
    if session.get_server_version() < _COUNTS_SESSIONS:
        return 0
    return int(await session.fetchval(_ANALYZED_ROWS))


async def oid_of(admin: "asyncpg.Connection", database: str) -> int:
    """Return the OID of a database; 0 if it does not exist."""
    found = await admin.fetchval("SELECT oid FROM pg_database WHERE datname = $1", database)
    return int(found or 0)


async def _has_oid(admin: "asyncpg.Connection", oid: int) -> bool:
    return bool(await admin.fetchval("SELECT true FROM pg_database WHERE oid = $1", oid))


async def is_ours(
    admin: "asyncpg.Connection", database: str, sessions: int, writes: int | None
) -> bool:
    """Whether no other session has written to a database. A healthcheck only connects."""
    counted = await activity(admin, database)
    return counted.sessions == sessions or counted.writes == writes


async def holds_roles(admin: "asyncpg.Connection", database: str) -> bool:
    """Whether a role other than the owner owns objects of a database, or has grants on them.

    PostgreSQL does not drop such a role while the database exists (PostgreSQL, 22.4 Dropping
    Roles).
    """
    found: bool = await admin.fetchval(
        "SELECT EXISTS (SELECT FROM pg_shdepend JOIN pg_database AS d ON d.oid = dbid"
        " OR (classid = 'pg_database'::regclass AND objid = d.oid)"
        " WHERE datname = $1 AND refclassid = 'pg_authid'::regclass AND refobjid <> datdba)",
        database,
    )
    return found


async def has_unlogged_tables(connection: "asyncpg.Connection") -> bool:
    """Whether the connection's database has unlogged tables, which a crash would empty."""
    found: bool = await connection.fetchval(
        "SELECT EXISTS (SELECT FROM pg_class WHERE relpersistence = 'u')"
    )
    return found


def _last_used(template: tuple[str, EnvironmentTag | None]) -> float:
    _, tag = template
    return tag.used if tag else 0.0


async def _closed_databases(
    admin: "asyncpg.Connection", prefix: str
) -> dict[str, EnvironmentTag | None]:
    """Return the tags of the databases with a prefix that do not allow connections."""
    rows = await admin.fetch(
        "SELECT datname, coalesce(shobj_description(oid, 'pg_database'), '') FROM pg_database"
        " WHERE starts_with(datname::text, $1) AND NOT datallowconn",
        prefix,
    )
    return {name: readable_tag(name, comment) for name, comment in rows}


def readable_tag(database: str, comment: str) -> EnvironmentTag | None:
    """Return the environment tag in a comment; None if it has none that can be parsed."""
    try:
        return databases.parse_tag(database, comment)
    except ServerError:
        return None


def _template_prefix(database: str) -> str:
    return _name_beside(database, _TEMPLATE, room=_LONGEST_KEY)


def _name_beside(database: str, ending: str, *, room: int = 0) -> str:
    """Return the name of a database with an ending, with room for more bytes behind it."""
    left = _LONGEST_NAME - len(ending) - room
    if len(database.encode()) <= left:
        return database + ending
    # Another long name may have the same beginning.
    digest = hashlib.sha256(database.encode()).hexdigest()[:_LONGEST_KEY]
    return database.encode()[: left - len(digest)].decode(errors="ignore") + digest + ending


async def _end_sessions(admin: "asyncpg.Connection", database: str) -> None:
    await admin.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", database
    )


async def _copy_settings(admin: "asyncpg.Connection", source: int, target: str) -> None:
    settings = await admin.fetch(
        "SELECT rolname, split_part(setting, '=', 1) AS name,"
        " substr(setting, strpos(setting, '=') + 1) AS value"
        " FROM pg_db_role_setting LEFT JOIN pg_roles ON pg_roles.oid = setrole,"
        " unnest(setconfig) AS setting WHERE setdatabase = $1",
        source,
    )
    for role, name, value in settings:
        whose = f"ROLE {quoted(role)} IN DATABASE" if role else "DATABASE"
        change = f"ALTER {whose} {quoted(target)} SET {name}"
        if name not in _LISTS:
            await admin.execute(f"{change} TO {literal(value)}")
            continue
        async with admin.transaction():
            await admin.execute("SELECT set_config($1, $2, true)", name, value)
            await admin.execute(f"{change} FROM CURRENT")


async def _copy_grants(admin: "asyncpg.Connection", source: int, target: str) -> None:
    database = quoted(target)
    grants = await admin.fetch(
        "SELECT CASE WHEN grantee = 0 THEN NULL ELSE pg_get_userbyid(grantee) END AS grantee,"
        " privilege_type, is_grantable FROM pg_database, aclexplode(datacl) WHERE oid = $1",
        source,
    )
    owner = await admin.fetchval(
        "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = $1", target
    )
    await admin.execute(f"REVOKE ALL ON DATABASE {database} FROM PUBLIC, {quoted(owner)}")
    for grantee, privilege, grantable in grants:
        to = quoted(grantee) if grantee else "PUBLIC"
        option = " WITH GRANT OPTION" if grantable else ""
        await admin.execute(f"GRANT {privilege} ON DATABASE {database} TO {to}{option}")


_COPIED = """\
SELECT oid, pg_get_userbyid(datdba) AS owner, datconnlimit, datacl IS NOT NULL AS granted,
       EXISTS (SELECT FROM pg_db_role_setting WHERE setdatabase = d.oid) AS has_settings,
       coalesce(shobj_description(oid, 'pg_database'), '') AS comment,
       current_setting('fsync') = 'on' AS is_durable
FROM pg_database AS d WHERE datname = $1
"""
_ACTIVITY = """\
SELECT datname, sessions, tup_inserted + tup_updated + tup_deleted AS writes FROM pg_stat_database
"""
# PostgreSQL stores long values of these two catalogs in TOAST tables.
_ANALYZED_ROWS = """\
SELECT coalesce(sum(pg_stat_get_tuples_inserted(part) + pg_stat_get_tuples_updated(part)
                    + pg_stat_get_tuples_deleted(part)), 0)::bigint
FROM pg_class, unnest(ARRAY[oid, reltoastrelid]) AS part
WHERE oid IN ('pg_catalog.pg_statistic'::regclass, 'pg_catalog.pg_statistic_ext_data'::regclass)
"""
_COUNTERS = """\
SELECT concat_ws(' ', coalesce(tup_inserted + tup_updated + tup_deleted, 0),
                 coalesce(extract(epoch FROM d.stats_reset), 0), extract(epoch FROM b.stats_reset))
FROM pg_stat_bgwriter AS b LEFT JOIN pg_stat_database AS d ON datname = $1
"""
