"""No template is saved if another session writes to the database during the build."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress

import asyncpg
import pytest

from tests.support.instant import COPIED, REBUILT, Reset, maintain, reset, templates
from tests.support.monorepo import Monorepo
from tests.support.postgres import ask, connect
from tests.support.prepared import running_monorepo

OTHERS = "rebuilt: --fresh; no template kept: other sessions used it"
BETWEEN_VISITS = 0.05
ATTEMPTS = 5
NUMBER = "SELECT oid::int FROM pg_database WHERE datname = current_database()"


@pytest.fixture(scope="module")
def slow() -> Iterator[Monorepo]:
    """A service whose migration takes longer than the interval of a healthcheck."""
    with running_monorepo(["alpha"]) as made:
        made.add_revision("alpha", "b2", "a1", "SELECT pg_sleep(0.7)")
        reset(made)
        yield made


async def reset_visited(slow: Monorepo, *statements: str) -> Reset:
    """Rebuild the database while other sessions connect, run statements and disconnect.

    The reset is repeated if no session has connected in time.
    """
    for _ in range(ATTEMPTS):
        done, visited = await _reset_visited(slow, *statements)
        ((number,),) = await asyncio.to_thread(ask, slow.url("alpha"), NUMBER)
        if number in visited:
            return done
    raise AssertionError(f"no session connected during {ATTEMPTS} resets")


async def _reset_visited(slow: Monorepo, *statements: str) -> tuple[Reset, list[int]]:
    """Return the reset, and the OIDs of the databases to which sessions connected during it."""
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
async def test_a_template_is_saved_although_other_sessions_read(
    slow: Monorepo, statements: tuple[str, ...]
) -> None:
    done = await reset_visited(slow, *statements)
    assert done == Reset(REBUILT, "rebuilt: --fresh")
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
async def test_no_template_is_saved_if_another_session_writes(
    slow: Monorepo, statement: str
) -> None:
    done = await reset_visited(slow, statement)
    assert done == Reset(REBUILT, OTHERS)
    assert await asyncio.to_thread(templates, slow) == []
