"""Signals, kills, locks and poolers during `prod.migrate`, and the state afterwards."""

import random
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import psutil
import pytest

from huleedu_tasks.config.urls import parse_url
from huleedu_tasks.errors import Refused
from huleedu_tasks.postgres import locks
from huleedu_tasks.postgres.connections import connection
from tests.support.fork_server import fresh_interpreters
from tests.support.monorepo import LIMIT, USER, Ran, wait_until
from tests.support.observe import assert_no_password_on_screen
from tests.support.postgres import ask
from tests.support.production import MODES, admin_url, bouncer
from tests.support.rehearsal import (
    ALPHA,
    ALPHA_AND_BETA,
    SERVICES,
    Rehearsal,
    locked,
    told,
)

SLEEP = "SELECT pg_sleep(600)"
# The seconds within which a server notices that a client is gone.
SOON = 3.0
PENDING = SERVICES[:3]
# The approximate duration of a run of all three services, in seconds.
LONGEST = 6.0
CONCURRENTLY = """\
from alembic import op

revision = "b2"
down_revision = "a1"


def upgrade():
    op.execute("CREATE TABLE made_by_b2 ()")
    with op.get_context().autocommit_block():
        op.execute("CREATE INDEX CONCURRENTLY note_text ON note (text)")
    op.execute("ALTER TABLE note ADD COLUMN more text")
"""


def outcome(child: "subprocess.Popen[str]") -> Ran:
    """Wait for a run to end."""
    out, err = child.communicate(timeout=LIMIT)
    ran = Ran(child.returncode, out, err)
    assert_no_password_on_screen(ran)
    return ran


@contextmanager
def begun(rehearsal: Rehearsal, *flags: str, **variables: str) -> "Iterator[subprocess.Popen[str]]":
    """Start a run that hangs in alpha's second revision, after the first of the same transaction.

    Beta waits for its turn.
    """
    rehearsal.grow("beta")
    rehearsal.revise("alpha", "b2", "a1")
    rehearsal.revise("alpha", "c3", "b2", SLEEP)
    child = rehearsal.start(*ALPHA_AND_BETA, *flags, **variables)
    try:
        wait_until(lambda: rehearsal.running("alpha", "pg_sleep") or child.poll() is not None)
        assert child.poll() is None, child.communicate()
        yield child
    finally:
        child.kill()
        child.communicate()


def mended(rehearsal: Rehearsal) -> None:
    """Let alpha's second revision end at once, and assert that the next run applies the rest."""
    rehearsal.revise("alpha", "c3", "b2")
    ran = rehearsal.migrate(*ALPHA_AND_BETA)
    assert ran.code == 0, ran.err
    assert (rehearsal.at("alpha"), rehearsal.at("beta")) == ("c3", "b2")


def test_a_schema_that_was_not_compared_or_changed_afterwards_is_not_migrated(
    rehearsal: Rehearsal,
) -> None:
    """Another run holds the lock on beta; when this run waits for it, it has locked alpha."""
    for name in ("alpha", "beta"):
        rehearsal.grow(name)
    compared = {"HULEEDU_DRIFT": "true"}
    holding = (
        "SELECT FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database"
        " WHERE locktype = 'advisory' AND granted AND datname = 'huleedu_alpha'"
    )
    admin = rehearsal.production.admin("huleedu_alpha")
    with locked(rehearsal, "beta", by="SELECT pg_advisory_lock({}, {})".format(*locks.LOCK)):
        ran = rehearsal.invoke("prod.validate", "--json", *ALPHA_AND_BETA, **compared)
        child = rehearsal.start(*ALPHA_AND_BETA, **compared)
        wait_until(lambda: ask(admin, holding) or child.poll() is not None)
        ask(admin, "CREATE INDEX by_hand ON note (text)")
    assert "migration-running" in [found.get("code") for found in told(ran, "beta")["problems"]]
    refused = outcome(child)
    ask(admin, "DROP INDEX by_hand")
    assert (refused.code, refused.json["error"]["code"]) == (3, "plan-changed"), refused.err
    alpha, beta = (found["problem"] for found in refused.json["error"]["findings"])
    assert alpha == "alpha: its schema changed after it was compared with its revisions"
    assert "beta: its schema was not compared" in beta
    assert (rehearsal.at("alpha"), rehearsal.at("beta")) == ("a1", "a1")


# Signals.


@pytest.mark.combinations(
    ended=[(signal.SIGINT, 130, "INTERRUPTED"), (signal.SIGTERM, 143, "TERMINATED")],
    times=[1, 3],
)
def test_a_signal_ends_the_statement_and_rolls_back(
    rehearsal: Rehearsal, ended: tuple[signal.Signals, int, str], times: int
) -> None:
    """Further signals do not prevent the report."""
    number, code, recorded = ended
    with begun(rehearsal) as child:
        for _ in range(times - 1):
            child.send_signal(number)
        if times > 1:
            # The run then reads the revision again, and writes its record.
            wait_until(lambda: not rehearsal.running("alpha", "pg_sleep"))
        child.send_signal(number)
        ran = outcome(child)
        # At once, and not only when the server checks its client connection.
        assert times > 1 or not rehearsal.sessions("alpha", "huleedu-tasks")
    assert ran.code == code, ran.err
    assert (ran.statuses["alpha"], ran.statuses["beta"]) == ("ABORTED", "ABORTED")
    assert "huleedu_alpha is at a1, and revision c3 was rolled back" in told(ran, "alpha")["detail"]
    assert (rehearsal.at("alpha"), rehearsal.at("beta")) == ("a1", "a1")
    (path,) = rehearsal.runs.glob("*")
    assert '"not migrated"' in path.read_text()
    (run,) = rehearsal.history()
    assert run["outcome"] == recorded
    mended(rehearsal)


def test_an_unreadable_revision_does_not_delay_the_end_of_a_run(
    rehearsal: Rehearsal,
) -> None:
    lock = "LOCK alembic_version"
    with begun(rehearsal) as child, locked(rehearsal, "alpha", by=lock):
        wait_until(lambda: rehearsal.running("alpha", lock))
        child.send_signal(signal.SIGTERM)
        signalled = time.monotonic()
        ran = outcome(child)
        assert time.monotonic() - signalled < 3 * SOON
    assert ran.code == 143, ran.err
    alpha = told(ran, "alpha")
    assert (
        "the revision of huleedu_alpha is not known: its revision could not be read"
        in (alpha["detail"])
    )
    shown = "`HULEEDU_ENVIRONMENT=production invoke prod.status --service alpha`"
    assert f"run {shown} to read it again" in alpha["detail"]
    assert alpha["to"] is None


# A kill.


def test_after_a_kill_the_lock_is_free_at_once_and_the_run_shows_as_killed(
    rehearsal: Rehearsal,
) -> None:
    with begun(rehearsal) as child:
        assert rehearsal.history()[0]["outcome"] == "RUNNING"
        child.kill()
        killed = time.monotonic()
        wait_until(lambda: not rehearsal.sessions("alpha", "huleedu-tasks lock"))
        assert time.monotonic() - killed < SOON
        wait_until(lambda: not rehearsal.running("alpha", "pg_sleep"))
        assert time.monotonic() - killed < SOON
    (run,) = rehearsal.history()
    assert run["outcome"] == "KILLED"
    assert "alpha was being migrated" in run["detail"]
    assert (rehearsal.at("alpha"), rehearsal.at("beta")) == ("a1", "a1")
    mended(rehearsal)


def test_a_run_right_after_a_kill_ends_the_sessions_of_the_killed_run(
    rehearsal: Rehearsal,
) -> None:
    with begun(rehearsal) as child:
        child.kill()
        mended(rehearsal)


def test_killed_at_any_moment_schema_and_record_are_true_and_the_next_run_ends_it(
    stage: Rehearsal, rounds: int
) -> None:
    """More rounds: `pytest tests/production/test_migrate_faults.py -k any_moment --rounds 50`."""
    for number in range(rounds):
        stage.wind_back()
        stage.grow(*PENDING, revisions=("b2", "c3", "d4"), sql="SELECT pg_sleep(0.1)")
        _kill_at(stage, random.Random(number).uniform(0.3, LONGEST))
        _assert_the_record_is_true(stage)
        ran = stage.migrate()
        assert ran.code == 0, ran.err
        assert stage.all_at() == {**dict.fromkeys(SERVICES, "a1"), **dict.fromkeys(PENDING, "d4")}


def _kill_at(stage: Rehearsal, seconds: float) -> None:
    """Kill a run after some time, and wait until nothing is left of it.

    What it has started must notice by itself.
    """
    with fresh_interpreters():
        child = stage.start()
    time.sleep(seconds)  # Any moment will do.
    running = child.poll() is None
    children = psutil.Process(child.pid).children(recursive=True) if running else []
    child.kill()
    child.communicate()
    _, alive = psutil.wait_procs(children, timeout=SOON)
    assert not alive
    wait_until(lambda: not any(stage.sessions(name, "huleedu-tasks") for name in PENDING))


def _assert_the_record_is_true(stage: Rehearsal) -> None:
    at = stage.all_at()
    runs = stage.history()
    # The run may have been killed before it wrote its first line.
    run = runs[0] if runs else {"outcome": "KILLED", "migrated": [], "detail": ""}
    assert run["outcome"] in ("KILLED", "DONE")
    for name in PENDING:
        if name in run["migrated"]:
            assert at[name] == "d4"
        elif f"{name} was being migrated" not in run["detail"]:
            assert at[name] == "a1"


# The lock.


def test_of_many_runners_at_once_one_migrates_and_the_others_succeed(
    rehearsal: Rehearsal, rounds: int
) -> None:
    """More rounds: `pytest tests/production/test_migrate_faults.py -k many_runners --rounds 7`."""
    # One service each: with more, a server on two processors answers too late.
    rehearsal.grow("alpha", sql="SELECT pg_sleep(0.5)")
    ended = _all_at_once(rehearsal, 3 * rounds, ("--service", "alpha"))
    assert not [ran for ran in ended if ran.code]
    applied = [row["service"] for ran in ended for row in ran.json["services"] if row["revisions"]]
    assert applied == ["alpha"]
    waited = [ran for ran in ended if "is being migrated by" in ran.err]
    assert waited
    assert all(re.search(r"migrated by \S+ pid \d+ since \d{4}-", ran.err) for ran in waited)
    assert rehearsal.at("alpha") == "b2"


def test_a_second_run_waits_or_is_refused_and_a_run_that_loses_its_lock_stops(
    rehearsal: Rehearsal,
) -> None:
    with begun(rehearsal) as child:
        ran = rehearsal.migrate(HULEEDU_RUN_WAIT="0")
        assert ran.code == 3
        message = ran.json["error"]["message"]
        assert re.search(
            rf"huleedu_alpha on localhost:\d+ is being migrated by \S+ pid {child.pid} since ",
            message,
        )
        assert "(from 127.0.0.1, server pid " in message
        assert rehearsal.history()[0]["outcome"] == "REFUSED"

        waiting = rehearsal.start(*ALPHA)
        wait_until(lambda: rehearsal.sessions("alpha", "huleedu-tasks") >= 3)
        waiting.send_signal(signal.SIGINT)
        assert outcome(waiting).code == 130
        assert rehearsal.history()[0]["outcome"] == "INTERRUPTED"

        ask(
            admin_url(rehearsal.production.main, "postgres"),
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = 'huleedu_alpha' AND application_name LIKE 'huleedu-tasks lock %'",
        )
        ran = outcome(child)
    assert ran.code == 3
    assert told(ran, "alpha")["code"] == "lock-lost"
    assert "revision c3 was rolled back" in told(ran, "alpha")["detail"]
    assert rehearsal.at("alpha") == "a1"


def test_a_suspended_run_that_lost_its_lock_changes_nothing_after_it_resumes(
    rehearsal: Rehearsal,
) -> None:
    rehearsal.revise("alpha", "b2", "a1", "SELECT pg_sleep(1)")
    rehearsal.revise("alpha", "c3", "b2")
    env = rehearsal.monorepo.path("services/alpha_service/alembic/env.py")
    usual = env.read_text()
    # The gate exists only after the backup, because env.py renders its SQL before.
    gate, reached = (rehearsal.monorepo.root / name for name in ("gate", "reached"))
    env.write_text(
        "import pathlib, time\n"
        f"if pathlib.Path({str(gate)!r}).exists():\n"
        f"    pathlib.Path({str(gate)!r}).rename({str(reached)!r})\n"
        f"    time.sleep(1)\n{usual}"
    )
    with fresh_interpreters():
        sleeper = rehearsal.start(*ALPHA, "--backup-command", f"touch {gate}")
    try:
        wait_until(reached.exists)
        run = psutil.Process(sleeper.pid)
        asleep = [run, *run.children(recursive=True)]
        for process in asleep:
            process.suspend()
        ask(
            admin_url(rehearsal.production.main, "postgres"),
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = 'huleedu_alpha' AND application_name LIKE 'huleedu-tasks lock %'",
        )
        other = rehearsal.start(*ALPHA)
        wait_until(lambda: rehearsal.running("alpha", "pg_sleep(1)"))
        for process in asleep:
            process.resume()
        slept = outcome(sleeper)
    finally:
        env.write_text(usual)
        reached.unlink(missing_ok=True)
        sleeper.kill()
    assert slept.code == 3, slept.err
    assert told(slept, "alpha")["code"] == "lock-lost"
    assert told(slept, "alpha")["revisions"] == []
    assert outcome(other).code == 0
    assert rehearsal.at("alpha") == "c3"


@pytest.mark.parametrize("connections", ["all", "later"])
def test_if_the_server_accepts_no_connection_the_lock_connection_is_used(
    rehearsal: Rehearsal, connections: str
) -> None:
    # Alembic's own connection is already open, or is refused as well.
    full = "ALTER ROLE {user} CONNECTION LIMIT 1"
    closes = full.format(user=USER)
    rehearsal.monorepo.write("close.sql", closes)
    admin = rehearsal.production.admin()
    rehearsal.revise("alpha", "b2", "a1", *([] if connections == "all" else ["SELECT pg_sleep(2)"]))
    flags = ("--backup-command", f"psql '{admin}' -f close.sql") if connections == "all" else ()
    child = rehearsal.start("--service", "alpha", *flags)
    try:
        if connections == "later":
            wait_until(lambda: rehearsal.running("alpha", "pg_sleep(2)"))
            ask(admin, closes)
        ran = outcome(child)
    finally:
        ask(admin, f"ALTER ROLE {USER} CONNECTION LIMIT -1")
    alpha = told(ran, "alpha")
    if connections == "all":
        assert ran.code == 1
        assert "too many connections for role" in alpha["detail"] + alpha["output"]
        assert "huleedu_alpha is at a1" in alpha["detail"]
        assert alpha["to"] == "a1"
    else:
        assert ran.code == 0, ran.err
        assert alpha["to"] == "b2"


@MODES
async def test_a_lock_behind_a_pooler_is_not_trusted(rehearsal: Rehearsal, mode: str) -> None:
    production = rehearsal.production
    with bouncer(production, mode) as port:
        url = parse_url(production.url(port, tls=production.verified()), variable="URL")
        async with connection(url) as held, connection(url) as other:
            with pytest.raises(Refused, match="is not effective"):
                await locks.require_hold(held, other, place="alpha", variable="DIRECT")


def test_behind_a_pooler_a_run_requires_a_direct_url(rehearsal: Rehearsal) -> None:
    production = rehearsal.production
    rehearsal.grow("alpha")
    with bouncer(production, "transaction") as port:
        pooled = {"HULEEDU_PROD_DB_PORT": str(port)}
        ran = rehearsal.migrate("--service", "alpha", **pooled)
        assert ran.code == 1
        assert "goes through a pooler" in str(ran.json["services"][0]["problems"])
        assert rehearsal.at("alpha") == "a1"
        direct = production.url(production.main.port, tls=production.verified())
        around = {"ALPHA_SERVICE_DIRECT_DATABASE_URL": direct}
        assert rehearsal.migrate("--service", "alpha", **pooled, **around).code == 0
        assert rehearsal.at("alpha") == "b2"


# Locks of other sessions.


def test_a_short_lock_of_another_session_is_waited_for(rehearsal: Rehearsal) -> None:
    _alter(rehearsal)
    with locked(rehearsal, "alpha"):
        child = rehearsal.start(*ALPHA, HULEEDU_LOCK_TIMEOUT="60")
        wait_until(lambda: rehearsal.running("alpha", "ALTER TABLE note"))
    ran = outcome(child)
    assert ran.code == 0, ran.err
    assert "attempt" not in ran.err
    assert rehearsal.at("alpha") == "b2"


def test_a_longer_lock_is_reported_with_its_session_and_the_revision_is_retried(
    rehearsal: Rehearsal,
) -> None:
    _alter(rehearsal)
    with locked(rehearsal, "alpha"):
        child = rehearsal.start(*ALPHA, HULEEDU_LOCK_TIMEOUT="1", HULEEDU_LOCK_ATTEMPTS="9")
        wait_until(lambda: any("too long" in path.read_text() for path in rehearsal.runs.glob("*")))
    ran = outcome(child)
    assert ran.code == 0, ran.err
    assert re.search(
        r"attempt 1 of 9: the lock is held by pid \d+ \(postgres_admin the-test", ran.err
    )
    assert rehearsal.at("alpha") == "b2"
    (path,) = rehearsal.runs.glob("*")
    assert '"waited too long"' in path.read_text()


def test_after_the_last_lock_timeout_the_session_is_named_and_all_is_rolled_back(
    rehearsal: Rehearsal,
) -> None:
    _alter(rehearsal)
    with locked(rehearsal, "alpha"):
        ran = rehearsal.migrate(*ALPHA, HULEEDU_LOCK_TIMEOUT="1", HULEEDU_LOCK_ATTEMPTS="2")
        ((pid,),) = ask(
            rehearsal.production.admin(),
            "SELECT pid FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)%'"
            " AND pid <> pg_backend_pid()",
        )
    assert ran.code == 1
    detail = told(ran, "alpha")["detail"]
    assert "A statement timed out while waiting for a lock: ALTER TABLE note ADD" in detail
    assert f"the lock is held by pid {pid} (postgres_admin the-test" in detail
    assert "huleedu_alpha is at a1, and revision b2 was rolled back" in detail
    assert rehearsal.at("alpha") == "a1"


def test_a_partially_applied_revision_is_not_retried(rehearsal: Rehearsal) -> None:
    rehearsal.monorepo.write("services/alpha_service/alembic/versions/b2.py", CONCURRENTLY)
    with locked(rehearsal, "alpha"):
        ran = rehearsal.migrate(*ALPHA, HULEEDU_LOCK_TIMEOUT="1")
    detail = told(ran, "alpha")["detail"]
    assert "revision b2 may be partially applied" in detail
    assert "attempt" not in ran.err
    assert ask(rehearsal.production.admin(), "SELECT version_num FROM alembic_version") == [("a1",)]


def test_a_service_may_set_its_own_timeouts(rehearsal: Rehearsal) -> None:
    rehearsal.grow("alpha", "beta", sql="SELECT pg_sleep(1.5)")
    usual = rehearsal.monorepo.services
    stated = [
        {**entry, "statement_timeout": 1} if entry["name"] == "beta" else entry for entry in usual
    ]
    rehearsal.monorepo.register(*stated)
    try:
        ran = rehearsal.migrate(*ALPHA_AND_BETA)
    finally:
        rehearsal.monorepo.register(*usual)
    assert (ran.statuses["alpha"], ran.statuses["beta"]) == ("OK", "FAILED")
    beta = told(ran, "beta")
    assert "A statement exceeded statement_timeout: SELECT pg_sleep(1.5)" in beta["detail"]
    assert "statement_timeout" in beta["hint"]


def _alter(rehearsal: Rehearsal) -> None:
    rehearsal.revise("alpha", "b2", "a1", "ALTER TABLE note ADD COLUMN more text")


def _all_at_once(rehearsal: Rehearsal, number: int, flags: Sequence[str]) -> list[Ran]:
    children = [rehearsal.start(*flags) for _ in range(number)]
    return [outcome(child) for child in children]
