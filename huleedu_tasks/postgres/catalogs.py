"""Reads from the catalogs what a schema dump lacks: version tables, roles, and broken objects."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from huleedu_tasks.postgres.databases import VersionTable

if TYPE_CHECKING:
    import asyncpg


@dataclass(frozen=True, slots=True, kw_only=True)
class InvalidIndex:
    """An index that a failed `CREATE INDEX CONCURRENTLY` left; pg_dump omits it."""

    schema: str
    table: str
    name: str
    definition: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DisabledConstraint:
    """A constraint that `DISABLE TRIGGER ALL` disabled; pg_dump does not tell.

    Attributes:
        on: The qualified name of the table whose triggers are disabled.
    """

    schema: str
    table: str
    name: str
    on: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogFacts:
    """What the catalogs of one database state beside its schema dump.

    Attributes:
        major: The major version of the server.
        version_tables: The schemas and names of the version tables that exist.
        owner: The owner of the first version table, or of the database if it has none: the role
            that runs the migrations.
        roles: Every role that owns an object, or has a privilege, in it.
    """

    major: int
    version_tables: tuple[tuple[str, str], ...]
    owner: str
    roles: frozenset[str]
    invalid_indexes: tuple[InvalidIndex, ...]
    disabled_constraints: tuple[DisabledConstraint, ...]


async def read_catalog_facts(
    connection: "asyncpg.Connection", tables: Sequence[VersionTable]
) -> CatalogFacts:
    """Read the catalogs of the connection's database.

    Args:
        tables: The version tables that `env.py` configures, which need not exist.
    """
    found = [
        await connection.fetchrow(
            _VERSION_TABLE, table.name, table.schema, list(table.search_path) or None
        )
        for table in tables
    ]
    existing = [row for row in found if row]
    database = await connection.fetchrow(_DATABASE)
    roles = await connection.fetch(_ROLES)
    invalid = await connection.fetch(_INVALID_INDEXES)
    disabled = await connection.fetch(_DISABLED_CONSTRAINTS)
    return CatalogFacts(
        major=database["version"] // 10000,
        version_tables=tuple((row["schema"], row["name"]) for row in existing),
        owner=(existing or [database])[0]["owner"],
        roles=frozenset(row["rolname"] for row in roles),
        invalid_indexes=tuple(InvalidIndex(**dict(row)) for row in invalid),
        disabled_constraints=tuple(DisabledConstraint(**dict(row)) for row in disabled),
    )


async def unreadable_objects(connection: "asyncpg.Connection") -> list[tuple[str, str]]:
    """Return the privileges that a dump of the schema needs and the role does not have.

    Returns:
        Pairs of privilege and object, such as `USAGE` and `schema audit`, sorted.
    """
    rows = await connection.fetch(_UNREADABLE)
    return [(row["privilege"], row["object"]) for row in rows]


_DATABASE = """\
SELECT pg_get_userbyid(datdba) AS owner, current_setting('server_version_num')::int AS version
FROM pg_database WHERE datname = current_database()
"""

# The dependencies of the role that initdb created are not recorded.
_ROLES = """\
SELECT rolname FROM pg_roles WHERE oid = 10
UNION
SELECT r.rolname FROM pg_shdepend AS d JOIN pg_roles AS r ON r.oid = d.refobjid
WHERE d.refclassid = 'pg_authid'::regclass
  AND d.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
"""

# A table without a schema is the first one on the search path.
_VERSION_TABLE = """\
SELECT n.nspname AS schema, c.relname AS name, pg_get_userbyid(c.relowner) AS owner
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relname = $1 AND c.relkind IN ('r', 'p')
  AND CASE WHEN $2::text IS NOT NULL THEN n.nspname = $2
           ELSE n.nspname = ANY (coalesce($3::text[], current_schemas(true)::text[])) END
ORDER BY array_position(coalesce($3::text[], current_schemas(true)::text[]), n.nspname::text)
LIMIT 1
"""

# The condition of pg_dump (`getIndexes`), negated. A partitioned index is invalid until it has an
# index of each partition, and is dumped.
_INVALID_INDEXES = """\
SELECT n.nspname AS schema, t.relname AS table, i.relname AS name,
  pg_get_indexdef(i.oid) AS definition
FROM pg_index AS x
JOIN pg_class AS i ON i.oid = x.indexrelid
JOIN pg_class AS t ON t.oid = x.indrelid
JOIN pg_namespace AS n ON n.oid = i.relnamespace
WHERE NOT (x.indisready AND (x.indisvalid OR t.relkind = 'p'))
  AND n.nspname NOT LIKE 'pg\\_%'
ORDER BY 1, 3
"""

_DISABLED_CONSTRAINTS = """\
SELECT n.nspname AS schema, t.relname AS table, c.conname AS name,
  string_agg(DISTINCT g.tgrelid::regclass::text, ', ') AS on
FROM pg_trigger AS g
JOIN pg_constraint AS c ON c.oid = g.tgconstraint
JOIN pg_class AS t ON t.oid = c.conrelid
JOIN pg_namespace AS n ON n.oid = t.relnamespace
WHERE g.tgisinternal AND g.tgenabled = 'D'
GROUP BY 1, 2, 3
ORDER BY 1, 2, 3
"""

# pg_dump locks each table in ACCESS SHARE mode, for which PostgreSQL requires SELECT.
_UNREADABLE = """\
SELECT 'USAGE' AS privilege, format('schema %I', nspname) AS object
FROM pg_namespace
WHERE nspname NOT LIKE 'pg\\_%' AND nspname <> 'information_schema'
  AND NOT has_schema_privilege(oid, 'USAGE')
UNION ALL
SELECT 'SELECT', format('table %I.%I', n.nspname, c.relname)
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'f')
  AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'
  AND NOT has_table_privilege(c.oid, 'SELECT')
ORDER BY 1 DESC, 2
"""
