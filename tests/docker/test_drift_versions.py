"""Drift between two major versions of PostgreSQL: a container, and embedded throwaway servers."""

from collections.abc import Iterator

import pytest

from huleedu_tasks.postgres.binaries import PACKAGE_PROGRAMS, package_directory
from huleedu_tasks.postgres.databases import quoted
from huleedu_tasks.schema.sql_text import split
from tests.support.docker import Docked, new_docked
from tests.support.monorepo import PASSWORD
from tests.support.postgres import ask
from tests.support.production import external
from tests.support.schemas import HISTORY, ROLES

# PostgreSQL shows a CHECK with IN, and a view, in other words after a restore or in a new version.
REWORDED = (
    "CREATE TABLE shop.state (name varchar(9) CHECK (name IN ('on', 'off')))",
    "ALTER TABLE shop.base RENAME TO renamed",
    "CREATE VIEW shop.names AS SELECT name FROM shop.state WHERE name BETWEEN 'a' AND 'z'",
)


@pytest.fixture(scope="module")
def docked() -> Iterator[Docked]:
    """Return a monorepo whose container has an object of every kind."""
    with new_docked("alpha") as made:
        roles = [f"CREATE ROLE {quoted(role)}" for role in ROLES]
        made.add_revision("alpha", "b2", "a1", *roles, *split(HISTORY, ";"), *REWORDED)
        made.add_revision("alpha", "c3", "b2", "DROP TABLE shop.renamed CASCADE")
        assert made.invoke("db.up").code == 0
        assert made.invoke("db.migrate", "--revision", "b2").code == 0
        yield made


def test_the_words_of_another_version_are_not_drift(docked: Docked) -> None:
    package = package_directory()
    assert package is not None
    environment = {
        **external("PROD", "production", docked.port("alpha"), SSLMODE="disable"),
        "HULEEDU_PROVIDER": "embedded",
        "HULEEDU_POSTGRES_BIN": str(package / PACKAGE_PROGRAMS),
    }
    assert environment["HULEEDU_PROD_DB_PASSWORD"] == PASSWORD
    (alpha,) = docked.invoke("prod.drift", "--json", env=environment).json["services"]
    assert (alpha["status"], alpha.get("drift")) == ("OK", []), alpha
    ask(docked.url("alpha"), "ALTER TABLE shop.state DROP CONSTRAINT state_name_check")
    (alpha,) = docked.invoke("prod.drift", "--json", env=environment).json["services"]
    assert [found["object"] for found in alpha["drift"]] == [
        "constraint shop.state.state_name_check"
    ]
