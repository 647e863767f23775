"""Many irregularities at once, from a monorepo without a registry to databases at head.

To try more monorepos than CI does: `pytest -n 0 tests/strangers -k random --rounds 50`.
"""

import json

import pytest

from tests.support.strangers.combinations import combination
from tests.support.strangers.truth import discover, done, elsewhere, untrue
from tests.support.strangers.writing import registry, strangers


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    metafunc.parametrize("number", range(metafunc.config.getoption("--rounds")))


def test_a_random_monorepo_is_discovered_checked_and_migrated(number: int) -> None:
    with strangers(combination(number)) as written:
        repository = written.repository
        assert untrue(discover(written), repository) == []
        # The user answers the open questions.
        written.monorepo.write(repository.registry, json.dumps(registry(repository)))
        done(written, "services.check", "--json")
        done(written, "db.reset", "--json")
        assert elsewhere(written) == []
        done(written, "db.status", "--check")
