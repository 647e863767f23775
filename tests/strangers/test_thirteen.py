"""Thirteen services with more irregularities than services."""

from tests.support.strangers.combinations import thirteen
from tests.support.strangers.truth import discover, done, elsewhere, untrue
from tests.support.strangers.writing import strangers


def test_thirteen_services_are_migrated_with_the_discovered_registry() -> None:
    with strangers(thirteen()) as written:
        assert untrue(discover(written), written.repository) == []
        done(written, "services.check", "--json")
        done(written, "db.reset", "--json")
        assert elsewhere(written) == []
        done(written, "db.status", "--check")
        sharing = written.repository.services[: written.repository.sharing]
        done(written, "db.reset", *(f"--service={service.name}" for service in sharing))
        assert elsewhere(written) == []
