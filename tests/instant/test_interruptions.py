"""After any interruption of a reset, the next reset gives the right state.

For more: `pytest tests/instant/test_interruptions.py -n 0 -k any_moment --rounds 50`.
"""

import asyncio
import random
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress

import asyncpg
import psutil
import pytest

from tests.support.instant import COPIED, REBUILT, maintain, reset, templates
from tests.support.monorepo import LIMIT, Monorepo, is_dead, wait_until, without_servers
from tests.support.observe import notes, processes
from tests.support.postgres import ask, connect, wait_for
from tests.support.prepared import running_monorepo

NAMES = ("alpha", "beta")
SEEDED = "first second"
# The approximate seconds that a reset of both services takes: a rebuild, and a copy.
LONGEST = {True: 1.6, False: 0.6}
STATE = (
    "SELECT version_num, (SELECT count(*) FROM pg_class WHERE relname = 'big') FROM alembic_version"
)
BIG = "CREATE TABLE big AS SELECT n, repeat('x', 500) AS text FROM generate_series(1, 20000) n"


@pytest.fixture(scope="module")
def pair() -> Iterator[Monorepo]:
    """Two services with enough rows that building and copying them takes a measurable time."""
    with running_monorepo(NAMES) as made:
        for name in NAMES:
            made.add_revision(name, "b2", "a1", BIG)
            for template in templates(made, name):
                maintain(made, name, f"DROP DATABASE {template}")
        assert made.invoke("db.reset").code == 0
        yield made


def assert_right(pair: Monorepo) -> None:
    for name in NAMES:
        assert notes(pair, name) == SEEDED
        assert ask(pair.url(name), STATE) == [("b2", True)]


def outcome(tool: "subprocess.Popen[str]") -> int:
    tool.communicate(timeout=LIMIT)
    return tool.returncode


@pytest.mark.parametrize("flags", [(), ("--fresh",)], ids=["copied", "rebuilt"])
def test_two_concurrent_resets_both_succeed(pair: Monorepo, flags: tuple[str, ...]) -> None:
    tools = [pair.start("db.reset", *flags) for _ in range(2)]
    assert [outcome(tool) for tool in tools] == [0, 0]
    assert_right(pair)
    ran = pair.invoke("db.status", "--json")
    assert len(templates(pair, "alpha")) == 1, ran.out
    assert reset(pair, "alpha").detail == COPIED, ran.out


async def connect_again_and_again(url: str, statement: str) -> None:
    """Connect like an application that always reconnects."""
    while True:
        with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            session = await connect(url)
            try:
                await session.execute(statement)
                await session.execute("SELECT pg_sleep(0.05)")
            finally:
                session.terminate()


@pytest.mark.parametrize("flags", [(), ("--fresh",)], ids=["copied", "rebuilt"])
async def test_open_sessions_do_not_block_a_reset(pair: Monorepo, flags: tuple[str, ...]) -> None:
    url = pair.url("alpha")
    idle, busy = await connect(url), await connect(url)
    await busy.execute("BEGIN; LOCK TABLE note")
    again = [asyncio.create_task(connect_again_and_again(url, "SELECT 1")) for _ in range(3)]
    done = await asyncio.to_thread(reset, pair, "alpha", *flags)
    assert done.detail == (REBUILT if flags else COPIED)
    assert idle.is_closed()
    assert busy.is_closed()
    for task in again:
        task.cancel()
    await asyncio.wait(again)
    await asyncio.to_thread(assert_right, pair)


def test_a_template_accepts_no_connections_that_could_block_copying_it(pair: Monorepo) -> None:
    reset(pair, "alpha")
    for name in templates(pair, "alpha"):
        with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError):
            ask(pair.url("alpha", database=name), "SELECT 1")


def test_after_a_kill_at_any_moment_the_next_reset_succeeds(pair: Monorepo, rounds: int) -> None:
    servers = {pair.server_pid(name) for name in NAMES}
    for number in range(2 * rounds):
        chance, rebuilds = random.Random(number), bool(number % 2)
        if rebuilds:
            # A changed input, so that no existing template is valid.
            pair.write("services/alpha_service/data.txt", str(number))
            pair.write("services/beta_service/data.txt", str(number))
        kill_at(pair, chance.uniform(0.1, LONGEST[rebuilds]))
        wait_until(lambda: processes(pair) == servers)
        ran = pair.invoke("db.reset", "--json")
        assert ran.code == 0, (number, ran.out, ran.err)
        assert_right(pair)
        assert {reset(pair, name).detail for name in NAMES} == {COPIED}
        assert_right(pair)
        assert_no_template_is_incomplete(pair)


def kill_at(pair: Monorepo, seconds: float) -> None:
    """Kill a reset after some seconds, and wait until its child processes have exited."""
    tool = pair.start("db.reset")
    time.sleep(seconds)  # Any moment will do.
    running = tool.poll() is None
    children = psutil.Process(tool.pid).children(recursive=True) if running else []
    tool.kill()
    tool.communicate()
    own = without_servers(children)
    wait_until(lambda: all(map(is_dead, own)))


def assert_no_template_is_incomplete(pair: Monorepo) -> None:
    """Require that incomplete templates of killed runs have been dropped."""
    sql = (
        "SELECT count(*) FROM pg_database WHERE starts_with(datname, 'huleedu_{0}__made_')"
        " AND coalesce(shobj_description(oid, 'pg_database'), '') NOT LIKE '%\"parts\"%'"
    )
    left = [maintain(pair, name, sql.format(name))[0][0] for name in NAMES]
    assert all(number <= 1 for number in left)
    assert all(len(templates(pair, name)) <= 4 for name in NAMES)


@pytest.mark.parametrize(
    "half",
    [
        pytest.param([], id="nothing"),
        pytest.param(["CREATE DATABASE huleedu_alpha"], id="empty"),
        pytest.param(
            ["CREATE DATABASE huleedu_alpha TEMPLATE {}"], id="without an environment tag"
        ),
    ],
)
def test_the_next_reset_replaces_an_incomplete_copy(pair: Monorepo, half: Sequence[str]) -> None:
    reset(pair, "alpha")
    (template,) = templates(pair, "alpha")[:1]
    statements = [statement.format(template) for statement in half]
    maintain(pair, "alpha", "DROP DATABASE huleedu_alpha WITH (FORCE)", *statements)
    assert reset(pair, "alpha").detail == COPIED
    assert_right(pair)


async def test_a_reset_killed_while_waiting_for_a_lock_has_no_later_effect(pair: Monorepo) -> None:
    url = pair.url("alpha", database="postgres")
    holder, asked = await connect(url), await connect(url)
    waits = (
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'huleedu-tasks'"
        " AND wait_event_type = 'Lock' AND query LIKE 'DROP DATABASE%'"
    )
    async with holder.transaction():
        await holder.execute("LOCK TABLE pg_database IN SHARE MODE")
        tool = pair.start("db.reset", "--service", "alpha")
        try:
            await wait_for(lambda: asked.fetchval(waits), 1)
        finally:
            tool.kill()
            await asyncio.to_thread(tool.communicate)
        await wait_for(lambda: asked.fetchval(waits), 0)
    await holder.close()
    await asked.close()
    await asyncio.to_thread(assert_right, pair)
