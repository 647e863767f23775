"""The least work of a warm reset: drop each database, and copy it from its template.

A script of its own, so that its time is that of a whole process. What to copy comes as JSON on
standard input, passwords and all.
"""

import asyncio
import json
import sys

import asyncpg


async def copy(database: str, template: str, login: dict[str, str]) -> None:
    """Replace one database by a copy of its template."""
    connection = await asyncpg.connect(database="postgres", **login)
    await connection.execute(f'DROP DATABASE IF EXISTS "{database}" WITH (FORCE)')
    await connection.execute(f'CREATE DATABASE "{database}" TEMPLATE "{template}"')
    await connection.close()


async def main() -> None:
    """Replace all databases that standard input lists."""
    await asyncio.gather(*(copy(**database) for database in json.load(sys.stdin)))


if __name__ == "__main__":
    asyncio.run(main())
