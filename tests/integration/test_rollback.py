"""A revision was rolled back only if the server says so, and begins only while the lock is held.

Each driver with each way to begin a transaction, and each commit with each end:
`pytest -n 0 tests/integration/test_rollback.py --every-combination`.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncpg
import pytest

from huleedu_tasks.errors import ExitCode, HuleEduError
from huleedu_tasks.migrations.alembic_failures import LockTimeout
from huleedu_tasks.migrations.observation import Observation
from huleedu_tasks.migrations.unfinished_revision import (
    Fate,
    Unfinished,
    open_transaction,
    unfinished,
)
from huleedu_tasks.postgres import locks
from huleedu_tasks.postgres.connections import connection
from tests.support.alembic_bench import Bench, Case, sql
from tests.support.migrating import observation_of
from tests.support.monorepo import ENV_PY
from tests.support.postgres import wait_for

LOG = "CREATE TABLE log (n integer)"
ONE = "INSERT INTO log VALUES (1)"
BUSY = "ALTER TABLE busy ADD COLUMN more text"
SETTINGS = {"application_name": "huleedu-tasks run of a test", "lock_timeout": "300ms"}
SYNCHRONOUS = """\
from alembic import context
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from config import database_url

engine = create_engine(database_url().replace("asyncpg", "{driver}"), poolclass=NullPool)
with engine.connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
    connection.commit()
"""
DRIVERS = {
    "asyncpg": ENV_PY,
    "psycopg2": SYNCHRONOUS.format(driver="psycopg2"),
    "psycopg": SYNCHRONOUS.format(driver="psycopg"),
    "an asynchronous psycopg": ENV_PY.replace(
        "database_url()", "database_url().replace('asyncpg', 'psycopg_async')"
    ),
}
CONFIGURE = "context.configure(connection=connection"
MODES = {
    "one transaction": lambda env_py: env_py,
    "a transaction each": lambda env_py: env_py.replace(
        CONFIGURE, f"{CONFIGURE}, transaction_per_migration=True"
    ),
    "a transaction of its own": lambda env_py: (
        env_py.replace("engine.connect()", "engine.begin()")
        .replace("        await connection.commit()\n", "")
        .replace("    connection.commit()\n", "")
    ),
}
# All of them with `--every-combination`.
BY_DRIVER_AND_MODE = pytest.mark.combinations(driver=DRIVERS, mode=MODES)
BY_DRIVER = pytest.mark.parametrize("driver", DRIVERS)
BY_MODE = pytest.mark.parametrize("mode", MODES)
PSYCOPG2 = DRIVERS["psycopg2"]
PER_MIGRATION = MODES["a transaction each"](PSYCOPG2)
RAW = "raw = op.get_bind().connection.dbapi_connection\ncursor = raw.cursor()\n"
CONNECT = """\
import os
from config import database_url
url = database_url().replace("+asyncpg", "")
"""
BLOCK = "with op.get_context().autocommit_block():\n    op.execute({sql!r})"
# Each commits something before it waits for a lock.
STAYS = {
    "a commit of the driver": f"{RAW}cursor.execute({ONE!r})\nraw.commit()",
    "a rollback and a commit of the driver": (
        f"{RAW}raw.rollback()\ncursor.execute({ONE!r})\nraw.commit()"
    ),
    "a COMMIT that the driver was told": (
        f"{RAW}cursor.execute({ONE!r})\ncursor.execute('COMMIT')"
    ),
    "a COMMIT AND CHAIN that the driver was told": (
        f"{RAW}cursor.execute({ONE!r})\ncursor.execute('COMMIT AND CHAIN')"
    ),
    "a procedure that commits": (
        f"{RAW}raw.commit()\nraw.autocommit = True\n"
        f"cursor.execute('DO $$ BEGIN {ONE}; COMMIT; END $$')\nraw.autocommit = False"
    ),
    "a rollback of SQLAlchemy's, then a commit": (
        f"op.get_bind().connection.rollback()\n{RAW}cursor.execute({ONE!r})\nraw.commit()"
    ),
    "an autocommit block": BLOCK.format(sql=ONE),
    "a prepared transaction": (
        f"{RAW}cursor.execute({ONE!r})\ncursor.execute(\"PREPARE TRANSACTION 'later'\")\n"
        "raw.rollback()\nraw.autocommit = True\ncursor.execute(\"COMMIT PREPARED 'later'\")\n"
        "raw.autocommit = False"
    ),
    "a session of psycopg2": (
        f"{CONNECT}import psycopg2\nown = psycopg2.connect(url)\n"
        f"own.cursor().execute({ONE!r})\nown.commit()\nown.close()"
    ),
    "a session of psycopg": (
        f"{CONNECT}import psycopg\nwith psycopg.connect(url) as own:\n    own.execute({ONE!r})"
    ),
    "a session of asyncpg": (
        f"{CONNECT}import asyncio, asyncpg\n"
        "async def own():\n    opened = await asyncpg.connect(url)\n"
        f"    await opened.execute({ONE!r})\n    await opened.close()\nasyncio.run(own())"
    ),
    "a session of pg8000": (
        f"{CONNECT}import pg8000.dbapi\nfrom urllib.parse import urlsplit\nat = urlsplit(url)\n"
        "own = pg8000.dbapi.connect(at.username, host=at.hostname, port=at.port,\n"
        "    database=at.path[1:], password=os.environ['PGPASSWORD'])\n"
        f"own.cursor().execute({ONE!r})\nown.commit()\nown.close()"
    ),
    "a session of another engine": (
        f"{CONNECT}import sqlalchemy\n"
        "with sqlalchemy.create_engine(url.replace(':', '+psycopg:', 1)).begin() as own:\n"
        f"    own.exec_driver_sql({ONE!r})"
    ),
    "a program": f"{CONNECT}import subprocess\nsubprocess.run(['psql', '-qc', {ONE!r}, url])",
}
WAITS = sql(BUSY)
WAITS_RAW = f"{RAW}cursor.execute({BUSY!r})"
KILLED = "import os\nos._exit(9)"
ENDS = {
    "a statement that waits": WAITS,
    "a statement of the driver that waits": WAITS_RAW,
    "an exception": "raise KeyError",
}
INTERRUPTIONS = {"waits": WAITS, "driver": WAITS_RAW, "killed": KILLED}


@dataclass
class Run:
    """A run that holds its lock, on a database at `a1`."""

    case: Case
    held: asyncpg.Connection
    session: Observation

    async def failing(self) -> HuleEduError:
        with pytest.raises(HuleEduError) as caught:
            await self.case.upgrade(session=self.session)
        return caught.value

    async def unfinished(self, open_at_end: int | None = None) -> Unfinished | None:
        await locks.end_runs(self.held, SETTINGS["application_name"])
        at = await self.case.revisions()
        recorded = [each.id for each in self.case.history.between((), at)]
        return await unfinished(self.session, self.held, recorded, open_at_end=open_at_end)


@asynccontextmanager
async def held_run(case: Case) -> AsyncIterator[Run]:
    async with connection(case.url) as held:
        await locks.acquire(held, place="here", holder="test", wait=0, notify=str)
        hold = await locks.take_token(held, place="here")
        session = await observation_of(case.url, case.events, SETTINGS, hold=hold)
        yield Run(case, held, session)


async def begun(bench: Bench, env_py: str, **revisions: str) -> Case:
    case = await bench.migrated(env_py, LOG, "CREATE TABLE busy ()")
    parent = "a1"
    for revision, body in revisions.items():
        bench.revise(case.service.name, revision, parent, body)
        parent = revision
    return case


def rolled_back(revision: str) -> Unfinished:
    return Unfinished(revision=revision, fate=Fate.ROLLED_BACK)


def partial(revision: str) -> Unfinished:
    return Unfinished(revision=revision, fate=Fate.PARTIAL)


# Revisions that were rolled back.


@BY_DRIVER_AND_MODE
async def test_a_revision_with_a_lock_timeout_was_rolled_back(
    bench: Bench, driver: str, mode: str
) -> None:
    env_py = MODES[mode](DRIVERS[driver])
    case = await begun(bench, env_py, b2=sql(ONE), c3=sql(ONE, BUSY))
    async with held_run(case) as run:
        async with case.locked("busy"):
            error = await run.failing()
        assert isinstance(error, LockTimeout), error.message
        assert await run.unfinished() == rolled_back("c3")
    each = mode == "a transaction each"
    assert await case.ask("TABLE log") == ([(1,)] if each else [])


@pytest.mark.combinations(mode=MODES, end=ENDS)
async def test_a_revision_was_rolled_back_however_the_run_ends(
    bench: Bench, mode: str, end: str
) -> None:
    case = await begun(bench, MODES[mode](PSYCOPG2), b2=f"{sql(ONE)}\n{ENDS[end]}")
    async with held_run(case) as run:
        async with case.locked("busy"):
            await run.failing()
        assert await run.unfinished() == rolled_back("b2")
    assert await case.ask("TABLE log") == []


@BY_DRIVER
async def test_a_revision_whose_commit_failed_was_rolled_back(bench: Bench, driver: str) -> None:
    deferred = "CREATE TABLE one (n integer UNIQUE DEFERRABLE INITIALLY DEFERRED)"
    case = await begun(bench, DRIVERS[driver], b2=sql(deferred, "INSERT INTO one VALUES (1), (1)"))
    async with held_run(case) as run:
        await run.failing()
        assert await run.unfinished() == rolled_back("b2")


async def test_the_first_statement_of_a_revision_may_be_set_transaction(bench: Bench) -> None:
    serializable = "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE"
    # Before the first revision Alembic queries the version table.
    case = await begun(bench, PER_MIGRATION, b2=sql(ONE), c3=sql(serializable, ONE))
    async with held_run(case) as run:
        assert (await case.upgrade(session=run.session)).after == ("c3",)
        assert await run.unfinished() is None


async def test_a_savepoint_is_not_a_second_transaction(bench: Bench) -> None:
    nested = f"with op.get_bind().begin_nested():\n    op.execute({ONE!r})"
    case = await begun(bench, PSYCOPG2, b2=f"{nested}\n{WAITS}")
    async with held_run(case) as run, case.locked("busy"):
        await run.failing()
        assert await run.unfinished() == rolled_back("b2")


@BY_MODE
async def test_a_revision_may_be_partially_applied_if_the_process_exits(
    bench: Bench, mode: str
) -> None:
    case = await begun(bench, MODES[mode](PSYCOPG2), b2=f"{sql(ONE)}\n{KILLED}")
    async with held_run(case) as run:
        await run.failing()
        assert await run.unfinished() == partial("b2")


@BY_DRIVER_AND_MODE
async def test_a_revision_was_rolled_back_if_its_process_was_terminated(
    bench: Bench, driver: str, mode: str
) -> None:
    hangs = sql(ONE, "SELECT pg_sleep(60)")
    case = await begun(bench, MODES[mode](DRIVERS[driver]), b2=hangs)
    async with held_run(case) as run:
        migrating = asyncio.ensure_future(case.upgrade(session=run.session))
        sleeps = "SELECT count(*) > 0 FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)%'"
        asks = f"{sleeps} AND pid <> pg_backend_pid()"
        await wait_for(lambda: run.held.fetchval(asks), True)
        transaction = await open_transaction(run.session, run.held)
        assert transaction is not None
        migrating.cancel()
        await asyncio.gather(migrating, return_exceptions=True)
        assert await run.unfinished(transaction) == rolled_back("b2")


# Revisions that may be partially applied.


@pytest.mark.combinations(does=STAYS, end=INTERRUPTIONS)
async def test_a_revision_that_committed_may_be_partially_applied(
    bench: Bench, does: str, end: str
) -> None:
    case = await begun(bench, PSYCOPG2, b2=f"{STAYS[does]}\n{INTERRUPTIONS[end]}")
    async with held_run(case) as run:
        async with case.locked("busy"):
            await run.failing()
        assert await run.unfinished() == partial("b2")


@pytest.mark.parametrize("does", [name for name in STAYS if "session" not in name])
async def test_a_revision_that_committed_in_its_own_transaction_may_be_partially_applied(
    bench: Bench, does: str
) -> None:
    case = await begun(bench, PER_MIGRATION, b2=f"{STAYS[does]}\n{WAITS}")
    async with held_run(case) as run:
        async with case.locked("busy"):
            await run.failing()
        assert await run.unfinished() == partial("b2")


@BY_DRIVER
async def test_a_commit_by_each_driver_is_reported(bench: Bench, driver: str) -> None:
    raw = "raw = op.get_bind().connection.dbapi_connection\n"
    does = f"{raw}op.execute({ONE!r})\nraw.commit()\n{WAITS}"
    case = await begun(bench, DRIVERS[driver], b2=does)
    async with held_run(case) as run, case.locked("busy"):
        await run.failing()
        assert await run.unfinished() == partial("b2")


async def test_an_earlier_revision_that_committed_is_named(bench: Bench) -> None:
    does = STAYS["a commit of the driver"]
    case = await begun(bench, PSYCOPG2, b2=does, c3=WAITS)
    async with held_run(case) as run, case.locked("busy"):
        await run.failing()
        assert await run.unfinished() == partial("b2")


async def test_a_session_that_env_py_left_open_may_have_written(bench: Bench) -> None:
    opened = f"import psycopg2\n{CONNECT}import config\nconfig.own = psycopg2.connect(url)\n"
    does = f"import config\nconfig.own.cursor().execute({ONE!r})\nconfig.own.commit()\n{WAITS}"
    case = await begun(bench, f"{opened}{PSYCOPG2}", b2=does)
    async with held_run(case) as run, case.locked("busy"):
        await run.failing()
        assert await run.unfinished() == partial("b2")


async def test_a_session_that_env_py_closed_does_not_count(bench: Bench) -> None:
    opened = f"import psycopg2\n{CONNECT}psycopg2.connect(url).close()\n"
    case = await begun(bench, f"{opened}{PSYCOPG2}", b2=f"{sql(ONE)}\n{WAITS}")
    async with held_run(case) as run, case.locked("busy"):
        await run.failing()
        assert await run.unfinished() == rolled_back("b2")


async def test_a_failure_that_env_py_catches_and_commits_is_reported(bench: Bench) -> None:
    outer = MODES["a transaction of its own"](PSYCOPG2).replace(
        "        context.run_migrations()",
        "        try:\n            context.run_migrations()\n        except KeyError:\n"
        "            pass",
    )
    case = await begun(bench, outer, b2=f"{sql(ONE)}\nraise KeyError")
    async with held_run(case) as run:
        await run.failing()
        assert await run.unfinished() == partial("b2")
    assert await case.ask("TABLE log") == [(1,)]


# The advisory lock.


@BY_DRIVER_AND_MODE
async def test_no_revision_begins_after_the_lock_is_lost(
    bench: Bench, driver: str, mode: str
) -> None:
    ends = "SELECT pg_terminate_backend(pid), pg_sleep(0.2) FROM pg_locks l"
    where = "WHERE l.locktype = 'advisory' AND l.pid <> pg_backend_pid() AND l.objid = 1"
    database = "(SELECT oid FROM pg_database WHERE datname = current_database())"
    loses = sql(f"{ends} {where} AND l.database = {database}")
    case = await begun(bench, MODES[mode](DRIVERS[driver]), b2=loses, c3=sql(ONE))
    async with held_run(case) as run:
        error = await run.failing()
    assert (error.code, error.exit_code) == ("lock-lost", ExitCode.REFUSED)
    assert await case.ask("TABLE log") == []


async def test_another_run_that_holds_the_lock_does_not_count(bench: Bench) -> None:
    case = await begun(bench, PSYCOPG2, b2=sql(ONE))
    async with held_run(case) as run:
        await run.held.execute("SELECT pg_advisory_unlock_all()")
        async with held_run(case):
            error = await run.failing()
            assert error.code == "lock-lost"
            assert "nothing was run" in error.message
    assert await case.ask("TABLE log") == []


async def test_env_py_cannot_connect_without_the_lock(bench: Bench) -> None:
    writes = f"import psycopg2\n{CONNECT}own = psycopg2.connect(url)\n"
    writes += f"own.cursor().execute({ONE!r})\nown.commit()\n"
    case = await begun(bench, f"{writes}{PSYCOPG2}", b2=sql(ONE))
    async with held_run(case) as run:
        await run.held.execute("SELECT pg_advisory_unlock_all()")
        error = await run.failing()
    assert error.code == "lock-lost"
    assert await case.ask("TABLE log") == []


async def test_an_env_py_that_catches_the_refusal_cannot_continue(bench: Bench) -> None:
    swallows = PSYCOPG2.replace("with engine", "try:\n  with engine", 1)
    head, _, tail = swallows.partition("try:\n")
    body = "\n".join(f"  {line}" for line in tail.removeprefix("  ").splitlines())
    env_py = f"{head}try:\n{body}\nexcept BaseException:\n  pass\n"
    case = await begun(bench, env_py, b2=sql(ONE))
    async with held_run(case) as run:
        await run.held.execute("SELECT pg_advisory_unlock_all()")
        assert (await run.failing()).code == "lock-lost"


async def test_a_role_that_env_py_sets_sees_the_lock(bench: Bench) -> None:
    role = "    connection.exec_driver_sql('SET ROLE stranger')\n    context.configure"
    case = await begun(bench, PSYCOPG2.replace("    context.configure", role), b2=sql(ONE))
    await case.ask(
        "CREATE ROLE stranger",
        "GRANT ALL ON ALL TABLES IN SCHEMA public TO stranger",
    )
    async with held_run(case) as run:
        assert (await case.upgrade(session=run.session)).after == ("b2",)


async def test_the_next_holder_of_the_lock_ends_running_statements_of_renamed_sessions(
    bench: Bench,
) -> None:
    hangs = sql("SET application_name = 'nightly'", "SELECT pg_sleep(61)", ONE)
    case = await begun(bench, PER_MIGRATION, b2=hangs)
    async with held_run(case) as run:
        migrating = asyncio.ensure_future(run.failing())
        sleeps = "SELECT count(*)::int FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(61)'"
        await wait_for(lambda: run.held.fetchval(sleeps), 1)
        await run.held.execute("SELECT pg_advisory_unlock_all()")
        async with held_run(case) as other:
            await locks.end_runs(other.held)
            assert await other.held.fetchval(sleeps) == 0
            await migrating
    assert await case.ask("TABLE log") == []


async def test_a_full_disk_does_not_end_a_migration(bench: Bench) -> None:
    full = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
    case = await begun(bench, PSYCOPG2, b2=f"{full}{sql(ONE)}")
    async with held_run(case) as run:
        assert (await case.upgrade(session=run.session)).after == ("b2",)
        bench.revise(case.service.name, "c3", "b2", f"{full}{sql(ONE)}\n{WAITS}")
        async with case.locked("busy"):
            error = await run.failing()
        assert not isinstance(error, LockTimeout)
        assert await run.unfinished() == partial("c3")
