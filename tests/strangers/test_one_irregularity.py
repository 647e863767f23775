"""One irregularity at a time: the database of every service is migrated."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache

import pytest

from tests.support.db_runs import without_initdb
from tests.support.monorepo import Ran
from tests.support.postgres import ask
from tests.support.strangers import combinations, histories
from tests.support.strangers.switches import Password, Repository, Stranger
from tests.support.strangers.truth import elsewhere
from tests.support.strangers.writing import Strangers, strangers

SINGLES = dict(combinations.singles())
# Distributed over three monorepos, which have irregularities themselves.
MONOREPOS = {
    "regular": Repository(services=()),
    "registry elsewhere": Repository(
        services=(), registry=combinations.STRANGE_REGISTRY, password=Password.QUOTES
    ),
    "unusual directory": Repository(
        services=(), folder=combinations.STRANGE_DIRECTORY, sharing=3, password=Password.REGULAR
    ),
}
PLACES = {
    irregularity: list(MONOREPOS)[number % len(MONOREPOS)]
    for number, irregularity in enumerate(SINGLES)
}

DATABASES = """
SELECT datname::text FROM pg_database
 WHERE NOT datistemplate AND datname <> 'postgres' ORDER BY 1
"""


@dataclass(frozen=True, kw_only=True)
class After:
    """A monorepo after a reset."""

    written: Strangers
    reset: Ran
    services: dict[str, Stranger]


@pytest.fixture(scope="module")
def after() -> Iterator[Callable[[str], After]]:
    """Return a function that writes and resets a monorepo once for all tests of the file."""
    with ExitStack() as stack:
        yield cache(lambda place: reset(place, stack))


def reset(place: str, stack: ExitStack) -> After:
    alone = {name: SINGLES[name] for name in SINGLES if PLACES[name] == place}
    services = combinations.named(list(alone.values()))
    repository = replace(MONOREPOS[place], services=services)
    written = stack.enter_context(strangers(repository))
    return After(
        written=written,
        reset=without_initdb(written.monorepo).invoke("db.reset", "--json"),
        services=dict(zip(alone, services, strict=True)),
    )


@pytest.mark.parametrize("irregularity", SINGLES)
def test_its_migrations_and_no_others_are_in_its_own_database(
    after: Callable[[str], After], irregularity: str
) -> None:
    done = after(PLACES[irregularity])
    service = done.services[irregularity]
    (outcome,) = (row for row in done.reset.json["services"] if row["service"] == service.name)
    assert outcome["status"] == "OK", outcome
    assert elsewhere(done.written, service) == []


@pytest.mark.parametrize("place", MONOREPOS)
def test_no_server_has_a_database_of_another_service(
    after: Callable[[str], After], place: str
) -> None:
    written = after(place).written
    port = written.repository.port
    for service in written.repository.services:
        own = [other for other in written.repository.services if port(other) == port(service)]
        found = ask(written.url(service), DATABASES)
        # The names of a template and of an undo snapshot begin with that of their database.
        names = {name.partition("__made_")[0].removesuffix("__undo") for (name,) in found}
        assert names == {other.database for other in own}


@pytest.mark.parametrize("place", MONOREPOS)
def test_the_status_of_them_all_is_at_head(after: Callable[[str], After], place: str) -> None:
    done = after(place)
    assert done.reset.code == 0, done.reset.err
    status = done.written.monorepo.invoke("db.status", "--check", "--json")
    assert status.code == 0, status.err
    heads = {row["service"]: row["head"] for row in status.json["services"]}
    assert heads == {service.name: histories.head(service) for service in done.services.values()}


def test_all_irregularities_are_tried() -> None:
    assert len(SINGLES) > 40
    assert all(service == service.possible() for service in SINGLES.values())
