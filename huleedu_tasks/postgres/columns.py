"""Reads which tables and columns a database has, and how many rows are in them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from huleedu_tasks.postgres.connections import answering
from huleedu_tasks.postgres.databases import quoted

if TYPE_CHECKING:
    import asyncpg


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Table:
    """A table or a materialized view."""

    schema: str
    name: str

    def __str__(self) -> str:
        return self.name if self.schema == "public" else f"{self.schema}.{self.name}"

    @property
    def quoted(self) -> str:
        """Its name in SQL."""
        return f"{quoted(self.schema)}.{quoted(self.name)}"


# The names of the columns of each table.
Columns = Mapping[Table, frozenset[str]]


async def read_columns(connection: "asyncpg.Connection") -> Columns:
    """Return the columns of every table that is not PostgreSQL's own or an extension's.

    Raises:
        ServerError: If the database does not answer.
    """
    async with answering():
        rows = await connection.fetch(_COLUMNS)
    return {
        Table(schema=row["schema"], name=row["name"]): frozenset(row["columns"]) for row in rows
    }


async def count_rows(connection: "asyncpg.Connection", table: Table, column: str = "") -> int:
    """Count the rows of a table.

    Args:
        column: Count only rows with a value in this column; an empty string for all rows.

    Returns:
        The number of rows; 0 if the table does not exist.

    Raises:
        ServerError: If the database does not answer.
    """
    counted = f"count({quoted(column)})" if column else "count(*)"
    async with answering():
        if not await connection.fetchval("SELECT to_regclass($1)", table.quoted):
            return 0
        count: int = await connection.fetchval(f"SELECT {counted} FROM {table.quoted}")
    return count


# Partitions are counted with their partitioned table.
_COLUMNS = """\
SELECT n.nspname AS schema, c.relname AS name,
       array(SELECT attname::text FROM pg_attribute
             WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped) AS columns
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'm') AND NOT c.relispartition AND c.oid >= 16384
  AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'
  AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = c.oid
                  AND classid = 'pg_class'::regclass AND deptype = 'e')
"""
