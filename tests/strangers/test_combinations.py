"""Many irregularities at once, from a monorepo without a registry to databases at head.

CI runs the first, of thirteen services with more irregularities than services. To try others, drawn
at random: `pytest -n 0 tests/strangers -k irregularities_at_once --rounds 50`.
"""

import json

import pytest

from tests.support.strangers.combinations import combination, thirteen
from tests.support.strangers.truth import discover, done, elsewhere, untrue
from tests.support.strangers.writing import registry, strangers


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    metafunc.parametrize("number", range(metafunc.config.getoption("--rounds")))


def test_irregularities_at_once_are_discovered_checked_and_migrated(number: int) -> None:
    with strangers(combination(number) if number else thirteen()) as written:
        repository = written.repository
        assert untrue(discover(written), repository) == []
        if number:
            # The user answers the open questions.
            written.monorepo.write(repository.registry, json.dumps(registry(repository)))
        done(written, "services.check", "--json")
        done(written, "db.reset", "--json")
        assert elsewhere(written) == []
        done(written, "db.status", "--check")
        sharing = repository.services[: repository.sharing]
        done(written, "db.reset", *(f"--service={service.name}" for service in sharing))
        assert elsewhere(written) == []
