"""Compares the results of the tasks in a monorepo of strangers with the correct ones."""

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
# The fields that depend on the server.
OF_THE_SERVER = ("port", "database", "compose_service", "volume")


def done(written: Strangers, *arguments: str) -> Ran:
    """Run a command that must succeed.

    Raises:
        AssertionError: If it fails, with its output.
    """
    ran = written.monorepo.invoke(*arguments)
    assert ran.code == 0, f"{arguments} ended with {ran.code}\n{ran.out}\n{ran.err}"
    return ran


def elsewhere(written: Strangers, *services: Stranger) -> list[Any]:
    """Return the services whose databases have unexpected tables or revisions.

    Args:
        services: The services to examine; all if none are passed.

    Returns:
        The services with what was found; empty if all databases are correct.
    """
    return [
        (service, found)
        for service in services or written.repository.services
        if (found := _found_in_database(written, service)) != _expected_in_database(service)
    ]


def discover(written: Strangers) -> dict[str, Any]:
    """Delete the registry, and return the one that `services.discover` writes."""
    path = written.monorepo.path(written.repository.registry)
    path.unlink()
    ran = written.monorepo.invoke("services.discover")
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    # With an open question the command fails.
    assert text, ran.err
    assert ran.code == int(OPEN in text), ran.out + ran.err
    found: dict[str, Any] = json.loads(text)
    return found


def untrue(found: dict[str, Any], repository: Repository) -> list[Any]:
    """Return the differences between a registry and the correct one; empty if there are none.

    Only fields that the files do not determine may have an open question.
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
        # If the server is an open question, so are the fields that depend on it.
        ignored = OF_THE_SERVER if "port" in unknown else unknown
        if _meaning(found, ignored) != _meaning(entry, ignored):
            yield service, found, entry


def _hidden(service: Stranger, repository: Repository) -> tuple[str, ...]:
    """Return the fields that no file determines for a service on a shared server."""
    if not repository.shares(service) or service.config is Config.REGULAR:
        return ()
    if not repository.containers:
        return OF_THE_SERVER
    return () if repository.containers_know else ("database",)


def _meaning(entry: dict[str, Any], ignored: Collection[str]) -> dict[str, Any]:
    """Return an entry without some fields, and whether it states its own interpreter."""
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
