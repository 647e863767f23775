"""Upgrades and downgrades of this repository's services with Alembic's command line."""

import asyncio
import os
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.monorepo import PROJECT, Monorepo, clean_environment
from tests.support.postgres import Row, fetch

NAMES = sorted(path.parent.name for path in (PROJECT / "services").glob("*/alembic.ini"))
SCRATCH = "huleedu_there_and_back"

# Whatever a service may have made, by name; an extension's own things belong to the extension.
OBJECTS = """
SELECT 'relation', relname::text, relkind::text FROM pg_class
 WHERE relnamespace NOT IN (SELECT oid FROM pg_namespace WHERE nspname ~ '^pg_|^information_')
UNION ALL
SELECT 'type', typname, typtype::text FROM pg_type
 WHERE typnamespace = 'public'::regnamespace AND typtype IN ('e', 'd', 'r')
UNION ALL
SELECT 'routine', proname, prokind::text FROM pg_proc p
 WHERE pronamespace = 'public'::regnamespace
   AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = p.oid AND d.deptype = 'e')
UNION ALL
SELECT 'schema', nspname, '' FROM pg_namespace WHERE nspname !~ '^pg_|^information_'
ORDER BY 1, 2, 3
"""
# Everything Alembic can compare, and more: columns with their types, defaults and order.
SCHEMA = """
SELECT table_name, column_name, ordinal_position, data_type, udt_name, is_nullable, column_default
  FROM information_schema.columns WHERE table_schema = 'public'
UNION ALL
SELECT conrelid::regclass::text, conname, 0, contype::text, pg_get_constraintdef(oid), '', ''
  FROM pg_constraint WHERE connamespace = 'public'::regnamespace
UNION ALL
SELECT tablename, indexname, 0, '', indexdef, '', '' FROM pg_indexes WHERE schemaname = 'public'
ORDER BY 1, 2, 3, 4, 5
"""
# All commands in one process, because it takes longest to start it.
COMMANDS = """\
import sys
from alembic.config import main

for command in sys.stdin:
    main(command.split())
    print(flush=True)
    print("{done}", flush=True)
"""
DONE = "-- done --"
EMPTY = [
    ("relation", "alembic_version", "r"),
    ("relation", "alembic_version_pkc", "i"),
    ("schema", "public", ""),
]


@dataclass
class Journey:
    """What a service's database looked like on the way, and what Alembic said."""

    checked: str
    at_head: list[Row]
    at_base: list[Row]
    at_head_again: list[Row]


@pytest.fixture(scope="module")
def journeys(huleedu: Monorepo) -> dict[str, Journey]:
    """Send all services there and back at once: most of the time is Alembic's start."""

    async def travel_all() -> dict[str, Journey]:
        slots = asyncio.Semaphore(os.cpu_count() or 1)
        entries = huleedu.services
        found = await asyncio.gather(*(travel(huleedu, entry, slots) for entry in entries))
        return {directory_of(entry): journey for entry, journey in zip(entries, found, strict=True)}

    return asyncio.run(travel_all())


def directory_of(entry: dict[str, Any]) -> str:
    return Path(entry.get("directory", f"services/{entry['name']}_service")).name


async def travel(huleedu: Monorepo, entry: dict[str, Any], slots: asyncio.Semaphore) -> Journey:
    name = entry["name"]
    directory = huleedu.path(f"services/{directory_of(entry)}")
    async with slots, scratch_copy(huleedu, name) as url:
        override = {f"{directory.name.upper()}_DATABASE_URL": url.replace("://", "+asyncpg://")}
        async with started(directory, override) as process:
            at_head = await fetch(url, SCHEMA)
            checked = await alembic(process, "check")
            await alembic(process, "downgrade base")
            at_base = await fetch(url, OBJECTS)
            await alembic(process, "upgrade head")
            at_head_again = await fetch(url, SCHEMA)
        return Journey(checked, at_head, at_base, at_head_again)


@asynccontextmanager
async def scratch_copy(huleedu: Monorepo, name: str) -> AsyncIterator[str]:
    """Copy a service's database, so that other tests find theirs as it was."""
    maintenance = huleedu.url(name, database="postgres")
    await fetch(maintenance, f"CREATE DATABASE {SCRATCH} TEMPLATE huleedu_{name}")
    yield huleedu.url(name, database=SCRATCH)
    await fetch(maintenance, f"DROP DATABASE {SCRATCH}")


@asynccontextmanager
async def started(directory: Path, override: dict[str, str]) -> AsyncIterator[Process]:
    """Start Alembic's command line, as a developer in the service's directory."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-Pc",
        COMMANDS.format(done=DONE),
        cwd=directory,
        env=clean_environment() | override,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    yield process
    await process.communicate()
    assert process.returncode == 0


async def alembic(process: Process, command: str) -> str:
    """Run a command of Alembic's command line to its end."""
    assert process.stdin
    assert process.stdout
    process.stdin.write(f"{command}\n".encode())
    out = ""
    while not out.endswith(f"{DONE}\n"):
        line = (await process.stdout.readline()).decode()
        assert line, f"alembic {command}\n{out}"
        out += line
    return out


def test_every_service_is_in_the_registry(huleedu: Monorepo) -> None:
    assert sorted(map(directory_of, huleedu.services)) == NAMES
    assert len(NAMES) == 8


@pytest.mark.parametrize("name", NAMES)
def test_the_migrations_create_the_tables_of_the_models(
    journeys: dict[str, Journey], name: str
) -> None:
    assert "No new upgrade operations detected" in journeys[name].checked


@pytest.mark.parametrize("name", NAMES)
def test_a_downgrade_to_base_drops_all_objects(journeys: dict[str, Journey], name: str) -> None:
    assert journeys[name].at_base == EMPTY


@pytest.mark.parametrize("name", NAMES)
def test_an_upgrade_after_a_downgrade_creates_the_same_objects(
    journeys: dict[str, Journey], name: str
) -> None:
    assert journeys[name].at_head
    assert journeys[name].at_head_again == journeys[name].at_head
