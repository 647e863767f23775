"""Drift of histories that differ in kind, with another major version for their replays."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from huleedu_tasks.postgres.binaries import PACKAGE_PROGRAMS, package_directory
from tests.support.history_samples import (
    SAMPLES,
    add_pending_revisions,
    add_samples,
    changes_by_hand,
)
from tests.support.monorepo import Monorepo, Ran, empty_monorepo
from tests.support.postgres import ask
from tests.support.production import external

OLDER = sorted(Path("/usr/lib/postgresql").glob("1[5-7]/bin"))


def newest() -> Path:
    """Return the directory of the newest major version."""
    package = package_directory()
    assert package
    return package / PACKAGE_PROGRAMS


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the rarer direction, a database that is newer than the replay, on request."""
    every = metafunc.config.getoption("--every-combination")
    metafunc.parametrize("live", ["older", *(["newer"] if every else [])], indirect=True)


@pytest.fixture(scope="module")
def live(request: pytest.FixtureRequest) -> Iterator[Monorepo]:
    """Return a monorepo whose databases are at `b2`; throwaway servers have another version."""
    if not OLDER:
        pytest.skip("this machine has no PostgreSQL 15, 16 or 17 of Debian")
    versions = [OLDER[0], newest()]
    own, other = versions if request.param == "older" else reversed(versions)
    with empty_monorepo() as made:
        add_samples(made)
        made.environment["HULEEDU_POSTGRES_BIN"] = str(own)
        for command in ("db.up", "db.migrate"):
            ran = made.invoke(command)
            assert ran.code == 0, ran.out + ran.err
        add_pending_revisions(made)
        production = external("PROD", "production", made.port("names"), SSLMODE="disable")
        made.environment |= {**production, "HULEEDU_POSTGRES_BIN": str(other)}
        yield made


def found(ran: Ran) -> dict[str, list[str]]:
    """Return the differences of each service, or its error."""
    return {
        row["service"]: [f"{one['object']}: {one['change']}" for one in row["drift"]]
        if "drift" in row
        else [row["detail"], row.get("output", "")]
        for row in ran.json["services"]
    }


def test_only_changes_by_hand_are_drift(live: Monorepo) -> None:
    for url, change in changes_by_hand(live):
        ask(url, change)
    ran = live.invoke("prod.drift", "--json")
    assert found(ran) == {name: [*sample.found] for name, sample in SAMPLES.items()}
