"""Fixtures for all tests."""

import compileall
import gc
import os
import signal
from collections.abc import Generator, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from tests.support import fork_server
from tests.support.db_runs import without_initdb
from tests.support.monorepo import PROJECT, Monorepo, copy_of_this_monorepo, new_monorepo
from tests.support.prepared import running_monorepo

ROUNDS = 1
DOCKER, UNIT = PROJECT / "tests/docker", PROJECT / "tests/unit"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options for more rounds and combinations than CI runs."""
    parser.addoption("--rounds", type=int, default=ROUNDS, help="rounds of each repeated test")
    parser.addoption(
        "--every-combination",
        action="store_true",
        help="run every combination of parameters, instead of each value once",
    )
    parser.addoption(
        "--fresh-interpreters",
        action="store_true",
        help="start an interpreter for each command, instead of forking a prepared one",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrize a test that is marked with `combinations`."""
    every = bool(metafunc.config.getoption("--every-combination"))
    for marker in metafunc.definition.iter_markers("combinations"):
        axes = [list(values) for values in marker.kwargs.values()]
        metafunc.parametrize(tuple(marker.kwargs), chosen_combinations(axes, every=every))


def chosen_combinations(axes: Sequence[Sequence[Any]], *, every: bool) -> list[tuple[Any, ...]]:
    """Return all combinations of values, or a few that contain each value at least once."""
    if every:
        return list(product(*axes))
    return [
        tuple(values[number % len(values)] for values in axes)
        for number in range(max(len(values) for values in axes))
    ]


@pytest.fixture
def rounds(request: pytest.FixtureRequest) -> int:
    """Return the number of rounds of a randomly repeated test."""
    return int(request.config.getoption("--rounds"))


def pytest_xdist_auto_num_workers() -> int:
    """Run two more workers than there are processors: each waits half of its time."""
    return (os.cpu_count() or 1) + 2


def pytest_configure(config: pytest.Config) -> None:
    """Prepare the process, and once the package, for the commands under test."""
    # Ctrl-C must reach them, even where a shell runs us in the background.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # `nohup` has it ignored, in every child process too.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    fork_server.is_wanted = not config.getoption("--fresh-interpreters")
    if not hasattr(config, "workerinput"):
        # Processes that begin at once would each compile what none of them has imported yet.
        compileall.compile_dir(PROJECT / "huleedu_tasks", quiet=1)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep what is collected out of every later garbage collection."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Spread the files that use Docker among the slow ones: at once they wait for one engine."""
    paths = list(dict.fromkeys(item.path for item in items))
    docker = [path for path in paths if DOCKER in path.parents]
    others = [path for path in paths if DOCKER not in path.parents]
    distance = sum(UNIT not in path.parents for path in others) / max(len(docker), 1)
    position: dict[Path, float] = {path: number for number, path in enumerate(others)}
    position |= {path: number * distance - 0.5 for number, path in enumerate(docker)}
    items.sort(key=lambda item: position[item.path])


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Fail if a test was skipped in CI, where everything must be able to run."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and reporter and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(autouse=True)
def no_settings_of_the_developer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the developer's own settings from the environment of every test."""
    for name in os.environ:
        if name.startswith(("HULEEDU_", "PG")) or name.endswith("_DATABASE_URL"):
            monkeypatch.delenv(name)


@pytest.fixture
def monorepo() -> Iterator[Monorepo]:
    """Return a monorepo of three small services, with nothing running."""
    with new_monorepo() as made:
        yield made


@pytest.fixture(scope="module")
def new_interpreters() -> Iterator[None]:
    """Start an interpreter for each command, as a user does, instead of forking one."""
    with fork_server.fresh_interpreters():
        yield


@pytest.fixture(scope="module")
def running() -> Iterator[Monorepo]:
    """Return a monorepo of three small services after a reset; tests leave it as it was."""
    with running_monorepo() as made:
        yield made


@pytest.fixture
def ready() -> Iterator[Monorepo]:
    """Return a monorepo of three small services after a reset, of the test's own."""
    with running_monorepo() as made:
        yield made


@pytest.fixture(scope="session")
def huleedu() -> Iterator[Monorepo]:
    """Return a copy of this repository's own services after a reset, on other ports."""
    with copy_of_this_monorepo() as made:
        ran = without_initdb(made).invoke("db.reset")
        assert ran.code == 0, ran.err
        yield made
