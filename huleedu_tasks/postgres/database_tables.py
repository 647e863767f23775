"""Reads which tables and columns a database has, and how many rows are in them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from huleedu_tasks.postgres.connections import answering
from huleedu_tasks.postgres.databases import quoted

if TYPE_CHECKING:
    import asyncpg


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table or a materialized view.

    Attributes:
        columns: The names of its columns by their number, which a rename does not change.
    """

    schema: str
    name: str
    columns: Mapping[int, str]

    def __str__(self) -> str:
        return self.name if self.schema == "public" else f"{self.schema}.{self.name}"

    @property
    def quoted(self) -> str:
        """Its name in SQL."""
        return f"{quoted(self.schema)}.{quoted(self.name)}"


async def read_tables(connection: "asyncpg.Connection") -> Mapping[int, Table]:
    """Return every table that is not PostgreSQL's own or an extension's, by its OID.

    Raises:
        ServerError: If the database does not answer.
    """
    async with answering():
        rows = await connection.fetch(_TABLES)
    return {
        row["oid"]: Table(
            schema=row["schema"],
            name=row["name"],
            columns=dict(zip(row["numbers"], row["columns"], strict=True)),
        )
        for row in rows
    }


async def digest_rows(connection: "asyncpg.Connection") -> Mapping[str, str]:
    """Return a digest of all rows of each table, by the table's name.

    Raises:
        ServerError: If the database does not answer.
    """
    found = {}
    async with answering(timeout=None):
        for oid, table in (await read_tables(connection)).items():
            # A materialized view that was not populated cannot be read.
            if not await connection.fetchval(_IS_POPULATED, oid):
                continue
            found[str(table)] = await connection.fetchval(
                "SELECT md5(coalesce(string_agg(md5(t::text), '' ORDER BY md5(t::text)), ''))"
                f" FROM {table.quoted} AS t"
            )
    return found


async def count_rows(connection: "asyncpg.Connection", table: Table, column: str = "") -> int:
    """Count the rows of a table by its name.

    Args:
        column: Count only rows with a value in this column; an empty string for all rows.

    Returns:
        The number of rows; 0 if the table or the column does not exist.

    Raises:
        ServerError: If the database does not answer.
    """
    counted = f"count({quoted(column)})" if column else "count(*)"
    async with answering():
        if not await connection.fetchval(_EXISTS, table.quoted, column):
            return 0
        count: int = await connection.fetchval(f"SELECT {counted} FROM {table.quoted}")
    return count


_IS_POPULATED = "SELECT relispopulated FROM pg_class WHERE oid = $1"

_EXISTS = """\
SELECT EXISTS (SELECT FROM pg_class AS c WHERE oid = to_regclass($1)
               AND ($2 = '' OR EXISTS (SELECT FROM pg_attribute WHERE attrelid = c.oid
                                       AND attname = $2 AND attnum > 0 AND NOT attisdropped)))
"""

# Partitions are counted with their partitioned table.
_TABLES = """\
SELECT c.oid, n.nspname AS schema, c.relname AS name,
       array(SELECT attnum::int FROM pg_attribute WHERE attrelid = c.oid
             AND attnum > 0 AND NOT attisdropped ORDER BY attnum) AS numbers,
       array(SELECT attname::text FROM pg_attribute WHERE attrelid = c.oid
             AND attnum > 0 AND NOT attisdropped ORDER BY attnum) AS columns
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'm') AND NOT c.relispartition AND c.oid >= 16384
  AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'
  AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = c.oid
                  AND classid = 'pg_class'::regclass AND deptype = 'e')
"""
