"""What a database tells about itself and its server, read without changing anything.

Everything is asked in one read-only transaction: a role that may only read can ask it, and a
pooler keeps us on one server meanwhile.
"""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from huleedu_tasks.errors import ServerError
from huleedu_tasks.postgres.connections import answering
from huleedu_tasks.postgres.databases import (
    VersionTable,
    comment_of,
    current_revisions,
    quoted,
    version_table_candidates,
)

if TYPE_CHECKING:
    import asyncpg


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """Somebody else's session, or a prepared transaction, that holds locks.

    Attributes:
        who: User, application and address, as far as they are shown.
        seconds: How long its transaction has been open.
        prepared: The name of a prepared transaction, which no session will end.
    """

    pid: int | None
    who: str
    seconds: float
    prepared: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Which database of which server this is, whatever name or pooler has led to it.

    Attributes:
        system_identifier: Made by initdb, and shared by copies; None where the role may not ask.
        started: When the server was started, which copies do not share.
        database_oid: The database's number there.
    """

    system_identifier: int | None
    started: str
    database_oid: int

    @property
    def place(self) -> tuple[str, int]:
        """What any role can read, and tells this database from every other one that runs."""
        return self.started, self.database_oid


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """A table, a view, an index or a sequence.

    Attributes:
        rows: How many it has, as the planner estimates; None if it was never counted.
        size: In bytes, with all its partitions.
    """

    name: str
    rows: int | None
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """A database and its server at one moment.

    Attributes:
        through_pooler: Whether something between us and the server hands out its sessions.
        schema: Where tables are made if nothing else is said; empty if nowhere.
        may_create: Whether the role may create tables there.
        not_owned: Tables that belong to a role this one is no member of.
        extensions_missing: Those asked about that are neither installed nor to be had.
        extensions_forbidden: Those that can be had, but not created by this role.
        hidden_sessions: How many sessions do not show this role what they do.
        free_connections: How many more the role can open.
        may_mark: Whether the role may comment on the database, which its owner may.
    """

    identity: Identity
    version: int
    encrypted: bool
    in_recovery: bool
    read_only: bool
    through_pooler: bool
    schema: str
    may_create: bool
    not_owned: tuple[str, ...]
    extensions_missing: tuple[str, ...]
    extensions_forbidden: tuple[str, ...]
    invalid_indexes: tuple[str, ...]
    old_sessions: tuple[Session, ...]
    hidden_sessions: int
    free_connections: int
    comment: str
    may_tag: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnRelation:
    """A relation, as far as a role has rights on it.

    Attributes:
        shown: Its name with its schema, quoted where that is needed.
        is_owned: Whether the role has the rights of its owner.
        is_schema_owned: Whether it has those of its schema's owner.
        may_insert: Whether the role may add rows.
        may_update: Whether it may change rows.
    """

    shown: str
    is_owned: bool
    is_schema_owned: bool
    may_insert: bool
    may_update: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Rights:
    """What a role may do in some schemas of a database.

    Attributes:
        search_path: Where names without a schema are looked for, in order.
        may_create_in: Whether it may create something, by schema; no schema that is missing.
        relations: The relations in these schemas, by schema and name.
    """

    role: str
    database: str
    search_path: tuple[str, ...]
    may_create_in: Mapping[str, bool]
    may_create_schemas: bool
    relations: Mapping[tuple[str, str], OwnRelation]

    def relation(self, schema: str, name: str) -> OwnRelation | None:
        """Return a relation, or None if there is none.

        Args:
            schema: Its schema; empty for the first of the search path that has one of this name.
        """
        places = ((place, name) for place in ((schema,) if schema else self.search_path))
        return next((self.relations[p] for p in places if p in self.relations), None)


async def inspect(
    connection: "asyncpg.Connection", *, extensions: Collection[str], old_after: float
) -> Facts:
    """Ask a database about itself.

    Args:
        extensions: Those the service needs.
        old_after: From how many seconds on an open transaction counts.

    Raises:
        ServerError: If it does not answer to the end.
    """
    async with _answering(connection):
        return await _facts(connection, extensions, old_after)


async def identify(connection: "asyncpg.Connection") -> Identity:
    """Ask a database which one it is.

    Raises:
        ServerError: If it does not answer.
    """
    async with _answering(connection):
        return await _identity(connection)


async def read_relations(connection: "asyncpg.Connection") -> dict[str, Relation]:
    """Return the relations of a database by their names, with the schema and without.

    Without it, a name leads to the one the search path finds.

    Raises:
        ServerError: If it does not answer, or if one is locked by somebody who changes it.
    """
    async with _answering(connection):
        await connection.execute("SET LOCAL lock_timeout = '1s'")
        rows = await connection.fetch(_RELATIONS)
    found = {}
    for row in rows:
        counted = None if row["rows"] < 0 else int(row["rows"])
        relation = Relation(name=row["name"], rows=counted, size=row["size"])
        found[f"{row['schema']}.{row['name']}"] = relation
        if row["visible"]:
            found[row["name"]] = relation
    return found


async def read_rights(
    connection: "asyncpg.Connection",
    *,
    role: str,
    search_path: Sequence[str],
    schemas: Collection[str],
) -> Rights:
    """Ask a database what a role may do.

    Args:
        role: Empty for that of the connection.
        search_path: As the session of that role has it.
        schemas: Further schemas that are asked about.

    Raises:
        ServerError: If it does not answer.
    """
    async with _answering(connection):
        role = role or await connection.fetchval("SELECT current_user::text")
        places = list({*search_path, *schemas})
        database, may_create_schemas = await connection.fetchrow(_DATABASE_RIGHTS, role)
        created = await connection.fetch(_SCHEMA_RIGHTS, role, places)
        relations = await connection.fetch(_RELATION_RIGHTS, role, places)
    return Rights(
        role=role,
        database=database,
        search_path=tuple(search_path),
        may_create_in=dict(created),
        may_create_schemas=may_create_schemas,
        relations={
            (row["schema"], row["name"]): OwnRelation(
                shown=row["shown"],
                is_owned=row["owned"],
                is_schema_owned=row["schema_owned"],
                may_insert=row["may_insert"],
                may_update=row["may_update"],
            )
            for row in relations
        },
    )


async def read_search_path(connection: "asyncpg.Connection") -> tuple[str, ...]:
    """Return the schemas in which a connection looks for names, in order.

    Raises:
        ServerError: If the database does not answer.
    """
    async with _answering(connection):
        return tuple(await connection.fetchval("SELECT current_schemas(false)::text[]"))


@asynccontextmanager
async def _answering(connection: "asyncpg.Connection") -> AsyncIterator[None]:
    """Ask in one read-only transaction, and not for ever."""
    async with answering(), connection.transaction(readonly=True):
        yield


async def read_revisions(
    connection: "asyncpg.Connection", tables: Sequence[VersionTable] | None
) -> dict[str, tuple[str, ...]]:
    """Return the revisions Alembic has recorded, without waiting for a session that changes them.

    Args:
        tables: The version tables that `env.py` configures; None if that is not known.

    Returns:
        The revisions in each version table, by its name; an empty dictionary if there is none.

    Raises:
        ServerError: If they are locked, the role may not read them, or several tables may be the
            one that is meant.
    """
    import asyncpg

    try:
        async with answering(), connection.transaction(readonly=True):
            await connection.execute("SET LOCAL lock_timeout = '1s'")
            if tables is None:
                tables = await _only_candidate(connection)
            return await _read_tables(connection, tables)
    except ServerError as error:
        if isinstance(error.__cause__, asyncpg.LockNotAvailableError):
            raise ServerError(
                "its revision cannot be read: alembic_version is locked",
                code="version-table-locked",
                hint="A migration runs at this moment: wait for it to end.",
            ) from None
        if isinstance(error.__cause__, asyncpg.InsufficientPrivilegeError):
            raise ServerError(
                f"its revision cannot be read: {error.__cause__}",
                code="version-table-unreadable",
                hint="GRANT USAGE on the schema and SELECT on the table to the role.",
            ) from None
        raise


async def _read_tables(
    connection: "asyncpg.Connection", tables: Sequence[VersionTable]
) -> dict[str, tuple[str, ...]]:
    """Read version tables, as their owner where the login itself may not but `env.py` may."""
    import asyncpg

    try:
        async with connection.transaction():
            return await current_revisions(connection, tables)
    except asyncpg.InsufficientPrivilegeError:
        owners = await connection.fetch(_OWNERS, [table.name for table in tables])
        if len(owners) != 1:
            raise
        (owner,) = owners[0]
        await connection.execute(f"SET LOCAL ROLE {quoted(owner)}")
        return await current_revisions(connection, tables)


async def _only_candidate(connection: "asyncpg.Connection") -> tuple[VersionTable, ...]:
    found = await version_table_candidates(connection)
    if len(found) > 1:
        raise ServerError(
            f"Which version table env.py uses is not known: {', '.join(map(str, found))}.",
            code="version-table-unknown",
            hint="Correct env.py so that `alembic current` works; then Alembic itself says which "
            "it is.",
        )
    return found


async def _facts(
    connection: "asyncpg.Connection", extensions: Collection[str], old_after: float
) -> Facts:
    row = dict(await connection.fetchrow(_ONE_ROW))
    pid = row.pop("pid")
    if row["encrypted"] is None:
        row["encrypted"] = await _is_encrypted(connection)
    comment = await comment_of(connection, row.pop("database"))
    available = dict(await connection.fetch(_EXTENSIONS, list(extensions)))
    sessions: list[Any] = await connection.fetch(_OLD_SESSIONS, old_after)
    return Facts(
        **row,
        identity=await _identity(connection),
        # A pooler makes up the number it tells the driver (PgBouncer, "fake" keys).
        through_pooler=pid != connection.get_server_pid(),
        not_owned=await _names(connection, _NOT_OWNED),
        extensions_missing=tuple(name for name in extensions if name not in available),
        extensions_forbidden=tuple(name for name, creatable in available.items() if not creatable),
        invalid_indexes=await _names(connection, _INVALID_INDEXES),
        old_sessions=tuple(Session(**session) for session in sessions),
        comment=comment,
    )


async def _identity(connection: "asyncpg.Connection") -> Identity:
    row = await connection.fetchrow(_IDENTITY)
    return Identity(system_identifier=await _system_identifier(connection), **row)


async def _system_identifier(connection: "asyncpg.Connection") -> int | None:
    import asyncpg

    try:
        async with connection.transaction():
            number: int = await connection.fetchval(
                "SELECT system_identifier FROM pg_control_system()"
            )
    except asyncpg.InsufficientPrivilegeError:
        return None
    return number % 2**64


async def _is_encrypted(connection: "asyncpg.Connection") -> bool:
    """Ask as the login: another role that is set for it does not see its sessions."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute("SET LOCAL ROLE NONE")
        return bool(
            await connection.fetchval("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
        )
    finally:
        await transaction.rollback()


async def _names(connection: "asyncpg.Connection", query: str) -> tuple[str, ...]:
    return tuple(row[0] for row in await connection.fetch(query))


_IDENTITY = """\
SELECT extract(epoch FROM pg_postmaster_start_time())::text AS started, oid AS database_oid
FROM pg_database WHERE datname = current_database()
"""

# Only a member of pg_read_all_stats sees what other roles' sessions do, or of what kind they are.
_ONE_ROW = """\
WITH other AS (
    SELECT datname, usename, backend_type FROM pg_stat_activity
    WHERE datid IS NOT NULL AND coalesce(backend_type, 'client backend') = 'client backend'
      AND application_name <> current_setting('application_name')
)
SELECT d.datname AS database,
       current_setting('server_version_num')::int / 10000 AS version,
       (SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()) AS encrypted,
       pg_is_in_recovery() AS in_recovery,
       current_setting('default_transaction_read_only')::bool AS read_only,
       pg_backend_pid() AS pid,
       pg_has_role(d.datdba, 'USAGE') AS may_mark,
       coalesce(current_schema(), '') AS schema,
       coalesce(has_schema_privilege(current_schema(), 'CREATE'), false) AS may_create,
       (SELECT count(*) FROM other WHERE datname = d.datname AND backend_type IS NULL)::int
           AS hidden_sessions,
       least(
           current_setting('max_connections')::int
               - current_setting('superuser_reserved_connections')::int
               - coalesce(current_setting('reserved_connections', true)::int, 0)
               - (SELECT count(*) FROM other),
           nullif(d.datconnlimit, -1) - (SELECT count(*) FROM other WHERE datname = d.datname),
           (SELECT nullif(rolconnlimit, -1) - (SELECT count(*) FROM other WHERE usename = rolname)
            FROM pg_roles WHERE rolname = session_user)
       )::int AS free_connections
FROM pg_database AS d
WHERE d.datname = current_database()
"""

# Managed servers let roles of their own create what else only a superuser may.
_EXTENSIONS = """\
SELECT name,
       bool_or(installed_version IS NOT NULL OR EXISTS (
           SELECT FROM pg_roles WHERE pg_has_role(oid, 'USAGE')
           AND (rolsuper OR rolname IN ('rds_superuser', 'cloudsqlsuperuser', 'azure_pg_admin'))
       ) OR (version.trusted AND has_database_privilege(current_database(), 'CREATE')))
FROM pg_available_extensions
JOIN pg_available_extension_versions AS version USING (name)
WHERE name = ANY ($1::text[])
GROUP BY name
"""

# Where migrations may work: on the search path, and wherever else the role may create tables.
_NOT_OWNED = """\
SELECT format('%I.%I', n.nspname, c.relname)
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S')
  AND (n.nspname = ANY (current_schemas(false)) OR has_schema_privilege(n.oid, 'CREATE'))
  AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\\_%'
  AND NOT pg_has_role(c.relowner, 'USAGE')
  AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.objid = c.oid AND d.deptype = 'e')
ORDER BY 1
"""

_OWNERS = """\
SELECT DISTINCT pg_get_userbyid(relowner)::text FROM pg_class
WHERE relname = ANY ($1::text[]) AND relkind IN ('r', 'p', 'v') AND pg_has_role(relowner, 'MEMBER')
"""

_DATABASE_RIGHTS = """\
SELECT current_database()::text,
       has_database_privilege($1::text::name, current_database()::text, 'CREATE')
"""

_SCHEMA_RIGHTS = """\
SELECT nspname::text, has_schema_privilege($1::text::name, oid, 'CREATE')
       AND has_schema_privilege($1::text::name, oid, 'USAGE')
FROM pg_namespace WHERE nspname = ANY ($2::text[])
"""

_RELATION_RIGHTS = """\
SELECT n.nspname::text AS schema, c.relname::text AS name,
       format('%I.%I', n.nspname, c.relname) AS shown,
       pg_has_role($1::text::name, c.relowner, 'USAGE') AS owned,
       pg_has_role($1::text::name, n.nspowner, 'USAGE') AS schema_owned,
       has_table_privilege($1::text::name, c.oid, 'INSERT') AS may_insert,
       has_table_privilege($1::text::name, c.oid, 'UPDATE') AS may_update
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = ANY ($2::text[]) AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'i', 'I', 'f')
"""

_RELATIONS = """\
SELECT n.nspname AS schema, c.relname AS name, c.reltuples AS rows,
       pg_table_is_visible(c.oid) AS visible,
       CASE c.relkind
           WHEN 'p' THEN
               (SELECT coalesce(sum(pg_relation_size(relid)), 0) FROM pg_partition_tree(c.oid))
           ELSE pg_relation_size(c.oid)
       END::bigint AS size
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'i', 'I', 'S')
  AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\\_%'
"""

# One that is being built at this moment is invalid, too.
_INVALID_INDEXES = """\
SELECT indexrelid::regclass::text FROM pg_index
WHERE NOT indisvalid
  AND NOT EXISTS (SELECT FROM pg_stat_progress_create_index WHERE index_relid = indexrelid)
ORDER BY 1
"""

_OLD_SESSIONS = """\
SELECT pid, concat_ws(' ', usename, nullif(application_name, ''), host(client_addr)) AS who,
       extract(epoch FROM clock_timestamp() - xact_start)::float AS seconds, '' AS prepared
FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
  AND backend_type = 'client backend'
  AND clock_timestamp() - xact_start > make_interval(secs => $1)
UNION ALL
SELECT NULL, owner::text, extract(epoch FROM clock_timestamp() - prepared)::float, gid
FROM pg_prepared_xacts WHERE database = current_database()
ORDER BY seconds DESC
"""
