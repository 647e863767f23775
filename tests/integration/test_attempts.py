"""Whatever happens to a release, the database is asked where it is, and the result says that."""

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace

import pytest

from huleedu_tasks.config.urls import ResolvedUrl
from huleedu_tasks.errors import ExitCode
from huleedu_tasks.migrations.alembic_history import AlembicHistories
from huleedu_tasks.postgres import locks
from huleedu_tasks.postgres.connections import connection
from huleedu_tasks.postgres.inspection import identify
from huleedu_tasks.prod.attempt import Attempts, Ended
from huleedu_tasks.prod.journal import unwritten_record
from huleedu_tasks.prod.plan import pin_now
from huleedu_tasks.prod.target import Target
from huleedu_tasks.report import Status
from tests.support.alembic_bench import Bench, Case, sql
from tests.support.monorepo import ENV_PY

LOG = "CREATE TABLE log (n integer)"
ONE = "INSERT INTO log VALUES (1)"
BUSY = "ALTER TABLE busy ADD COLUMN more text"
LIMITS = {"HULEEDU_LOCK_TIMEOUT": "0.3", "HULEEDU_LOCK_ATTEMPTS": "2"}


async def begun(bench: Bench, *statements: str) -> Case:
    case = await bench.migrated(ENV_PY, LOG, "CREATE TABLE busy ()")
    bench.revise(case.service.name, "b2", "a1", sql(*statements))
    settings = replace(case.settings, process={**case.settings.process, **LIMITS})
    return replace(case, settings=settings)


@asynccontextmanager
async def attempts(case: Case, step: Callable[[str], None]) -> AsyncIterator[Attempts]:
    histories = AlembicHistories(settings=case.settings, state=None)
    target = Target(
        service=case.service,
        resolved=ResolvedUrl(url=case.url, source="the test"),
        environment="development",
        variables="HULEEDU_DB",
        open_allowed=True,
        history=case.history,
        histories=histories,
    )
    case.events.mkdir()
    async with aclosing(histories), connection(case.url) as held:
        await locks.acquire(held, place="here", holder="test", wait=0, notify=str)
        yield Attempts(
            target=target,
            settings=case.settings,
            history=case.history,
            pin=await pin_now(target, held),
            identity=await identify(held),
            lock=held,
            record=unwritten_record(),
            directory=case.events,
            step=step,
        )


async def ended(case: Case, step: Callable[[str], None]) -> Ended:
    async with attempts(case, step) as run:
        return await run.run()


def silent(text: str) -> None:
    pass


def broken_pipe(text: str) -> None:
    raise BrokenPipeError(text)


async def test_a_failing_observer_does_not_end_a_migration(bench: Bench) -> None:
    case = await begun(bench, ONE, "SELECT pg_sleep(0.5)")
    done = await ended(case, broken_pipe)
    assert (done.outcome.status, done.at) == (Status.OK, ("b2",))


async def test_a_second_attempt_after_a_rollback_is_counted_once(bench: Bench) -> None:
    case = await begun(bench, ONE, BUSY)
    said: list[str] = []
    async with case.locked("busy"):
        done = await ended(case, said.append)
    assert [text for text in said if text.startswith("attempt 1 of 2")]
    assert done.outcome.detail.endswith("is at a1, and revision b2 was rolled back")
    assert await case.ask("TABLE log") == []


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (KeyboardInterrupt, Status.ABORTED, ExitCode.INTERRUPTED),
        (SystemExit, Status.FAILED, ExitCode.FAILED),
    ],
)
async def test_the_database_is_asked_after_any_exception(
    bench: Bench, error: type[BaseException], status: Status, code: ExitCode
) -> None:
    case = await begun(bench, ONE, BUSY)

    def step(text: str) -> None:
        # Between two attempts.
        if text.startswith("attempt"):
            raise error

    async with case.locked("busy"):
        done = await ended(case, step)
    assert (done.outcome.status, done.outcome.exit_code) == (status, code)
    assert done.at == ("a1",)
    assert done.outcome.detail.endswith("is at a1, and revision b2 was rolled back")


async def test_where_nobody_says_where_it_is_the_result_says_what_to_type(bench: Bench) -> None:
    case = await begun(bench, ONE)
    async with attempts(case, silent) as run:
        await case.ask("ALTER TABLE alembic_version RENAME COLUMN version_num TO lost")
        done = await run.run()
    assert (done.outcome.status, done.at) == (Status.FAILED, None)
    name = case.service.name
    assert f"the revision of {case.url.database} is not known" in done.outcome.detail
    assert f"run `invoke prod.status --service {name}` to read it again" in done.outcome.detail


async def test_a_lock_that_is_lost_is_the_cause_of_what_failed_for_it(bench: Bench) -> None:
    case = await begun(bench, ONE, "SELECT pg_sleep(600)")
    async with attempts(case, silent) as run:

        def lose(text: str) -> None:
            if text.startswith("running"):
                run.lock.terminate()

        run.step = lose
        done = await run.run()
    assert (done.outcome.code, done.outcome.exit_code) == ("lock-lost", ExitCode.REFUSED)
    assert done.at == ("a1",)
    assert done.outcome.detail.endswith("and revision b2 was rolled back")


async def test_a_migration_of_development_that_fails_tells_where_its_database_is(
    bench: Bench,
) -> None:
    case = await begun(bench, ONE, "SELECT no_such_column")
    ran = bench.monorepo.invoke("db.migrate", "--service", case.service.name, "--json")
    assert ran.code == 1
    (found,) = ran.json["services"]
    assert found["to"] == "a1"
    assert found["detail"].endswith(f"{case.url.database} is at a1")
