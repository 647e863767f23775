"""Copies of whole databases, with what `CREATE DATABASE ... TEMPLATE` leaves out.

PostgreSQL copies everything inside a database, and not what is said about it: its settings, its
grants, its comment and its connection limit (PostgreSQL, 23.3 Template Databases).
"""

import hashlib
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

from huleedu_tasks.errors import ServerError
from huleedu_tasks.postgres import databases
from huleedu_tasks.postgres.databases import EnvironmentTag, comment_of, literal, quoted, tagged

if TYPE_CHECKING:
    import asyncpg

# A name may have 63 bytes (PostgreSQL, NAMEDATALEN).
_LONGEST_NAME = 63
_INIT_SNAPSHOT = "__pristine"
_TEMPLATE = "__made_"
_LONGEST_KEY = 12
_COUNTS_SESSIONS = (15,)
_STRATEGIES = (15,)
_OTHERS = "others were connected to it"
_UNCOUNTED = "a server before PostgreSQL 15 does not tell who was connected to it"
# Settings that are lists, whose value `SET ... TO` would take for one name (PostgreSQL,
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
    """What a server has counted for a database.

    Attributes:
        sessions: How many there have been; those that go on may be left out.
        writes: Rows inserted, updated and deleted, in tables and in PostgreSQL's own catalogs. A
            session with `track_counts = off` adds nothing to it. None if that is not known.
    """

    sessions: int = 0
    writes: int | None = 0


def init_snapshot_name(database: str) -> str:
    """Return the name of the copy that keeps a database as it was born."""
    room = _LONGEST_NAME - len(_INIT_SNAPSHOT)
    return database.encode()[:room].decode(errors="ignore") + _INIT_SNAPSHOT


async def is_new(asked: "asyncpg.Connection", since: datetime) -> bool:
    """Whether a server's data was made since a moment, and nothing written since it started.

    `initdb` has left a checkpoint: any transaction that wrote has a number behind that.
    PostgreSQL tells a file's time in whole seconds.
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
    """Make a database as a copy of another one, to which nobody may be connected.

    Args:
        environment tag: What the copy is tagged with, last of all.
        closed: Whether nobody may connect to the copy.

    Raises:
        asyncpg.ObjectInUseError: If somebody is.
    """
    row = await admin.fetchrow(
        "SELECT oid, pg_get_userbyid(datdba) AS owner, datconnlimit, datacl IS NOT NULL AS granted,"
        " current_setting('fsync') = 'on' AS is_durable FROM pg_database WHERE datname = $1",
        source,
    )
    await admin.execute(
        f"CREATE DATABASE {quoted(target)} TEMPLATE {quoted(source)}"
        f" OWNER {quoted(row['owner'])} CONNECTION LIMIT {row['datconnlimit']}"
        f" ALLOW_CONNECTIONS {not closed}{_strategy(admin, is_durable=row['is_durable'])}"
    )
    await _copy_settings(admin, row["oid"], target)
    if row["granted"]:
        await _copy_grants(admin, row["oid"], target)
    comment = tagged(await comment_of(admin, source), tag)
    await admin.execute(f"COMMENT ON DATABASE {quoted(target)} IS {literal(comment)}")


def _strategy(admin: "asyncpg.Connection", *, is_durable: bool) -> str:
    """Return the option that makes a copy quickest.

    Files that need not be flushed are copied faster than they are logged, and leave no dirty
    buffers for the checkpoint of the next DROP DATABASE.
    """
    has_strategies = admin.get_server_version() >= _STRATEGIES
    return "" if is_durable or not has_strategies else " STRATEGY file_copy"


def template_name(database: str, key: str) -> str:
    """Return the name of the copy that stands for making a database.

    Args:
        key: Tells the copies of one database apart.
    """
    return f"{_template_prefix(database)}{key}"


async def templates(admin: "asyncpg.Connection", database: str) -> dict[str, EnvironmentTag | None]:
    """Return the copies that stand for making a database, by name, that used last first.

    One without parts in its environment tag is not complete; nor is one whose environment tag
    cannot be read.
    """
    prefix = _template_prefix(database)
    rows = await admin.fetch(
        "SELECT datname, coalesce(shobj_description(oid, 'pg_database'), '') FROM pg_database"
        " WHERE starts_with(datname::text, $1) AND NOT datallowconn",
        prefix,
    )
    found = {name: _readable_tag(name, comment) for name, comment in rows}
    return dict(sorted(found.items(), key=_last_used, reverse=True))


async def keep(
    admin: "asyncpg.Connection",
    database: str,
    name: str,
    tag: EnvironmentTag,
    *,
    sessions: int | None = None,
    writes: int | None = None,
) -> str:
    """Keep a copy of a database that nobody can connect to or change; or return why there is none.

    Sessions on the database are ended, as for a reset. There is no copy if a session of somebody
    else's may have written to it: if there were more sessions than ours, and rows were written by
    others than those of ours that are not counted. The copy is tagged last: one without its
    environment tag is not complete, and not used.

    Args:
        sessions: How many there have been on the database if all were ours; None if whatever is
            in it shall be in the copy.
        writes: What was counted when it was new; None if others may have written before that.
    """
    import asyncpg

    if sessions is not None and admin.get_server_version() < _COUNTS_SESSIONS:
        return _UNCOUNTED
    await databases.drop(admin, name)
    await _end_sessions(admin, database)
    try:
        await clone(admin, database, name, replace(tag, init="", parts={}), closed=True)
        if sessions is not None and not await _is_ours(admin, database, sessions, writes):
            await databases.drop(admin, name)
            return _OTHERS
    except asyncpg.ObjectInUseError:
        return _OTHERS
    except asyncpg.PostgresError as error:
        await databases.drop(admin, name)
        return f"it could not be copied: {error}"
    # Else a crash within a second may take the environment tag away, and with it the copy.
    await admin.execute("SET synchronous_commit = on")
    await databases.write_tag(admin, name, tag)
    return ""


async def activity(admin: "asyncpg.Connection", database: str) -> Activity:
    """Return what there has been on a database so far.

    A server counts a session's writes when it ends at the latest (PostgreSQL, 28.2 The Cumulative
    Statistics System, has it so since 15).
    """
    if admin.get_server_version() < _COUNTS_SESSIONS:
        return Activity()
    row = await admin.fetchrow(
        "SELECT sessions, tup_inserted + tup_updated + tup_deleted AS writes FROM pg_stat_database"
        " WHERE datname = $1",
        database,
    )
    return Activity(**row) if row else Activity()


async def _is_ours(
    admin: "asyncpg.Connection", database: str, sessions: int, writes: int | None
) -> bool:
    """Whether nobody else has written to a database. That a healthcheck connects does no harm."""
    counted = await activity(admin, database)
    return counted.sessions == sessions or counted.writes == writes


async def holds_roles(admin: "asyncpg.Connection", database: str) -> bool:
    """Whether something in a database belongs to a role other than its owner, or is granted to it.

    Such a role cannot be dropped as long as the database is there (PostgreSQL, 22.4 Dropping
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
    """Whether a crash of the server would empty tables of the connection's own database."""
    found: bool = await connection.fetchval(
        "SELECT EXISTS (SELECT FROM pg_class WHERE relpersistence = 'u')"
    )
    return found


def _last_used(template: tuple[str, EnvironmentTag | None]) -> float:
    _, tag = template
    return tag.used if tag else 0.0


def _readable_tag(database: str, comment: str) -> EnvironmentTag | None:
    try:
        return databases.parse_tag(database, comment)
    except ServerError:
        return None


def _template_prefix(database: str) -> str:
    room = _LONGEST_NAME - len(_TEMPLATE) - _LONGEST_KEY
    if len(database.encode()) <= room:
        return database + _TEMPLATE
    # Others may begin as it does.
    digest = hashlib.sha256(database.encode()).hexdigest()[:_LONGEST_KEY]
    return database.encode()[: room - len(digest)].decode(errors="ignore") + digest + _TEMPLATE


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
