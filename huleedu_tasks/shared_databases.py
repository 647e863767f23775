"""Services whose Alembic histories share one database.

Each of them has `shared_database` in the registry. They are reset together and migrated one after
the other, and each has its own version table.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

from huleedu_tasks.config.registry import Registry, Service
from huleedu_tasks.config.settings import Settings
from huleedu_tasks.config.urls import DatabaseUrl, ResolvedUrl, resolve_all
from huleedu_tasks.errors import Refused
from huleedu_tasks.postgres.databases import VersionTable
from huleedu_tasks.report import Outcome, Status

SAME_TABLE = "same-version-table"
_USUAL_SCHEMA = "public"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharing:
    """Which services share which database in the current environment.

    Attributes:
        urls: The URLs of the services that have `shared_database`, by the service's name.
        members: The services of each shared database in registry order, by the name of each.
    """

    urls: Mapping[str, ResolvedUrl] = field(default_factory=dict)
    members: Mapping[str, Sequence[Service]] = field(default_factory=dict)

    @classmethod
    def of(cls, registry: Registry, services: Sequence[Service], settings: Settings) -> "Sharing":
        """Group services by the database that their URLs resolve to.

        Args:
            services: The selected services. No URL is resolved unless one of them has
                `shared_database`.

        Raises:
            ConfigurationError: If the URL of a service that has `shared_database` does not resolve.
        """
        if not any(service.shared_database for service in services):
            return cls()
        sharing = [service for service in registry.services if service.shared_database]
        urls = resolve_all(sharing, settings)
        together: dict[tuple[str, str], list[Service]] = {}
        for service in sharing:
            together.setdefault(_place(urls[service.name].url), []).append(service)
        members = {member.name: group for group in together.values() for member in group}
        return cls(urls=urls, members=members)

    def with_service(self, service: Service) -> Sequence[Service]:
        """Return the services that share a service's database, including itself."""
        return self.members.get(service.name, (service,))

    def leader(self, service: Service) -> Service:
        """Return the first service of a shared database, for which the database is recreated."""
        return self.with_service(service)[0]

    def others(self, services: Sequence[Service]) -> dict[str, Sequence[Service]]:
        """Return the services that share a database with selected ones and are not selected.

        Returns:
            The missing services of each shared database, by the name of a selected service.
        """
        selected = {service.name for service in services}
        leaders = {self.leader(service).name: service for service in services}
        found = {
            service.name: [s for s in self.with_service(service) if s.name not in selected]
            for service in leaders.values()
        }
        return {name: missing for name, missing in found.items() if missing}

    def all_or_none(self, outcomes: Sequence[Outcome]) -> tuple[Outcome, ...]:
        """Abort each service whose database is shared with one that failed or is not in the run."""
        by_name = {outcome.service: outcome for outcome in outcomes}
        return tuple(self._judged(outcome, by_name) if outcome else outcome for outcome in outcomes)

    def _judged(self, outcome: Outcome, by_name: Mapping[str, Outcome]) -> Outcome:
        members = [by_name.get(member.name) for member in self.members.get(outcome.service, ())]
        if all(members):
            return outcome
        # A failed service is named rather than an aborted one.
        lost = [member for member in members if member is not None and not member]
        lost.sort(key=lambda member: member.status is not Status.FAILED)
        because = lost[0] if lost else outcome
        return replace(
            outcome,
            status=Status.ABORTED,
            detail=f"not finished: {because.service}, which shares the database, did not succeed",
            exit_code=because.exit_code,
        )

    def require_own_tables(
        self, service: Service, tables: Mapping[str, Sequence[VersionTable] | None]
    ) -> None:
        """Require that each service of a shared database has its own version table.

        Args:
            tables: The version tables of each service; None if they are not known yet.

        Raises:
            Refused: If two services use the same version table.
        """
        for one, other in combinations(self.with_service(service), 2):
            if common := same_tables(tables.get(one.name), tables.get(other.name)):
                raise same_table(one, other, common)


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
