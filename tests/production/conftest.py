"""One production for all tests of a kind; each leaves it as it was."""

from collections.abc import Iterator

import pytest

from tests.support.production import Production, new_production
from tests.support.rehearsal import Rehearsal, new_rehearsal


@pytest.fixture(scope="session")
def production() -> Iterator[Production]:
    """Return a production at head."""
    with new_production() as made:
        yield made


@pytest.fixture(scope="package")
def stage() -> Iterator[Rehearsal]:
    """Return a production of several services that is there to be migrated."""
    with new_rehearsal() as made:
        yield made


@pytest.fixture
def rehearsal(stage: Rehearsal) -> Rehearsal:
    """Return the same, as it was at the beginning."""
    stage.wind_back()
    return stage
