"""One production for all tests of this tier; each leaves it as it was."""

from collections.abc import Iterator

import pytest

from tests.support.production import Production, new_production


@pytest.fixture(scope="session")
def production() -> Iterator[Production]:
    """Return a production at head."""
    with new_production() as made:
        yield made
