"""Drift: every change to a schema is found and named, and nothing else is reported."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from huleedu_tasks.config.urls import parse_url
from huleedu_tasks.guard import Guard
from huleedu_tasks.postgres.catalog_state import read_catalog_state
from huleedu_tasks.schema.dump import dump, reloaded
from huleedu_tasks.schema.throwaway_servers import RunningServer, ThrowawayServer
from huleedu_tasks.servers.existing import ExistingServers
from tests.support.alembic_bench import SERVER, Bench
from tests.support.drift_corpus import (
    MUTATIONS,
    OF_VERSION_TABLE,
    SAME,
    Corpus,
    new_corpus,
    run_script,
)
from tests.support.monorepo import clean_environment
from tests.support.postgres import connect, fetch
from tests.support.values import service, settings


@pytest.fixture(scope="module")
def corpus(bench: Bench) -> Corpus:
    url = parse_url(bench.monorepo.url(SERVER, database="history"), variable="URL")
    return asyncio.run(new_corpus(url))


@pytest.mark.parametrize("name", MUTATIONS)
async def test_a_mutation_is_found_and_named(corpus: Corpus, name: str) -> None:
    script, *expected = MUTATIONS[name]
    found = await corpus.differences(script)
    assert sorted(map(str, found)) == sorted(expected)


async def test_every_mutation_changes_the_state_of_the_catalogs(corpus: Corpus) -> None:
    async with corpus.mutated("SELECT 1", "states") as url:
        opened = await connect(url.plain.reveal())
        before = await read_catalog_state(opened)
        unnoticed = []
        for name, (script, *_) in MUTATIONS.items():
            transaction = opened.transaction()
            await transaction.start()
            await opened.execute(script)
            if await read_catalog_state(opened) == before:
                unnoticed.append(name)
            await transaction.rollback()
        await opened.execute("INSERT INTO shop.author (email) VALUES ('a@b')")
        await opened.execute("ANALYZE shop.author")
        after = await read_catalog_state(opened)
        await opened.close()
    assert unnoticed == []
    assert after == before


async def test_orders_rows_and_the_version_table_are_not_drift(corpus: Corpus) -> None:
    assert await corpus.differences(SAME + OF_VERSION_TABLE) == []


FOREIGN = """
CREATE FOREIGN DATA WRAPPER elsewhere;
CREATE SERVER far FOREIGN DATA WRAPPER elsewhere
    OPTIONS (host 'far.example.com', "Password" E'hunter\\\\''1', uri 'db://u:hunter2@far');
CREATE USER MAPPING FOR CURRENT_USER SERVER far OPTIONS (password 'hunter3');
"""


async def test_no_password_of_a_foreign_server_is_kept_or_loaded(corpus: Corpus) -> None:
    names = ("foreign_password", "foreign_loaded")
    maintenance = corpus.plain_url("postgres")
    for name in names:
        await fetch(maintenance, f"CREATE DATABASE {name} TEMPLATE template0")
    await run_script(corpus.plain_url(names[0]), FOREIGN)
    dumped = await dump(replace(corpus.url, database=names[0]), environment=clean_environment())
    loaded = await reloaded(
        dumped,
        replace(corpus.url, database=names[1]),
        environment=clean_environment(),
    )
    assert b"far.example.com" in loaded.archive
    assert b"hunter" not in dumped.archive
    assert b"hunter" not in loaded.archive
    assert loaded.schema().objects.keys() == dumped.schema().objects.keys()
    assert await fetch(corpus.plain_url(names[1]), "SELECT FROM pg_user_mappings") == []
    for name in names:
        await fetch(maintenance, f"DROP DATABASE {name}")


async def test_two_commands_on_one_server_do_not_drop_each_others_databases(
    corpus: Corpus,
) -> None:
    first, second = [await throwaway_server(corpus) for _ in range(2)]
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(first.database("same_name"))
        await first.create_roles({"of_the_command"})
        await first.admin.execute("CREATE ROLE of_another")
        waiting = asyncio.create_task(used(second, "same_name"))
        done, _ = await asyncio.wait([waiting], timeout=0.3)
        assert not done
    await asyncio.wait_for(waiting, timeout=10)
    roles = {row[0] for row in await first.admin.fetch("SELECT rolname FROM pg_roles")}
    assert roles & {"of_the_command", "of_another"} == {"of_another"}
    await first.admin.execute("DROP ROLE of_another")
    for server in (first, second):
        await server.admin.close()


async def throwaway_server(corpus: Corpus) -> ThrowawayServer:
    """Return a server as one command of several uses it."""
    own = service()
    guard = Guard(settings=settings(), provider=ExistingServers(reason="of the test"))
    running = RunningServer(url=corpus.url, guard=guard, is_own=False)
    admin = await connect(corpus.plain_url("postgres"))
    return ThrowawayServer(running=running, service=own, url=corpus.url, admin=admin)


async def used(server: ThrowawayServer, name: str) -> None:
    async with server.database(name):
        pass
