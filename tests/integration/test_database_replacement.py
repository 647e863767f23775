"""Replacing databases: after any failure the previous data still exists."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg
import pytest

from huleedu_tasks.postgres.replacement import predecessor_name, successor_name
from tests.support.db_runs import without_initdb
from tests.support.dying import DYING_TASKS
from tests.support.instant import COPIED, REBUILT, maintain, reset
from tests.support.monorepo import Monorepo, Ran, new_monorepo
from tests.support.observe import notes
from tests.support.postgres import ask, connect

DATABASE, NEW, OLD = "huleedu_alpha", "huleedu_alpha__new", "huleedu_alpha__old"
SEEDED = "first second"
BY_HAND = "INSERT INTO note VALUES (9, 'by hand')"
HELD = "database-in-use"
PLAIN = "plain"
NAMES = "SELECT datname FROM pg_database WHERE datname = ANY (ARRAY['{}'])".format(
    "', '".join((DATABASE, NEW, OLD))
)


@pytest.fixture(scope="module")
def server() -> Iterator[Monorepo]:
    """One service, whose server allows logical replication and prepared transactions."""
    with new_monorepo(["alpha"]) as made:
        without_initdb(made)
        made.write("tasks.py", DYING_TASKS)
        assert made.invoke("db.up").code == 0
        for setting in ("wal_level = 'logical'", "max_prepared_transactions = 2"):
            maintain(made, "alpha", f"ALTER SYSTEM SET {setting}")
        assert made.invoke("db.down", "db.up", "db.reset").code == 0
        yield made


@pytest.fixture
def step(request: pytest.FixtureRequest) -> int:
    """Kill after every fifth statement, or after every one with `--every-combination`."""
    return 1 if request.config.getoption("--every-combination") else 5


@pytest.fixture
def alone(server: Monorepo) -> Iterator[Monorepo]:
    """A service at its head, with a row inserted by hand, and without other databases."""
    reset(server)
    assert databases(server) == {DATABASE}
    ask(server.url("alpha"), BY_HAND)
    yield server
    for path in server.path("services/alpha_service/alembic/versions").glob("b*.py"):
        path.unlink()


def databases(monorepo: Monorepo) -> set[str]:
    return {name for (name,) in maintain(monorepo, "alpha", NAMES)}


def has_data(monorepo: Monorepo, name: str = DATABASE) -> bool:
    """Whether a database has the row that was inserted by hand."""
    with suppress(asyncpg.PostgresError):
        found = ask(monorepo.url("alpha", database=name), "SELECT true FROM note WHERE id = 9")
        return bool(found)
    return False


def failed(ran: Ran, code: str) -> Mapping[str, Any]:
    """Return the outcome of a service that failed with a code, and without a traceback."""
    assert ran.code == 1, ran.out + ran.err
    (row,) = ran.json["services"]
    assert row["code"] == code
    assert row["hint"]
    assert not row["output"]
    return dict(row)


@pytest.mark.parametrize("flags", [(), ("--fresh",)], ids=["copied", "rebuilt"])
def test_killed_after_any_statement_a_reset_has_lost_nothing_and_the_next_one_heals(
    alone: Monorepo, flags: tuple[str, ...], step: int
) -> None:
    for number in range(1, 30, step):
        ran = alone.invoke("db.reset", *flags, env={"DIES_AFTER": str(number)})
        kept = [name for name in databases(alone) if has_data(alone, name)]
        if not kept:
            # Only a complete database replaces the previous one.
            assert notes(alone, "alpha") == SEEDED
        assert reset(alone).detail in (COPIED, REBUILT)
        assert databases(alone) == {DATABASE}
        assert notes(alone, "alpha") == SEEDED
        ask(alone.url("alpha"), BY_HAND)
        if ran.code == 0:
            break
        assert ran.code == -9
    assert 4 < number < 29


def test_a_failed_migration_keeps_the_previous_data_until_a_reset_succeeds(
    alone: Monorepo,
) -> None:
    alone.add_revision("alpha", "b2", "a1", "SELECT nothing")
    for _ in range(2):
        ran = alone.invoke("db.reset", "--json")
        assert ran.code == 1
        assert databases(alone) == {DATABASE, OLD}
        assert has_data(alone, OLD)
        (note,) = ran.json["notes"]
        assert OLD in note
    alone.add_revision("alpha", "b2", "a1", "SELECT 1")
    assert reset(alone).detail == REBUILT
    assert databases(alone) == {DATABASE}
    assert notes(alone, "alpha") == SEEDED


def test_killing_a_repeated_reset_keeps_the_previous_data(alone: Monorepo, step: int) -> None:
    alone.add_revision("alpha", "b2", "a1", "SELECT nothing")
    assert alone.invoke("db.reset").code == 1
    for number in range(1, 20, step):
        ran = alone.invoke("db.reset", env={"DIES_AFTER": str(number)})
        assert alone.invoke("db.up").code == 0
        assert has_data(alone, OLD)
        if ran.code == 1:
            break
        assert ran.code == -9
    assert 3 < number < 19


def test_an_unfinished_database_does_not_replace_the_predecessor(alone: Monorepo) -> None:
    alone.add_revision("alpha", "b2", "a1", "SELECT nothing")
    assert alone.invoke("db.reset").code == 1
    maintain(alone, "alpha", f"DROP DATABASE {DATABASE}")
    assert alone.invoke("db.up").code == 0
    assert alone.invoke("db.reset").code == 1
    assert has_data(alone, OLD)


def test_the_note_names_the_command_that_restores_the_predecessor(alone: Monorepo) -> None:
    alone.add_revision("alpha", "b2", "a1", "SELECT nothing")
    (note,) = alone.invoke("db.reset", "--json").json["notes"]
    (command,) = re.findall(r"`invoke (.+?)`", note)
    assert alone.invoke(*command.split()).code == 0
    assert has_data(alone)


def test_a_repaired_database_becomes_the_predecessor(alone: Monorepo) -> None:
    alone.add_revision("alpha", "b2", "a1", "SELECT nothing")
    assert alone.invoke("db.reset").code == 1
    alone.add_revision("alpha", "b2", "a1", "SELECT 1")
    ran = alone.invoke("db.migrate", "db.seed")
    assert ran.code == 0, ran.out
    ask(alone.url("alpha"), "INSERT INTO note VALUES (10, 'after repair')")
    alone.add_revision("alpha", "b3", "b2", "SELECT nothing")
    assert alone.invoke("db.reset").code == 1
    later = "SELECT text FROM note WHERE id = 10"
    assert ask(alone.url("alpha", database=OLD), later) == [("after repair",)]


def test_a_migration_can_drop_a_role_that_owns_objects_of_the_predecessor(
    alone: Monorepo,
) -> None:
    alone.add_revision(
        "alpha",
        "b2",
        "a1",
        "DROP ROLE IF EXISTS reader",
        "CREATE ROLE reader",
        "GRANT SELECT ON note TO reader",
    )
    for flags in ((), ("--fresh",), ()):
        reset(alone, "alpha", *flags)
    assert databases(alone) == {DATABASE}


# Sessions and objects that use a database, and failures to create a successor.


PREPARED = (
    ("BEGIN; INSERT INTO note VALUES (11, 'prepared'); PREPARE TRANSACTION 'my-gid'",),
    ("ROLLBACK PREPARED 'my-gid'",),
    "my-gid",
)
SUBSCRIBED = (
    (
        "CREATE SUBSCRIPTION follower CONNECTION 'host=127.0.0.1 dbname=elsewhere'"
        " PUBLICATION p WITH (connect = false)",
    ),
    ("ALTER SUBSCRIPTION follower SET (slot_name = NONE)", "DROP SUBSCRIPTION follower"),
    "follower",
)


@pytest.mark.combinations(user=[PREPARED, SUBSCRIBED], flags=[(), ("--fresh",)])
def test_the_error_lists_users_of_a_database_with_statements_that_end_them(
    alone: Monorepo, user: tuple[tuple[str, ...], tuple[str, ...], str], flags: tuple[str, ...]
) -> None:
    holds, lets_go, name = user
    run_simple(alone, holds)
    row = failed(alone.invoke("db.reset", "--json", *flags), HELD)
    assert name in row["detail"]
    assert lets_go[-1] in row["hint"]
    assert databases(alone) == {DATABASE}
    assert has_data(alone)
    ask(alone.url("alpha"), *lets_go)
    assert reset(alone, "alpha", *flags).detail in (COPIED, REBUILT)


def run_simple(alone: Monorepo, statements: tuple[str, ...]) -> None:
    """Run each string as one message."""

    async def run() -> None:
        opened = await connect(alone.url("alpha"))
        for text in statements:
            await opened.execute(text)
        await opened.close()

    asyncio.run(run())


def test_replication_slots_and_publications_are_dropped_with_the_predecessor(
    alone: Monorepo,
) -> None:
    ask(
        alone.url("alpha"),
        "CREATE PUBLICATION p FOR TABLE note",
        "SELECT pg_create_logical_replication_slot('changes', 'pgoutput')",
    )
    ran = alone.invoke("db.reset", "--json")
    assert ran.code == 0, ran.out
    assert "changes" in ran.json["services"][0]["detail"]
    assert maintain(alone, "alpha", "SELECT slot_name FROM pg_replication_slots") == []


@pytest.mark.parametrize(
    "statement",
    [
        pytest.param(f"ALTER DATABASE {DATABASE} IS_TEMPLATE true", id="template"),
        pytest.param(f"ALTER DATABASE {DATABASE} CONNECTION LIMIT 0", id="no connections"),
        pytest.param(f"CREATE DATABASE {NEW}", id="half a successor"),
        pytest.param(f"CREATE DATABASE {OLD}", id="a predecessor"),
    ],
)
def test_a_database_with_unusual_properties_is_replaced(alone: Monorepo, statement: str) -> None:
    maintain(alone, "alpha", statement)
    assert reset(alone, "alpha").detail in (COPIED, REBUILT)
    assert databases(alone) == {DATABASE}
    assert notes(alone, "alpha") == SEEDED


def test_a_database_that_does_not_allow_connections_is_reported(alone: Monorepo) -> None:
    maintain(alone, "alpha", f"ALTER DATABASE {DATABASE} ALLOW_CONNECTIONS false")
    failed(alone.invoke("db.reset", "--json"), "database-closed")
    maintain(alone, "alpha", f"ALTER DATABASE {DATABASE} ALLOW_CONNECTIONS true")
    assert has_data(alone)


async def test_sessions_on_template1_do_not_prevent_a_reset(alone: Monorepo) -> None:
    busy = await connect(alone.url("alpha", database="template1"))
    done = await asyncio.to_thread(reset, alone, "alpha", "--fresh")
    assert done.detail == REBUILT
    assert not busy.is_closed()
    await busy.close()


def test_template0_and_template1_are_not_replaced(alone: Monorepo) -> None:
    alone.register({"name": "alpha", "port": alone.port("alpha"), "database": "template1"})
    ran = alone.invoke("db.reset", "--json")
    alone.register({"name": "alpha", "port": alone.port("alpha")})
    assert ran.code == 3
    assert ran.json["services"][0]["code"] == "system-database"


# A role without superuser rights.


@asynccontextmanager
async def plain_user(alone: Monorepo, *options: str) -> AsyncIterator[dict[str, str]]:
    """Give the database to a role with few rights; return an environment with that role."""
    admin = await connect(alone.url("alpha", database="postgres"))
    await admin.execute(f"CREATE ROLE {PLAIN} LOGIN {' '.join(options)} PASSWORD 'x'")
    await admin.execute(f"ALTER DATABASE {DATABASE} OWNER TO {PLAIN}")
    # The role may not drop objects of a superuser.
    names = await admin.fetch("SELECT datname FROM pg_database WHERE datname LIKE '%made%'")
    for (name,) in names:
        await admin.execute(f"DROP DATABASE {name}")
    port = alone.port("alpha")
    try:
        yield {
            "HULEEDU_PROVIDER": "existing",
            "ALPHA_SERVICE_DATABASE_URL": f"postgresql+asyncpg://{PLAIN}:x@localhost:{port}/{DATABASE}",
        }
    finally:
        await admin.execute(f"ALTER DATABASE {DATABASE} OWNER TO CURRENT_USER")
        await admin.execute(f"DROP ROLE {PLAIN}")
        await admin.close()


async def test_a_failure_to_create_the_successor_keeps_the_database(alone: Monorepo) -> None:
    async with plain_user(alone) as environment:
        ran = await asyncio.to_thread(alone.invoke, "db.reset", "--json", env=environment)
    failed(ran, "permission-denied")
    assert await asyncio.to_thread(has_data, alone)
    assert await asyncio.to_thread(databases, alone) == {DATABASE}


async def test_a_session_that_the_role_may_not_end_is_named(alone: Monorepo) -> None:
    async with plain_user(alone, "CREATEDB") as environment:
        session = await connect(alone.url("alpha"))
        ran = await asyncio.to_thread(alone.invoke, "db.reset", "--json", env=environment)
        row = failed(ran, HELD)
        assert f"session {session.get_server_pid()}" in row["detail"]
        assert "the-test" in row["detail"]
        assert not session.is_closed()
        await session.close()
    assert await asyncio.to_thread(has_data, alone)
    assert await asyncio.to_thread(databases, alone) == {DATABASE}


async def test_a_client_that_reconnects_at_once_does_not_prevent_a_reset(alone: Monorepo) -> None:
    async def stay() -> None:
        while True:
            with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                session = await connect(alone.url("alpha"))
                await session.execute("SELECT pg_sleep(60)")

    clients = [asyncio.create_task(stay()) for _ in range(3)]
    done = await asyncio.to_thread(reset, alone, "alpha", "--fresh")
    assert done.detail == REBUILT
    for client in clients:
        client.cancel()
    await asyncio.wait(clients)


# Names.


@pytest.mark.parametrize("database", ["orders", "o" * 63, "ö" * 31, "a" * 58])
def test_names_of_successor_and_predecessor_have_at_most_63_bytes(database: str) -> None:
    names = {successor_name(database), predecessor_name(database)}
    assert len(names | {database}) == 3
    assert all(len(name.encode()) <= 63 for name in names)


def test_long_names_with_the_same_beginning_do_not_collide() -> None:
    assert successor_name("o" * 62 + "a") != successor_name("o" * 62 + "b")


def test_a_database_called_postgres_is_replaced_again_and_again() -> None:
    with new_monorepo(["alpha"]) as made:
        without_initdb(made)
        made.register({"name": "alpha", "port": made.port("alpha"), "database": "postgres"})
        made.write(
            "services/alpha_service/config.py",
            made.read("services/alpha_service/config.py").replace(DATABASE, "postgres"),
        )
        for flags in ((), (), ("--fresh",)):
            ran = made.invoke("db.reset", *flags)
            assert ran.code == 0, ran.out
        url = made.url("alpha", database="postgres")
        assert ask(url, "SELECT count(*) FROM note") == [(2,)]
