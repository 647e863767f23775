"""What several files of integration tests share."""

from collections.abc import Iterator

import pytest

from tests.support.alembic_bench import Bench, new_bench
from tests.support.db_runs import without_initdb
from tests.support.fork_server import forked_scripts
from tests.support.monorepo import Monorepo, new_monorepo


@pytest.fixture(scope="module", autouse=True)
def scripts() -> Iterator[None]:
    """Fork the package's scripts from a process that has imported Alembic already."""
    with forked_scripts():
        yield


@pytest.fixture(scope="module")
def running() -> Iterator[Monorepo]:
    """Return a monorepo of three small services after a reset; tests leave it as it was."""
    with new_monorepo() as made:
        assert without_initdb(made).invoke("db.reset").code == 0
        yield made


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    """Return a running server, on which each test makes services with databases of their own."""
    with new_bench() as made:
        yield made
