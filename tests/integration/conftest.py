"""What several files of integration tests share."""

from collections.abc import Iterator

import pytest

from tests.support.alembic_bench import Bench, new_bench
from tests.support.fork_server import forked_scripts


@pytest.fixture(scope="module", autouse=True)
def scripts() -> Iterator[None]:
    """Fork the package's scripts from a process that has imported Alembic already."""
    with forked_scripts():
        yield


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    """Return a running server, on which each test makes services with databases of their own."""
    with new_bench() as made:
        yield made
