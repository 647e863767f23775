"""Copies of whole databases, with what `CREATE DATABASE ... TEMPLATE` leaves out.

PostgreSQL copies everything inside a database, and not what is said about it: its settings, its
grants, its comment and its connection limit (PostgreSQL, 23.3 Template Databases).
"""

from typing import TYPE_CHECKING

from huleedu_tasks.postgres import databases
from huleedu_tasks.postgres.databases import Mark, comment_of, literal, quoted

if TYPE_CHECKING:
    import asyncpg

# A name may have 63 bytes (PostgreSQL, NAMEDATALEN).
_LONGEST_NAME = 63
_PRISTINE = "__pristine"


def pristine_name(database: str) -> str:
    """Return the name of the copy that keeps a database as it was born."""
    room = _LONGEST_NAME - len(_PRISTINE)
    return database.encode()[:room].decode(errors="ignore") + _PRISTINE


async def clone(admin: "asyncpg.Connection", source: str, target: str) -> None:
    """Make a database as a copy of another one, to which nobody may be connected.

    Raises:
        asyncpg.ObjectInUseError: If somebody is.
    """
    row = await admin.fetchrow(
        "SELECT oid, pg_get_userbyid(datdba) AS owner, datconnlimit, datacl IS NOT NULL AS granted"
        " FROM pg_database WHERE datname = $1",
        source,
    )
    await admin.execute(
        f"CREATE DATABASE {quoted(target)} TEMPLATE {quoted(source)}"
        f" OWNER {quoted(row['owner'])} CONNECTION LIMIT {row['datconnlimit']}"
    )
    await _copy_settings(admin, row["oid"], target)
    if row["granted"]:
        await _copy_grants(admin, row["oid"], target)
    comment = await comment_of(admin, source)
    await admin.execute(f"COMMENT ON DATABASE {quoted(target)} IS {literal(comment)}")


async def keep_pristine(admin: "asyncpg.Connection", database: str, mark: Mark) -> None:
    """Keep a copy of a newborn database that nobody can connect to or change.

    If somebody is connected to the database already there is no copy, and a reset will do without.
    The copy is marked last: one without a mark is not complete, and not used.
    """
    import asyncpg

    name = pristine_name(database)
    await databases.drop(admin, name)
    try:
        await clone(admin, database, name)
    except asyncpg.ObjectInUseError:
        return
    await admin.execute(f"ALTER DATABASE {quoted(name)} WITH ALLOW_CONNECTIONS false")
    await databases.write_mark(admin, name, mark)


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
        # FROM CURRENT takes a list such as search_path as it stands, and not as one quoted name.
        async with admin.transaction():
            await admin.execute("SELECT set_config($1, $2, true)", name, value)
            await admin.execute(f"ALTER {whose} {quoted(target)} SET {name} FROM CURRENT")


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
