"""Sessions that look at a database while it is made do no harm; those that write leave no copy."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress

import asyncpg
import pytest

from tests.support.db_runs import without_initdb
from tests.support.instant import ANEW, COPIED, Reset, maintain, reset, templates
from tests.support.monorepo import Monorepo, new_monorepo
from tests.support.postgres import ask, connect

OTHERS = "made anew: --fresh; no copy kept: other sessions used it"
BETWEEN_VISITS = 0.05
ATTEMPTS = 5
NUMBER = "SELECT oid::int FROM pg_database WHERE datname = current_database()"


@pytest.fixture(scope="module")
def slow() -> Iterator[Monorepo]:
    """A service whose migration takes as long as many a healthcheck's interval."""
    with new_monorepo(["alpha"]) as made:
        without_initdb(made)
        made.add_revision("alpha", "b2", "a1", "SELECT pg_sleep(0.7)")
        reset(made)
        yield made


async def reset_visited(slow: Monorepo, *statements: str) -> Reset:
    """Reset from nothing, while sessions come, do something, and go.

    On a busy machine none may come in time; then it is done again.
    """
    for _ in range(ATTEMPTS):
        done, visited = await _reset_visited(slow, *statements)
        ((number,),) = await asyncio.to_thread(ask, slow.url("alpha"), NUMBER)
        if number in visited:
            return done
    raise AssertionError(f"no session came in {ATTEMPTS} resets")


async def _reset_visited(slow: Monorepo, *statements: str) -> tuple[Reset, list[int]]:
    """Return the reset, and the numbers of the databases that were visited meanwhile."""
    for name in await asyncio.to_thread(templates, slow):
        await asyncio.to_thread(maintain, slow, "alpha", f"DROP DATABASE {name}")
    visited: list[int] = []

    async def visit() -> None:
        while True:
            await asyncio.sleep(BETWEEN_VISITS)
            with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                session = await connect(slow.url("alpha"))
                for statement in statements:
                    await session.execute(statement)
                visited.append(await session.fetchval(NUMBER))
                await session.close()

    visitor = asyncio.create_task(visit())
    done = await asyncio.to_thread(reset, slow, "alpha", "--fresh")
    visitor.cancel()
    await asyncio.wait([visitor])
    return done, visited


@pytest.mark.parametrize(
    "statements",
    [
        pytest.param((), id="healthcheck"),
        pytest.param(("SELECT 1",), id="ping"),
        pytest.param(("SELECT count(*) FROM pg_class, pg_attribute",), id="monitoring"),
    ],
)
async def test_sessions_that_write_nothing_do_not_keep_a_copy_from_being_kept(
    slow: Monorepo, statements: tuple[str, ...]
) -> None:
    done = await reset_visited(slow, *statements)
    assert done == Reset(ANEW, "made anew: --fresh")
    assert (await asyncio.to_thread(reset, slow)).detail == COPIED


@pytest.mark.parametrize(
    "statement",
    [
        pytest.param("CREATE TABLE IF NOT EXISTS stray (id integer)", id="a table"),
        pytest.param("CREATE SCHEMA IF NOT EXISTS stray", id="a schema"),
        pytest.param("COMMENT ON SCHEMA public IS 'stray'", id="a comment"),
        pytest.param("GRANT CREATE ON SCHEMA public TO PUBLIC", id="a grant"),
        pytest.param("SELECT lo_create(0)", id="a large object"),
    ],
)
async def test_what_another_session_has_written_is_in_no_copy(
    slow: Monorepo, statement: str
) -> None:
    done = await reset_visited(slow, statement)
    assert done == Reset(ANEW, OTHERS)
    assert await asyncio.to_thread(templates, slow) == []
