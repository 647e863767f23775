"""Monorepos whose tests use the plugin."""

from collections.abc import Iterator

import pytest

from tests.support.db_runs import without_initdb
from tests.support.monorepo import Monorepo, new_monorepo


@pytest.fixture
def monorepo() -> Iterator[Monorepo]:
    """Return a monorepo of one service, whose servers for tests need no initdb."""
    with new_monorepo(["alpha"]) as made:
        yield without_initdb(made, of_tests=True)


@pytest.fixture(scope="module")
def prepared() -> Iterator[Monorepo]:
    """Return a monorepo of three services, for tests that leave its services as they are."""
    with new_monorepo() as made:
        yield without_initdb(made, of_tests=True)
