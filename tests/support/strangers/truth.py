"""What the tasks make of a monorepo of strangers, compared with what is true of it."""

import json
from collections.abc import Collection, Iterator
from typing import Any

from tests.support.monorepo import Ran
from tests.support.postgres import ask
from tests.support.strangers import histories
from tests.support.strangers.switches import Config, Repository, Stranger
from tests.support.strangers.writing import Strangers, registry

TABLES = "SELECT tablename::text FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"
REVISIONS = "SELECT version_num::text FROM alembic_version"
OPEN = "FIXME"
INTERPRETERS = ("python", "alembic")
# What follows from the server.
OF_THE_SERVER = ("port", "database", "compose_service", "volume")


def done(written: Strangers, *arguments: str) -> Ran:
    """Run a command that must succeed, and return how it ended.

    Raises:
        AssertionError: With all that it printed, if it does not.
    """
    ran = written.monorepo.invoke(*arguments)
    assert ran.code == 0, f"{arguments} ended with {ran.code}\n{ran.out}\n{ran.err}"
    return ran


def elsewhere(written: Strangers, *services: Stranger) -> list[Any]:
    """Return the services whose databases have other tables or revisions than they should.

    Args:
        services: Those to look at, or none for all.
    """
    return [
        (service, found)
        for service in services or written.repository.services
        if (found := _found_in_database(written, service)) != _expected_in_database(service)
    ]


def discover(written: Strangers) -> dict[str, Any]:
    """Return the registry that `services.discover` writes where there is none."""
    path = written.monorepo.path(written.repository.registry)
    path.unlink()
    ran = written.monorepo.invoke("services.discover")
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    # What is left open is no success.
    assert text, ran.err
    assert ran.code == int(OPEN in text), ran.out + ran.err
    found: dict[str, Any] = json.loads(text)
    return found


def untrue(found: dict[str, Any], repository: Repository) -> list[Any]:
    """Return what a registry says otherwise than the true one, or more or less.

    Only what nobody can know may be left open.
    """
    true = registry(repository)
    wrong = [key for key in ("compose_files",) if found.get(key) != true.get(key)]
    entries = {entry["name"]: entry for entry in found["services"]}
    unheard = set(entries) - {service.name for service in repository.services}
    return [*wrong, *unheard, *_untrue_entries(entries, true, repository)]


def _untrue_entries(
    entries: dict[str, Any], true: dict[str, Any], repository: Repository
) -> Iterator[Any]:
    for service, entry in zip(repository.services, true["services"], strict=True):
        found = entries.get(service.name, {})
        unknown = [name for name in _hidden(service, repository) if OPEN in str(found.get(name))]
        # As long as the server is open, so is what follows from it.
        ignored = OF_THE_SERVER if "port" in unknown else unknown
        if _meaning(found, ignored) != _meaning(entry, ignored):
            yield service, found, entry


def _hidden(service: Stranger, repository: Repository) -> tuple[str, ...]:
    """Return what nothing in the monorepo tells of a service on a server of many."""
    if not repository.shares(service) or service.config is Config.REGULAR:
        return ()
    if not repository.containers:
        return OF_THE_SERVER
    return () if repository.containers_know else ("database",)


def _meaning(entry: dict[str, Any], ignored: Collection[str]) -> dict[str, Any]:
    """Return an entry without some fields, and of its interpreter only whose it is."""
    stated = {name: value for name, value in entry.items() if name not in ignored}
    is_own = any(name in stated for name in INTERPRETERS)
    others = {name: value for name, value in stated.items() if name not in INTERPRETERS}
    return {**others, "has its own interpreter": is_own}


def _found_in_database(written: Strangers, service: Stranger) -> tuple[list[Any], list[Any]]:
    url = written.url(service)
    return ask(url, TABLES), ask(url, REVISIONS)


def _expected_in_database(service: Stranger) -> tuple[list[Any], list[Any]]:
    tables = sorted(["alembic_version", *histories.tables(service)])
    return [(table,) for table in tables], [(histories.head(service),)]
