"""What several files of integration tests share."""

from collections.abc import Iterator

import pytest

from tests.support.alembic_bench import Bench, new_bench


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    """Return a running server, on which each test makes services with databases of their own."""
    with new_bench() as made:
        yield made
