"""Reads the revisions that Alembic recorded in a database."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from huleedu_tasks.errors import ServerError
from huleedu_tasks.postgres.connections import answering
from huleedu_tasks.postgres.databases import (
    VersionTable,
    current_revisions,
    quoted,
    version_table_candidates,
)

if TYPE_CHECKING:
    import asyncpg

_OWNERS = """\
SELECT DISTINCT pg_get_userbyid(relowner)::text FROM pg_class
WHERE relname = ANY ($1::text[]) AND relkind IN ('r', 'p', 'v') AND pg_has_role(relowner, 'MEMBER')
"""


async def read_revisions(
    connection: "asyncpg.Connection", tables: Sequence[VersionTable] | None
) -> dict[str, tuple[str, ...]]:
    """Return the revisions that Alembic recorded; a lock is waited for 1 s at most.

    Args:
        tables: The version tables that `env.py` configures; None if they are not known.

    Returns:
        The revisions in each version table, by its name; an empty dictionary if none exists.

    Raises:
        ServerError: If a table is locked, the role may not read it, or several tables may be the
            version table.
    """
    import asyncpg

    try:
        async with answering():
            if tables is None:
                async with _reading(connection):
                    tables = await _only_candidate(connection)
            return await _read_tables(connection, tables)
    except ServerError as error:
        if isinstance(error.__cause__, asyncpg.LockNotAvailableError):
            raise ServerError(
                "its revision could not be read: alembic_version is locked",
                code="version-table-locked",
                hint="Wait until the migration that locks it ends.",
            ) from None
        if isinstance(error.__cause__, asyncpg.InsufficientPrivilegeError):
            raise ServerError(
                f"its revision could not be read: {error.__cause__}",
                code="version-table-unreadable",
                hint="Run GRANT USAGE on the schema and GRANT SELECT on the table to the role.",
            ) from None
        raise


async def _read_tables(
    connection: "asyncpg.Connection", tables: Sequence[VersionTable]
) -> dict[str, tuple[str, ...]]:
    """Read version tables; if the login role may not, as their owner, as `env.py` may do."""
    import asyncpg

    try:
        async with _reading(connection):
            return await current_revisions(connection, tables)
    except asyncpg.InsufficientPrivilegeError:
        async with _reading(connection):
            owners = await connection.fetch(_OWNERS, [table.name for table in tables])
            if len(owners) != 1:
                raise
            (owner,) = owners[0]
            await connection.execute(f"SET LOCAL ROLE {quoted(owner)}")
            return await current_revisions(connection, tables)


@asynccontextmanager
async def _reading(connection: "asyncpg.Connection") -> AsyncIterator[None]:
    """Read in one transaction, in which a lock is waited for 1 s at most."""
    async with connection.transaction(readonly=True):
        await connection.execute("SET LOCAL lock_timeout = '1s'")
        yield


async def _only_candidate(connection: "asyncpg.Connection") -> tuple[VersionTable, ...]:
    found = await version_table_candidates(connection)
    if len(found) > 1:
        raise ServerError(
            f"Several tables may be Alembic's version table: {', '.join(map(str, found))}.",
            code="version-table-unknown",
            hint="Correct env.py so that `alembic current` succeeds; then env.py is asked for the "
            "table.",
        )
    return found
