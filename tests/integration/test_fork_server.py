"""A forked command behaves as in an interpreter of its own."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator

import pytest

from tests.conftest import chosen_combinations
from tests.support.db_runs import without_initdb
from tests.support.fork_server import ForkServer, fresh_interpreters
from tests.support.monorepo import (
    ENV_PY,
    Monorepo,
    clean_environment,
    empty_monorepo,
    new_monorepo,
)

# Importing our own tasks has an effect on the interpreter.
TASKS = """\
import os
import signal
import sys
import time

from invoke import task

import huleedu_tasks.cli as ours


@task
def tell(context):
    print(sys.argv, sys.path, os.getcwd(), sorted(os.environ.items()))
    print([signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE)])
    print(sys.stdin.read(), sys.stdout.isatty(), sys.dont_write_bytecode, os.getpgid(0))
    print(len(os.listdir("/proc/self/fd")), os.umask(0), file=sys.stderr)


@task
def end(context, code):
    sys.exit(int(code))


@task
def be_killed(context):
    os.kill(os.getpid(), signal.SIGKILL)


@task
def say_who(context):
    print(os.getppid())


@task
def say_much(context):
    print("much" * 1_000_000)


@task
def break_off(context):
    raise KeyError("nothing caught it")


@task
def last(context):
    time.sleep(5)
"""


@pytest.fixture(scope="module")
def directory() -> Iterator[Monorepo]:
    with empty_monorepo() as made:
        made.write("tasks.py", TASKS)
        made.path("below").mkdir()
        yield made


def test_a_forked_command_has_the_same_environment(directory: Monorepo) -> None:
    options = {"cwd": "below", "env": {"COLOUR": "green"}}
    forked = directory.invoke("tell", **options)
    assert forked.code == 0
    assert forked == directory.invoke_afresh("tell", **options)


@pytest.mark.parametrize("task", ["end 0", "end 7", "end 300", "be-killed", "say-much", "no-such"])
def test_a_forked_command_has_the_same_output_and_exit_status(
    directory: Monorepo, task: str
) -> None:
    assert directory.invoke(*task.split()) == directory.invoke_afresh(*task.split())


# What differs in a process that was not started for this command.
TOLD_BY_ENV_PY = """\
import json, os, pathlib, signal, sys

pathlib.Path(__file__).with_name("told").write_text(json.dumps({
    "argv": sys.argv,
    "path": sys.path,
    "environ": {**os.environ, "HULEEDU_WORKER": ""},
    "modules": sorted(sys.modules),
    "signals": {number: str(signal.getsignal(number)) for number in signal.valid_signals()},
    "stdin": sys.stdin.read(),
    "descriptors": len(os.listdir("/proc/self/fd")),
    "session": os.getsid(0) == os.getsid(os.getppid()),
    "main": sys.modules["__main__"].__file__,
}))
"""


def test_migrations_of_a_forked_command_have_the_same_environment() -> None:
    with new_monorepo(["alpha"]) as made:
        without_initdb(made)
        made.write("services/alpha_service/alembic/env.py", TOLD_BY_ENV_PY + ENV_PY)
        told = []
        for invoke in (made.invoke, made.invoke_afresh):
            assert invoke("db.reset", "--fresh").code == 0
            told.append(json.loads(made.read("services/alpha_service/alembic/told")))
    assert told[0] == told[1]


def test_an_uncaught_exception_is_printed(directory: Monorepo) -> None:
    ran = directory.invoke("break-off")
    assert ran.code == 1
    assert ran.err.endswith("KeyError: 'nothing caught it'\n")


def test_a_command_is_forked_only_on_request(
    directory: Monorepo,
) -> None:
    own = f"{os.getpid()}\n"
    assert directory.invoke("say-who").out != own
    assert directory.invoke("say-who", env={"PYTHONOPTIMIZE": "1"}).out == own
    assert directory.invoke("say-who", env={"LANG": "sv_SE.UTF-8"}).out == own
    with fresh_interpreters():
        assert directory.invoke("say-who").out == own


def test_a_command_that_does_not_end_is_reported(directory: Monorepo) -> None:
    server = ForkServer()
    command = server.start(["last"], directory.root, clean_environment())
    with pytest.raises(subprocess.TimeoutExpired):
        command.communicate(timeout=0.5)
    command.kill()
    command.communicate()
    assert command.returncode == -signal.SIGKILL
    server.close()


def test_in_few_combinations_each_value_is_tried() -> None:
    axes = ["abcd", "xyz", "12"]
    few, all_of_them = (chosen_combinations(axes, every=every) for every in (False, True))
    assert [set(values) for values in zip(*few, strict=True)] == [set(values) for values in axes]
    assert len(few) == 4
    assert len(set(all_of_them)) == 24
    assert set(few) < set(all_of_them)
