"""A migration in a forked process gives the result of one in a new interpreter.

All services here share one run, one after the other, so that all are forked from one process.
"""

import json
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import psutil
import pytest

from tests.support.db_runs import without_initdb
from tests.support.instant import REBUILT, amend, reset
from tests.support.monorepo import ENV_PY, Monorepo, Ran, is_dead, new_monorepo, wait_until
from tests.support.observe import forking_processes, notes, statements
from tests.support.prepared import running_monorepo

# The fork server under test, and not the one that tests share.
pytestmark = pytest.mark.usefixtures("new_interpreters")

SLEEP = "SELECT pg_sleep(600)"
# Changes the state of its process.
POLLUTES = """\
import builtins, locale, logging, os, signal, socket, sys, warnings
import sqlalchemy, sqlalchemy.ext.asyncio, sqlalchemy.pool, alembic.context, asyncpg
import config, models
os.environ["LEAKED"] = "yes"
os.environ.pop("HOME", None)
sys.path.insert(0, "/leaked")
sys.argv.append("leaked")
logging.basicConfig(level=1, filename=os.devnull)
logging.disable(logging.CRITICAL)
logging.getLogger("alembic").setLevel(1)
os.umask(0)
warnings.simplefilter("error")
socket.setdefaulttimeout(0.001)
signal.signal(signal.SIGUSR1, lambda *_: None)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
builtins.leaked = True
sys.dont_write_bytecode = not sys.dont_write_bytecode
sys.setrecursionlimit(3000)
asyncpg.connect = None
sqlalchemy.pool.NullPool.leaked = True
sqlalchemy.event.listen(sqlalchemy.engine.Engine, "connect", lambda *_: None)
alembic.context.leaked = True
os.chdir("/")
"""
# Writes the state of its process to a file.
TELLS = """\
import builtins, json, logging, os, pathlib, signal, socket, sys, time, warnings
import sqlalchemy, sqlalchemy.pool, alembic.context, asyncpg
import config, models
mask = os.umask(0)
os.umask(mask)
pathlib.Path(__file__).parents[1].joinpath("world.json").write_text(json.dumps({
    "environ": {**os.environ},
    "path": sys.path,
    "argv": sys.argv[1:],
    "cwd": os.getcwd(),
    "umask": mask,
    "filters": [str(item) for item in warnings.filters],
    "levels": [logging.root.level, logging.root.manager.disable],
    "handlers": [str(handler) for handler in logging.root.handlers],
    "timeout": socket.getdefaulttimeout(),
    "signals": {number: str(signal.getsignal(number)) for number in signal.valid_signals()},
    "blocked": [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, [])],
    "builtins": sorted(vars(builtins)),
    "flags": str(sys.flags),
    "bytecode": sys.dont_write_bytecode,
    "recursion": sys.getrecursionlimit(),
    "leaked": [hasattr(found, "leaked") for found in (sqlalchemy.pool.NullPool, alembic.context)],
    "connect": callable(asyncpg.connect),
    "leads its group": os.getpgrp() == os.getpid(),
    "stdin": sys.stdin.read(),
    "terminal": os.isatty(0) or os.isatty(1) or os.isatty(2),
    "zone": time.tzname,
    "encoding": [sys.stdout.encoding, sys.getfilesystemencoding()],
    "models": models.__file__,
    "config": config.__file__,
    "children": os.path.exists("/proc/self/task/%d/children" % os.getpid())
        and open("/proc/self/task/%d/children" % os.getpid()).read(),
}))
"""
ODD = {
    "prints": "print('some words'); import sys; sys.stderr.write('{not json')",
    "logs": "import logging; logging.basicConfig(level=0); logging.error('an error of a log')",
    "leaves": "import sys; sys.exit(0)",
    "leaves_with_three": "import sys; sys.exit(3)",
    "leaves_at_once": "import os; os._exit(5)",
    "is_killed": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "raises": "print('words before'); raise RuntimeError('broken here')",
    "interrupts": "raise KeyboardInterrupt",
    "closes": "import os, sys; sys.stdout.close(); sys.stderr.close(); os.close(1); os.close(2)",
    "reads": "import sys; assert sys.stdin.read() == ''",
    "threads": "import threading; threading.Thread(target=input, daemon=True).start()",
    "finishes": "import threading, time, pathlib; file = pathlib.Path('finished').absolute(); "
    "threading.Thread(target=lambda: (time.sleep(0.3), file.touch())).start()",
    "tidies": "import atexit, pathlib; atexit.register(pathlib.Path('tidied').absolute().touch)",
    "spawns": "import subprocess, pathlib; child = subprocess.Popen(['sleep', '600']); "
    "pathlib.Path('child').write_text(str(child.pid))",
    "multiplies": "import multiprocessing; multiprocessing.set_start_method('spawn'); "
    "child = multiprocessing.Process(target=print, args=('from a child',)); "
    "child.start(); child.join(); assert child.exitcode == 0",
}


@pytest.fixture(scope="module")
def odd() -> Iterator[tuple[Monorepo, Ran]]:
    """A reset of services whose env.py files have side effects, and its result."""
    with new_monorepo([*ODD, "last"], server="odd_db") as made:
        without_initdb(made)
        for name, statement in ODD.items():
            made.write(f"services/{name}_service/alembic/env.py", f"{statement}\n{ENV_PY}")
        ran = made.invoke("db.reset", "--json", "--jobs", "2")
        yield made, ran


def row(ran: Ran, name: str) -> dict[str, Any]:
    """Return the row of a service in a JSON document."""
    (found,) = (row for row in ran.json["services"] if row["service"] == name)
    typed: dict[str, Any] = found
    return typed


@pytest.mark.parametrize(
    "name",
    ["prints", "logs", "closes", "reads", "threads", "finishes", "tidies", "spawns", "multiplies"],
)
def test_side_effects_of_an_env_py_do_not_break_its_migration(
    odd: tuple[Monorepo, Ran], name: str
) -> None:
    monorepo, ran = odd
    assert row(ran, name)["detail"] == REBUILT
    assert notes(monorepo, name) == "first second"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("leaves", "Alembic ended without an error, but huleedu_leaves is at no revision"),
        ("leaves_with_three", "Alembic failed with exit code 3"),
        ("leaves_at_once", "Alembic failed with exit code 5"),
        ("is_killed", "Alembic failed with exit code -9"),
        ("raises", "RuntimeError: broken here"),
        ("interrupts", "KeyboardInterrupt"),
    ],
)
def test_an_env_py_that_does_not_migrate_fails_alone(
    odd: tuple[Monorepo, Ran], name: str, told: str
) -> None:
    _, ran = odd
    assert ran.code == 1
    assert row(ran, name)["status"] == "FAILED"
    assert told in row(ran, name)["detail"]


def test_each_service_has_its_own_output(odd: tuple[Monorepo, Ran]) -> None:
    _, ran = odd
    assert "words before" in row(ran, "raises")["output"]
    assert "env.py" in row(ran, "raises")["output"]
    assert "some words" not in row(ran, "raises")["output"]
    assert {name for name, status in ran.statuses.items() if status != "OK"} == {
        "leaves",
        "leaves_with_three",
        "leaves_at_once",
        "is_killed",
        "raises",
        "interrupts",
    }


def test_threads_and_exit_handlers_are_finished(odd: tuple[Monorepo, Ran]) -> None:
    monorepo, _ = odd
    assert monorepo.path("services/finishes_service/finished").exists()
    assert monorepo.path("services/tidies_service/tidied").exists()


def test_processes_that_env_py_started_are_ended(odd: tuple[Monorepo, Ran]) -> None:
    monorepo, _ = odd
    child = int(monorepo.read("services/spawns_service/child"))
    assert not psutil.pid_exists(child) or is_dead(psutil.Process(child))
    assert not forking_processes(monorepo)


# Isolation between services.


@pytest.fixture(scope="module")
def pair() -> Iterator[Monorepo]:
    """A service that changes the state of its process, and one that then records the state."""
    with new_monorepo(["first", "second"]) as made:
        without_initdb(made)
        for name, statements_ in (("first", POLLUTES), ("second", TELLS)):
            made.write(f"services/{name}_service/alembic/env.py", f"{statements_}\n{ENV_PY}")
            made.write(f"services/{name}_service/models.py", f"NAME = {name!r}\n")
        # After its own migration, which needs the state that it breaks.
        made.write("services/first_service/alembic/env.py", f"{ENV_PY}\n{POLLUTES}")
        yield made


def world(pair: Monorepo, **variables: str) -> dict[str, Any]:
    ran = pair.invoke("db.reset", "--fresh", "--jobs", "1", env=variables)
    assert ran.code == 0, ran.out + ran.err
    told: dict[str, Any] = json.loads(pair.read("services/second_service/world.json"))
    return told


@pytest.mark.parametrize(
    "variables",
    [
        pytest.param({}, id="nothing"),
        pytest.param(
            {
                "PYTHONPATH": f".:../libs:{os.environ.get('PYTHONPATH', '')}",
                "PYTHONWARNINGS": "error::UserWarning",
                "TZ": "Asia/Tokyo",
                "PYTHONUTF8": "1",
                "PYTHONDONTWRITEBYTECODE": "1",
            },
            id="variables of Python",
        ),
    ],
)
def test_a_forked_migration_sees_the_state_of_a_new_interpreter(
    pair: Monorepo, variables: Mapping[str, str]
) -> None:
    forked, registered = world(pair, **variables), pair.services
    amend(pair, second={"python": sys.executable})
    started = world(pair, **variables)
    pair.register(*registered)
    # The fork server's value is not passed to an interpreter that may be a different one.
    forked["environ"].pop("VIRTUAL_ENV", None)
    assert forked == started
    assert forked["models"].endswith("second_service/models.py")


# Signals, time limits and killed processes.


@pytest.fixture
def small() -> Iterator[Monorepo]:
    with running_monorepo(["alpha", "beta"]) as made:
        yield made


def test_a_child_outside_the_process_group_is_not_waited_for(small: Monorepo) -> None:
    forks = (
        "import os, pathlib, time\n"
        "if not os.fork():\n"
        "    os.setsid()\n"
        "    pathlib.Path('daemon').write_text(str(os.getpid()))\n"
        "    time.sleep(150)\n"
        "    os._exit(0)\n"
    )
    small.write("services/alpha_service/alembic/env.py", f"{forks}{ENV_PY}")
    ran = small.invoke("db.reset", "--json")
    daemon = psutil.Process(int(small.read("services/alpha_service/daemon")))
    was_waited_for = is_dead(daemon)
    if not was_waited_for:
        daemon.kill()
    assert ran.statuses == {"alpha": "OK", "beta": "OK"}
    assert not was_waited_for


def test_the_end_of_the_fork_server_is_reported_as_a_failure(small: Monorepo) -> None:
    kills = "import os, signal; os.kill(os.getppid(), signal.SIGKILL)\n"
    small.write("services/alpha_service/alembic/env.py", f"{kills}{ENV_PY}")
    ran = small.invoke("db.reset", "--json", "--jobs", "1")
    assert ran.code == 1
    assert "Traceback" not in ran.out + ran.err
    assert ran.statuses["alpha"] == "FAILED"
    assert len(ran.statuses) == 2
    small.write("services/alpha_service/alembic/env.py", ENV_PY)
    assert reset(small, "alpha", "--fresh").detail == REBUILT


def test_migrations_that_exceed_the_time_limit_are_ended_with_their_children(
    small: Monorepo,
) -> None:
    small.add_revision("alpha", "b2", "a1", SLEEP)
    ran = small.invoke("db.reset", "--json", env={"HULEEDU_MIGRATION_TIMEOUT": "2"})
    assert ran.statuses == {"alpha": "FAILED", "beta": "OK"}
    assert "exceeded 2 s" in row(ran, "alpha")["detail"]
    wait_until(lambda: not statements(small, "alpha", SLEEP), seconds=5)
    assert not forking_processes(small)
