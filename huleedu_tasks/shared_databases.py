"""Services whose Alembic histories share one database.

Each of them has `shared_database` in the registry. They are reset together and migrated one after
the other, and each has its own version table.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from huleedu_tasks.config.registry import Registry, Service
from huleedu_tasks.config.settings import Settings
from huleedu_tasks.config.urls import DatabaseUrl, ResolvedUrl, resolve_all
from huleedu_tasks.errors import Refused
from huleedu_tasks.postgres.databases import VersionTable

SAME_TABLE = "same-version-table"
_USUAL_SCHEMA = "public"


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A service of a shared database, and its own URL of that database."""

    service: Service
    resolved: ResolvedUrl


def shared_databases(
    registry: Registry, services: Sequence[Service], settings: Settings
) -> tuple[tuple[Member, ...], ...]:
    """Group services by the database that their URLs resolve to.

    Args:
        services: The selected services. No URL is resolved unless one of them has
            `shared_database`.

    Returns:
        The members of each database of a selected service, in registry order.

    Raises:
        ConfigurationError: If the URL of a service that has `shared_database` does not resolve.
    """
    selected = {service.name for service in services if service.shared_database}
    if not selected:
        return ()
    sharing = [service for service in registry.services if service.shared_database]
    together: dict[tuple[str, str], list[Member]] = {}
    for service, resolved in zip(sharing, resolve_all(sharing, settings).values(), strict=True):
        member = Member(service=service, resolved=resolved)
        together.setdefault(_place(resolved.url), []).append(member)
    return tuple(
        tuple(members)
        for members in together.values()
        if any(member.service.name in selected for member in members)
    )


def same_table(one: Service, other: Service, table: VersionTable) -> Refused:
    """Return the error for two services that use the same version table."""
    return Refused(
        f"{one.name} and {other.name} share the database {other.database!r} and the version table "
        f"{table}, so their revisions cannot be distinguished.",
        code=SAME_TABLE,
        hint=f"Pass version_table or version_table_schema to context.configure() in the env.py of "
        f"{other.name}, or create a separate database for it.",
    )


def same_tables(
    one: Sequence[VersionTable] | None, other: Sequence[VersionTable] | None
) -> VersionTable | None:
    """Return a version table that two services have in common; None if they have none."""
    known = {_where(table) for table in one or ()}
    return next((table for table in other or () if _where(table) in known), None)


def _where(table: VersionTable) -> tuple[str, str]:
    schema = table.schema or next(iter(table.search_path), _USUAL_SCHEMA)
    return schema, table.name


def _place(url: DatabaseUrl) -> tuple[str, str]:
    return url.address.lower(), url.database
