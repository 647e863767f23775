"""Monorepos whose tests use the plugin."""

from collections.abc import Iterator

import pytest

from tests.support.monorepo import Monorepo, new_monorepo


@pytest.fixture(scope="module")
def prepared() -> Iterator[Monorepo]:
    """Return a monorepo of three services, for tests that leave its services as they are."""
    with new_monorepo() as made:
        yield made
