"""After Ctrl-C, SIGTERM and SIGKILL every service is reported and no process is left."""

import signal
import subprocess
from collections.abc import Callable, Iterator

import psutil
import pytest

from tests.support.monorepo import Monorepo, Ran, is_dead, new_monorepo, wait_until, without_servers
from tests.support.observe import forking_processes, notes, processes, statements
from tests.support.prepared import running_monorepo

NAMES = ("alpha", "beta")
SLEEP = "SELECT pg_sleep(600)"
SLOW_SEED = f"""\
async def seed(connection):
    await connection.execute("INSERT INTO note VALUES (9, 'half')")
    await connection.execute({SLEEP!r})
"""
ASKS_FOR_TIME = """\
import pathlib, signal
signal.signal(signal.SIGTERM, lambda *_: pathlib.Path({path!r}).touch())
"""
# Handled alike, so that each is sent once.
OF_MIGRATIONS = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
OF_SEEDS = [(signal.SIGHUP, 129)]
Tool = subprocess.Popen[str]


@pytest.fixture(scope="module")
def pair() -> Iterator[Monorepo]:
    with running_monorepo(NAMES) as made:
        yield made


@pytest.fixture
def sleeping_revision(pair: Monorepo) -> Iterator[None]:
    revision = pair.add_revision("beta", "b2", "a1", SLEEP)
    yield
    revision.unlink()


@pytest.fixture
def sleeping_seed(pair: Monorepo) -> Iterator[None]:
    path = "database/seed-scripts/seed_beta.py"
    seed = pair.read(path)
    pair.write(path, SLOW_SEED)
    yield
    pair.write(path, seed)


def started(monorepo: Monorepo, reached: Callable[[], object], *arguments: str) -> Tool:
    """Start a reset with one job, and return when it has reached a point."""
    assert not reached()
    tool = monorepo.start("db.reset", "--jobs", "1", *arguments)
    wait_until(lambda: reached() or tool.poll() is not None)
    assert tool.poll() is None, tool.communicate()
    return tool


def ended(tool: Tool, number: signal.Signals) -> Ran:
    """Send a signal to the command only, and require that none of its children is left."""
    children = without_servers(psutil.Process(tool.pid).children(recursive=True))
    tool.send_signal(number)
    out, err = tool.communicate(timeout=20)
    wait_until(lambda: all(map(is_dead, children)))
    return Ran(tool.returncode, out, err)


def sleeps(monorepo: Monorepo) -> bool:
    return statements(monorepo, "beta", SLEEP) > 0


def assert_heals(monorepo: Monorepo) -> None:
    assert monorepo.invoke("db.reset").code == 0
    assert notes(monorepo, "beta") == notes(monorepo, "alpha") == "first second"


@pytest.mark.parametrize(("number", "code"), OF_MIGRATIONS)
@pytest.mark.usefixtures("sleeping_revision")
def test_interrupted_migrations_end_with_their_backend_and_every_service_has_a_row(
    pair: Monorepo, number: signal.Signals, code: int
) -> None:
    ran = ended(started(pair, lambda: sleeps(pair), "--json"), number)
    assert (ran.code, ran.json["exit_code"]) == (code, code)
    assert ran.statuses == {"alpha": "ABORTED", "beta": "ABORTED"}
    alpha, beta = ran.json["services"]
    assert (alpha["detail"], beta["detail"]) == ("copied, then interrupted", "interrupted")
    wait_until(lambda: not sleeps(pair), seconds=5)
    assert processes(pair) == {pair.server_pid(name) for name in NAMES}
    assert not forking_processes(pair)


@pytest.mark.parametrize(("number", "code"), OF_SEEDS)
@pytest.mark.usefixtures("sleeping_seed")
def test_an_interrupted_seed_is_rolled_back_and_finished_services_are_reported(
    pair: Monorepo, number: signal.Signals, code: int
) -> None:
    ran = ended(started(pair, lambda: sleeps(pair)), number)
    assert ran.code == code
    alpha, beta = ran.out.splitlines()[1:]
    assert alpha.split()[:2] == ["alpha", "OK"]
    assert beta.split()[:2] == ["beta", "ABORTED"]
    assert "db.reset: 1 OK, 1 ABORTED" in ran.err
    assert "What to do: Run the same command again" in ran.err
    wait_until(lambda: not sleeps(pair), seconds=5)
    assert notes(pair, "beta") == ""


def test_a_reset_after_interruptions_succeeds(pair: Monorepo) -> None:
    assert_heals(pair)


@pytest.mark.usefixtures("sleeping_revision")
def test_a_second_ctrl_c_kills_a_child_that_does_not_exit(pair: Monorepo) -> None:
    env = "services/beta_service/alembic/env.py"
    text = pair.read(env)
    asked = pair.path("asked-to-end")
    pair.write(env, f"{ASKS_FOR_TIME.format(path=str(asked))}{text}")
    tool = started(pair, lambda: sleeps(pair))
    tool.send_signal(signal.SIGINT)
    wait_until(asked.exists)
    assert ended(tool, signal.SIGINT).code == 130
    wait_until(lambda: not sleeps(pair), seconds=5)
    pair.write(env, text)


def test_the_reset_after_a_killed_one_succeeds(pair: Monorepo) -> None:
    revision = pair.add_revision("beta", "b2", "a1", SLEEP)
    tool = started(pair, lambda: sleeps(pair))
    tool.kill()
    tool.communicate()
    revision.unlink()
    assert_heals(pair)
    assert not sleeps(pair)
    servers = {pair.server_pid(name) for name in NAMES}
    wait_until(lambda: processes(pair) == servers and not forking_processes(pair))


@pytest.mark.parametrize(
    "reached", ["*/.template/data.partial/PG_VERSION", "*/beta_db/data/PG_VERSION"]
)
def test_ctrl_c_while_servers_are_created_aborts_every_service_and_the_next_reset_succeeds(
    reached: str,
) -> None:
    with new_monorepo(NAMES) as monorepo:
        ran = ended(
            started(monorepo, lambda: any(monorepo.state.glob(f"embedded/{reached}")), "--json"),
            signal.SIGINT,
        )
        assert (ran.code, set(ran.statuses.values())) == (130, {"ABORTED"})
        assert_heals(monorepo)


def test_ctrl_c_while_waiting_for_another_command_aborts_every_service(pair: Monorepo) -> None:
    revision = pair.add_revision("beta", "b2", "a1", SLEEP)
    first = started(pair, lambda: sleeps(pair))
    waiting = pair.start("db.reset", "--json")
    assert waiting.stderr
    assert "Waiting for another command" in waiting.stderr.readline()
    ran = ended(waiting, signal.SIGINT)
    assert (ran.code, set(ran.statuses.values())) == (130, {"ABORTED"})
    assert ended(first, signal.SIGINT).code == 130
    revision.unlink()
