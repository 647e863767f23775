"""One production environment for each kind of test; every test restores its initial state."""

from collections.abc import Iterator

import pytest

from tests.support.production import Production, new_production
from tests.support.rehearsal import Rehearsal, new_rehearsal


@pytest.fixture(scope="session")
def production() -> Iterator[Production]:
    """Return a production environment at head."""
    with new_production() as made:
        yield made


@pytest.fixture(scope="package")
def stage() -> Iterator[Rehearsal]:
    """Return a production environment of several services, for migrations."""
    with new_rehearsal() as made:
        yield made


@pytest.fixture
def rehearsal(stage: Rehearsal) -> Rehearsal:
    """Return the same environment, reset to its initial state."""
    stage.wind_back()
    return stage
