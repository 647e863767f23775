"""Databases on a server: made, dropped, tagged, and asked about themselves."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING

from huleedu_tasks.errors import Finding, ServerError
from huleedu_tasks.postgres.failures import details_of, message_of

if TYPE_CHECKING:
    import asyncpg

# A table would turn up in the service's autogenerate; a comment on the database does not.
TAG_PREFIX = "huleedu-tasks "
COMMENTS = "SELECT datname, coalesce(shobj_description(oid, 'pg_database'), '') FROM pg_database"


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentTag:
    """What this package notes on a database, in its comment.

    Attributes:
        environment: The environment the database belongs to.
        seeds: Fingerprint of the seeds it was filled with; empty if it was not.
        shared_seeds: The same by the service's name, in a database that several services share.
        init: Fingerprint of the scripts that ran at its birth, on a copy kept from then.
        parts: What a template was made of; empty on everything else.
        used: When a template was made or copied last, in seconds since the epoch; else 0.
        reset: How the last reset came to it: by a copy, or why not.
        unfinished: Whether a reset has put it in place, and has not migrated and seeded it yet.
    """

    environment: str
    seeds: str = ""
    shared_seeds: Mapping[str, str] = field(default_factory=dict)
    init: str = ""
    parts: Mapping[str, str] = field(default_factory=dict)
    used: float = 0.0
    reset: str = ""
    unfinished: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionTable:
    """The table in which Alembic records the revisions of a database.

    Attributes:
        schema: The schema that `env.py` states; None if it states none.
        search_path: Where one without a schema is looked for; empty for our own search path.
    """

    name: str = "alembic_version"
    schema: str | None = None
    search_path: tuple[str, ...] = ()

    def __str__(self) -> str:
        names = [self.name] if self.schema is None else [self.schema, self.name]
        return ".".join(map(quoted, names))


_NOTED = {each.name for each in fields(EnvironmentTag)}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerIdentity:
    """Which server this is.

    Attributes:
        system_identifier: Made by initdb, and shared by copies of one data directory.
        data_directory: Where the server's files lie, as the server itself sees it.
    """

    system_identifier: int
    data_directory: str


def quoted(identifier: str) -> str:
    """Return a name as SQL writes it, whatever characters it has."""
    return '"' + identifier.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Return a text as an SQL string constant on one line.

    Escape strings do not depend on `standard_conforming_strings` (PostgreSQL, 4.1.2.2).
    """
    escaped = text.replace("\\", "\\\\").replace("'", "''")
    return "E'" + escaped.replace("\n", "\\n").replace("\r", "\\r") + "'"


async def identity(connection: "asyncpg.Connection") -> ServerIdentity:
    """Ask a server which one it is; needs a superuser or pg_read_all_settings.

    Raises:
        ServerError: If the server does not tell this user.
    """
    import asyncpg

    try:
        row = await connection.fetchrow(
            "SELECT system_identifier, current_setting('data_directory') AS data_directory"
            " FROM pg_control_system()"
        )
    except asyncpg.PostgresError as error:
        raise ServerError(
            f"The server does not tell which one it is: {message_of(error)}.",
            code="identity-unknown",
            hint="Use a superuser, or grant the user pg_read_all_settings.",
        ) from error
    return ServerIdentity(
        # PostgreSQL shows the unsigned number of pg_control as a signed one.
        system_identifier=row["system_identifier"] % 2**64,
        data_directory=row["data_directory"],
    )


async def place(connection: "asyncpg.Connection", name: str) -> tuple[str, int]:
    """Return what tells a database from every other one that runs: server's start, and its oid.

    Raises:
        ServerError: If the server has no database of that name.
    """
    row = await connection.fetchrow(
        "SELECT extract(epoch FROM pg_postmaster_start_time())::text, oid FROM pg_database"
        " WHERE datname = $1",
        name,
    )
    if row is None:
        raise ServerError(f"The server has no database {name!r}.", code="database-missing")
    return row[0], row[1]


async def exists(connection: "asyncpg.Connection", name: str) -> bool:
    """Whether the server has a database of that name."""
    found = await connection.fetchval("SELECT true FROM pg_database WHERE datname = $1", name)
    return bool(found)


async def drop(connection: "asyncpg.Connection", name: str) -> None:
    """Drop a database if it is there, ending every session on it."""
    import asyncpg

    statement = f"DROP DATABASE IF EXISTS {quoted(name)} WITH (FORCE)"
    try:
        await connection.execute(statement)
    except asyncpg.WrongObjectTypeError:
        # It was declared a template, which PostgreSQL does not drop.
        await connection.execute(f"ALTER DATABASE {quoted(name)} IS_TEMPLATE false")
        await connection.execute(statement)


async def create(connection: "asyncpg.Connection", name: str, tag: EnvironmentTag) -> None:
    """Create an empty database and tag it.

    Nobody is connected to `template0`, or has changed it, and it has no collation version.
    """
    await connection.execute(f"CREATE DATABASE {quoted(name)} TEMPLATE template0")
    await write_tag(connection, name, tag)


async def is_untouched(connection: "asyncpg.Connection") -> bool:
    """Whether nothing was made in the connection's own database since it was created.

    What comes with PostgreSQL has lower numbers (PostgreSQL, 74.2 OID Assignment).
    """
    untouched: bool = await connection.fetchval(
        "SELECT NOT EXISTS (SELECT oid FROM pg_class WHERE oid >= 16384"
        " UNION ALL SELECT oid FROM pg_namespace WHERE oid >= 16384"
        " UNION ALL SELECT oid FROM pg_proc WHERE oid >= 16384"
        " UNION ALL SELECT oid FROM pg_type WHERE oid >= 16384"
        " UNION ALL SELECT oid FROM pg_extension WHERE oid >= 16384)"
    )
    return untouched


async def open_names(connection: "asyncpg.Connection") -> list[str]:
    """Return the databases of a server that accept connections and are no templates."""
    rows = await connection.fetch(
        "SELECT datname FROM pg_database WHERE datallowconn AND NOT datistemplate"
    )
    return [row["datname"] for row in rows]


async def holds_tables(connection: "asyncpg.Connection") -> bool:
    """Whether the connection's own database has a table that does not belong to an extension."""
    found: bool = await connection.fetchval(
        "SELECT EXISTS (SELECT FROM pg_class AS c WHERE relkind IN ('r', 'p', 'm', 'f')"
        " AND oid >= 16384 AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = c.oid"
        " AND classid = 'pg_class'::regclass AND deptype = 'e'))"
    )
    return found


async def create_extension(connection: "asyncpg.Connection", name: str) -> None:
    """Create an extension in the connection's own database if it is not there.

    Raises:
        ServerError: If the server does not have it.
    """
    import asyncpg

    try:
        await connection.execute(f"CREATE EXTENSION IF NOT EXISTS {quoted(name)}")
    except asyncpg.PostgresError as error:
        raise ServerError(
            f"The extension {name!r} could not be created: {message_of(error)}.",
            code="extension-missing",
            findings=details_of(error),
            hint="Install it on the server (Debian: postgresql-contrib), or correct 'extensions'"
            " in the registry.",
        ) from error


async def read_tag(connection: "asyncpg.Connection", name: str) -> EnvironmentTag | None:
    """Return a database's environment tag, or None if it has none.

    Raises:
        ServerError: As `parse_tag`.
    """
    return parse_tag(name, await comment_of(connection, name))


def parse_tag(database: str, comment: str) -> EnvironmentTag | None:
    """Return the environment tag in a database's comment, or None if there is none.

    Raises:
        ServerError: If there is a tag that this version cannot read: it is not taken for none.
    """
    if TAG_PREFIX not in comment:
        return None
    try:
        stated = json.loads(comment.rpartition(TAG_PREFIX)[2])
        # A newer version may note more.
        return EnvironmentTag(**{name: stated[name] for name in stated.keys() & _NOTED})
    except (ValueError, TypeError, AttributeError) as error:
        raise ServerError(
            f"The environment tag of database {database!r} cannot be read.",
            code="environment-tag-unreadable",
            findings=[Finding(place="its comment", problem=repr(comment))],
            hint="A newer version of huleedu-tasks may have written it; if not, correct it with"
            " COMMENT ON DATABASE.",
        ) from error


async def write_tag(connection: "asyncpg.Connection", name: str, tag: EnvironmentTag) -> None:
    """Mark a database, keeping what else its comment says.

    In a transaction the environment tag comes and goes with it.
    """
    text = tagged(await comment_of(connection, name), tag)
    await connection.execute(f"COMMENT ON DATABASE {quoted(name)} IS {literal(text)}")


def tagged(comment: str, tag: EnvironmentTag) -> str:
    """Return a database's comment with another environment tag, or with its first one."""
    stated = {name: value for name, value in asdict(tag).items() if value}
    return f"{comment.partition(TAG_PREFIX)[0]}{TAG_PREFIX}{json.dumps(stated)}"


async def current_revisions(
    connection: "asyncpg.Connection", tables: Sequence[VersionTable]
) -> dict[str, tuple[str, ...]]:
    """Return the revisions Alembic has recorded in the connection's database, sorted.

    Args:
        tables: The version tables that `env.py` configures; one that is missing has no revision.

    Returns:
        The revisions in each table, by the table as SQL writes it.
    """
    found = {}
    for table in tables:
        name = await connection.fetchval(
            _LOOK_UP, table.name, table.schema, list(table.search_path) or None
        )
        rows = await connection.fetch(f"SELECT version_num FROM {name}") if name else []
        found[str(table)] = tuple(sorted(row["version_num"] for row in rows))
    return found


async def version_table_candidates(connection: "asyncpg.Connection") -> tuple[VersionTable, ...]:
    """Return every table of the connection's database that may be Alembic's, sorted."""
    rows = await connection.fetch(_CANDIDATES)
    return tuple(VersionTable(name=row["name"], schema=row["schema"]) for row in rows)


async def comment_of(connection: "asyncpg.Connection", name: str) -> str:
    """Return a database's comment, or an empty text."""
    comment = await connection.fetchval(
        "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = $1", name
    )
    return comment or ""


async def comments(connection: "asyncpg.Connection") -> dict[str, str]:
    """Return the comment of every database on a server, by its name."""
    return dict(await connection.fetch(COMMENTS))


# One that is told without a schema is where the search path finds it first.
_LOOK_UP = """\
SELECT format('%I.%I', n.nspname, c.relname)
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relname = $1 AND c.relkind IN ('r', 'p', 'v', 'f')
  AND CASE WHEN $2::text IS NOT NULL THEN n.nspname = $2
           ELSE n.nspname = ANY (coalesce($3::text[], current_schemas(true)::text[])) END
ORDER BY array_position(coalesce($3::text[], current_schemas(true)::text[]), n.nspname::text)
LIMIT 1
"""

_CANDIDATES = """\
SELECT n.nspname AS schema, c.relname AS name
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attname = 'version_num' AND NOT attisdropped
WHERE c.relkind IN ('r', 'p') AND a.atttypid IN ('varchar'::regtype, 'text'::regtype)
  AND n.nspname NOT LIKE 'pg\\_%'
ORDER BY 1, 2
"""
