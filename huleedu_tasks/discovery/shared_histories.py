"""Finds services that keep their Alembic histories in the same database."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from huleedu_tasks.discovery.registry_entries import Basis, Entry, service_of
from huleedu_tasks.migrations.alembic_config import NotUnderstood
from huleedu_tasks.migrations.version_table import stated_version_table
from huleedu_tasks.postgres.databases import VersionTable

SHARED, AFTER = "shared_database", "migrate_after"
_CREATED = r"create\s+schema\s+(if\s+not\s+exists\s+)?\W{{0,2}}{}\b"


def state_sharing(made: Sequence[Entry], basis: Basis) -> list[Entry]:
    """State `shared_database` and `migrate_after` for entries with the same database.

    Entries whose version tables are equal or not known are returned unchanged.
    """
    groups = [group for group in _groups(made, basis) if _can_share(group)]
    shared = {entry.name: group for group in groups for entry in group}
    return [_stated(entry, shared[entry.name]) if entry.name in shared else entry for entry in made]


def report_unordered(made: Sequence[Entry], basis: Basis) -> Iterator[str]:
    """Report services that share a database and whose migration order is not known."""
    for group in _groups(made, basis):
        documents = [entry.document for entry in group]
        if all(document.get(SHARED) for document in documents) and not any(
            AFTER in d for d in documents
        ):
            yield (
                f"{', '.join(entry.name for entry in group)} share a database: state {AFTER!r} "
                "if the migrations of one depend on those of another."
            )


def _groups(made: Sequence[Entry], basis: Basis) -> list[list[Entry]]:
    """Return groups of entries with the same database; skip entries with an open question."""
    found: dict[tuple[str, int, str], list[Entry]] = {}
    for entry in made:
        if {"port", "database"} & entry.markers.keys():
            continue
        service = service_of(entry, basis)
        place = (service.compose_service, service.port, service.database)
        found.setdefault(place, []).append(entry)
    return [group for group in found.values() if len(group) > 1]


def _can_share(group: Sequence[Entry]) -> bool:
    tables = {_table(entry) for entry in group}
    refused = any(entry.document.get(SHARED) is False for entry in group)
    return not refused and None not in tables and len(tables) == len(group)


def _stated(entry: Entry, group: Sequence[Entry]) -> Entry:
    others = [other.name for other in group if other is not entry]
    table = _table(entry)
    reason = f"it has the same database as {', '.join(others)}; its version table is {table}"
    facts: dict[str, tuple[object, str]] = {SHARED: (True, reason)}
    if before := _before(entry, group):
        facts[AFTER] = (list(before), "; ".join(before.values()))
    new = {name: fact for name, fact in facts.items() if name not in entry.document}
    return replace(
        entry,
        document={**entry.document, **{name: value for name, (value, _) in new.items()}},
        evidence={**entry.evidence, **{name: place for name, (_, place) in new.items()}},
    )


def _before(entry: Entry, group: Sequence[Entry]) -> Mapping[str, str]:
    """Return the services to migrate before this one, each with the reason."""
    table = _table(entry)
    if table is None or table == VersionTable():
        return {}
    others = [other for other in group if other is not entry]
    if schema := table.schema:
        creators = [other for other in others if _creates(other, schema)]
        if creators and not _creates(entry, schema):
            return {other.name: f"{other.name} creates the schema {schema}" for other in creators}
    roots = [other for other in others if _table(other) == VersionTable()]
    return {other.name: f"{other.name} uses Alembic's default version table" for other in roots}


def _table(entry: Entry) -> VersionTable | None:
    """Return the version table that `env.py` states; `None` if its source does not show it."""
    with suppress(NotUnderstood):
        return stated_version_table(_scripts(entry) / "env.py")
    return None


def _creates(entry: Entry, schema: str) -> bool:
    pattern = re.compile(_CREATED.format(re.escape(schema)), re.IGNORECASE)
    return any(pattern.search(text) for text in _texts(_scripts(entry)))


def _texts(scripts: Path) -> Iterator[str]:
    for path in sorted(scripts.rglob("*.py")):
        with suppress(OSError, UnicodeDecodeError):
            yield path.read_text(encoding="utf-8")


def _scripts(entry: Entry) -> Path:
    return entry.proposal.reading.directory.scripts
