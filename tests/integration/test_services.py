"""This repository's own services: upgrades and downgrades with Alembic, and seeds."""

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
from tests.support.postgres import Row, ask, fetch

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
    # Its input ends with this.
    await process.communicate(b"")
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


# Their seeds.


def checksums(monorepo: Monorepo) -> dict[str, list[Any]]:
    """Return what every row of every table looks like, and which transaction wrote it."""
    tables = (
        "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
    )
    found = {}
    for entry in monorepo.services:
        url = monorepo.url(entry["name"])
        names = sorted(name for (name,) in ask(url, tables))
        rows = " UNION ALL ".join(
            f"SELECT '{name}', count(*), md5(string_agg(xmin || ' ' || t, '|' ORDER BY ctid))"
            f' FROM "{name}" t'
            for name in names
        )
        found[entry["name"]] = ask(url, rows)
    return found


def test_a_second_seed_changes_no_row_of_any_database(huleedu: Monorepo) -> None:
    before = checksums(huleedu)
    assert len(before) == 8
    assert all(sum(count for _, count, _ in tables) > 12 for tables in before.values())
    ran = huleedu.invoke("db.seed", "--json")
    assert ran.code == 0, ran.err
    assert set(ran.statuses.values()) == {"OK"}
    assert checksums(huleedu) == before


@pytest.mark.parametrize(
    "tellings",
    [
        {
            "essay_lifecycle": "SELECT id FROM essays",
            "batch_orchestrator": "SELECT essay_id FROM batch_essays",
            "class_management": "SELECT essay_id FROM essay_authors",
            "spellchecker": "SELECT essay_id FROM spellcheck_jobs",
            "nlp": "SELECT essay_id FROM text_statistics",
            "cj_assessment": "SELECT essay_id FROM judged_essays WHERE anchor_grade IS NULL",
            "result_aggregator": "SELECT essay_id FROM essay_results",
        },
        {
            "batch_orchestrator": "SELECT id FROM batches",
            "essay_lifecycle": "SELECT batch_id FROM essay_batches",
            "file_service": "SELECT DISTINCT batch_id FROM file_uploads",
            "nlp": "SELECT DISTINCT batch_id FROM analysis_jobs",
            "spellchecker": "SELECT DISTINCT batch_id FROM spellcheck_jobs",
            "cj_assessment": "SELECT batch_id FROM judged_batches",
            "result_aggregator": "SELECT batch_id FROM batch_results",
        },
        {
            "class_management": "SELECT id, teacher_id FROM classes",
            "batch_orchestrator": "SELECT class_id, owner_id FROM batches",
            "result_aggregator": "SELECT class_id, owner_id FROM batch_results",
        },
        {
            "class_management": "SELECT essay_id, student_id FROM essay_authors",
            "nlp": "SELECT essay_id, student_id FROM student_matches WHERE rank = 1",
            "result_aggregator": "SELECT essay_id, student_id FROM essay_results",
        },
        {
            "essay_lifecycle": "SELECT file_id FROM essays",
            "file_service": "SELECT file_id FROM extracted_texts",
        },
        {
            "essay_lifecycle": "SELECT storage_id FROM essay_texts WHERE kind = 'original'",
            "file_service": "SELECT storage_id FROM extracted_texts",
        },
        {
            "spellchecker": "SELECT essay_id, words FROM spellcheck_jobs",
            "nlp": "SELECT essay_id, words FROM text_statistics",
            "result_aggregator": "SELECT essay_id, words FROM essay_results",
        },
        {
            "spellchecker": "SELECT essay_id, count(*) FROM spellcheck_jobs j"
            " JOIN corrections c ON c.job_id = j.id GROUP BY essay_id",
            "result_aggregator": "SELECT essay_id, spelling_corrections FROM essay_results",
        },
        {
            "cj_assessment": "SELECT essay_id, rank, grade FROM judged_essays"
            " JOIN grade_projections USING (essay_id)",
            "result_aggregator": "SELECT essay_id, cj_rank, projected_grade FROM essay_results",
        },
    ],
    ids=["essays", "batch", "class", "authors", "files", "texts", "words", "corrections", "grades"],
)
def test_all_services_tell_the_same_story(huleedu: Monorepo, tellings: dict[str, str]) -> None:
    first, *others = (sorted(ask(huleedu.url(name), sql)) for name, sql in tellings.items())
    assert first
    assert all(other == first for other in others)


def test_nobody_is_judged_who_is_not_in_the_class(huleedu: Monorepo) -> None:
    students = set(ask(huleedu.url("class_management"), "SELECT id FROM students"))
    assert set(ask(huleedu.url("nlp"), "SELECT student_id FROM student_matches")) < students
