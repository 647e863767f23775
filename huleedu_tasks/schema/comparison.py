"""Find drift: compare a database's schema with that which its migrations create.

The migrations are replayed up to the revision that the database has, so that pending revisions are
not drift.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from huleedu_tasks.config.registry import Service, migrating_order
from huleedu_tasks.config.urls import DatabaseUrl
from huleedu_tasks.errors import MigrationError, ServerError
from huleedu_tasks.migrations.alembic_history import AlembicHistories
from huleedu_tasks.migrations.inputs import Inputs
from huleedu_tasks.migrations.revisions import History, named
from huleedu_tasks.postgres import locks
from huleedu_tasks.postgres.clones import replay_name
from huleedu_tasks.postgres.connections import answering
from huleedu_tasks.postgres.databases import VersionTable, create, version_table_candidates
from huleedu_tasks.postgres.schema_fingerprint import read_fingerprint
from huleedu_tasks.postgres.version_tables import read_revisions
from huleedu_tasks.report import Difference, Outcome, State, Status
from huleedu_tasks.schema.diff import compare
from huleedu_tasks.schema.drift_cache import DriftCache, look_up
from huleedu_tasks.schema.dump import SchemaDump, dump, reloaded
from huleedu_tasks.schema.replay import Replays

if TYPE_CHECKING:
    import asyncpg

COLUMNS = ("revision", "differences")
ACCEPT = (
    "Undo the change in the database, write a revision that makes it, or list the object in "
    "'unmanaged' in the registry."
)
Step = Callable[[str], object]


@dataclass(frozen=True, kw_only=True)
class Live:
    """A database whose drift is looked for.

    Attributes:
        history: The revisions of the service.
        histories: What the service's Alembic reports in the environment of the database.
        environment: The environment variables of pg_dump, without the password.
    """

    service: Service
    url: DatabaseUrl
    history: History
    histories: AlembicHistories
    environment: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """The drift of one database.

    Attributes:
        revisions: The revisions that the database has.
        differences: From the schema of these revisions, sorted by name.
        nearest: The revisions with the fewest differences, if the database has tables and no
            version table; otherwise empty. Revisions that change data only have the same schema.
        migrating: The run of `prod.migrate` that holds the lock, so that nothing was compared; an
            empty string if there is none.
        dumped: The schema of the database; None if nothing was compared.
        fingerprint: A digest of the schema that was compared, read in milliseconds; an empty string
            if nothing was compared.
    """

    revisions: tuple[str, ...]
    differences: tuple[Difference, ...] = ()
    nearest: tuple[str, ...] = ()
    migrating: str = ""
    dumped: SchemaDump | None = None
    fingerprint: str = ""


class RevisionUnknown(MigrationError):
    """The database has a revision that is not in the revision files."""


def outcome_of(service: Service, drift: Drift) -> Outcome:
    """Return what a command reports about the drift of a database."""
    at = named(drift.revisions)
    done = Outcome(
        service=service.name,
        facts={"revision": at, "differences": len(drift.differences)},
        differences=drift.differences,
    )
    if drift.migrating:
        return replace(
            done,
            status=Status.SKIPPED,
            state=State.MIGRATING,
            facts={"revision": at, "differences": None},
            detail=f"not compared, because it is being migrated by {drift.migrating}",
            hint="Run the command again when the migration has ended.",
        )
    if drift.nearest:
        done = _unversioned(done, drift)
    if drift.differences:
        return replace(done, state=State.DRIFTED, hint=ACCEPT)
    return done


def _unversioned(done: Outcome, drift: Drift) -> Outcome:
    """Return the outcome of a database without a version table."""
    said = "the nearest revision is" if drift.differences else "its schema is that of"
    nearest = named(drift.nearest)
    return replace(
        done,
        facts={**done.facts, "nearest": drift.nearest},
        detail=f"has no version table; {said} {nearest}",
        hint=f"Record which one was applied: `alembic stamp {drift.nearest[-1]}`, for example.",
    )


async def find_drift(
    live: Live,
    connection: "asyncpg.Connection",
    replays: Replays,
    *,
    may_be_known: bool = False,
    step: Step = str,
) -> Drift:
    """Return the drift of a database; read-only.

    If several services have their histories in it, all are replayed.

    Args:
        connection: A connection to the database.
        replays: Builds the expected schema on a throwaway server.
        may_be_known: Whether nothing is dumped if the database had no drift, and neither its
            catalogs nor its history have changed since.
        step: Called with each step.

    Raises:
        RevisionUnknown: If a history does not have the database's revision.
        MigrationError: If a history cannot be replayed.
        ConfigurationError: If there is no throwaway server, or no pg_dump.
        ServerError: If the schema cannot be read.
    """
    before = await _state(live, connection, replays)
    if before.migrating:
        return Drift(revisions=before.revisions(live), migrating=before.migrating)
    for member in before.members:
        _require_known(member)
    step("reading its schema")
    known = await _known(live, connection, replays, before) if may_be_known else None
    if known and known.fingerprint is not None:
        return Drift(revisions=before.revisions(live), fingerprint=known.fingerprint)
    async with answering(live.url.address):
        fingerprint = await read_fingerprint(connection)
    actual = await dump(
        live.url, environment=live.environment, version_tables=before.tables, opened=connection
    )
    after = await _state(live, connection, replays)
    revisions = after.revisions(live)
    if after != before:
        return Drift(revisions=revisions, migrating=after.migrating or "another session")
    nearest: tuple[str, ...] = ()
    async with replays.turn(live.service):
        if _is_unversioned(before, actual):
            nearest, differences = await _nearest(live, before, actual, replays, step)
        else:
            differences, inputs = await _differences(live, before, actual, replays, step)
            if known and inputs and not differences:
                async with answering(live.url.address):
                    await known.keep(connection, inputs, fingerprint=fingerprint)
    return Drift(
        revisions=revisions,
        differences=tuple(differences),
        nearest=nearest,
        dumped=actual,
        fingerprint=fingerprint,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Member:
    """A service with its history in a database, and the revisions that the database has of it."""

    service: Service
    history: History
    tables: tuple[VersionTable, ...]
    revisions: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    """The revisions of a database, and the run of `prod.migrate` that holds its lock.

    Attributes:
        members: In the order in which their histories are applied.
        migrating: An empty string if no run holds the lock.
    """

    members: tuple[_Member, ...]
    migrating: str

    @property
    def tables(self) -> tuple[VersionTable, ...]:
        """The version tables of all members."""
        return tuple(table for member in self.members for table in member.tables)

    def revisions(self, live: Live) -> tuple[str, ...]:
        """Return the revisions of one service."""
        (own,) = [m.revisions for m in self.members if m.service.name == live.service.name]
        return own


async def _state(live: Live, connection: "asyncpg.Connection", replays: Replays) -> _State:
    async with answering(live.url.address):
        migrating = await locks.lock_holder(connection)
    services = [live.service]
    if live.service.shared_database:
        services = [
            other
            for other in migrating_order(replays.registry.services)
            if other.shared_database and other.database == live.service.database
        ]
    members = [await _member(live, service, connection) for service in services]
    return _State(members=tuple(members), migrating=migrating)


async def _known(
    live: Live, connection: "asyncpg.Connection", replays: Replays, state: _State
) -> DriftCache | None:
    """Return what is known of a database; None if it has several histories."""
    if len(state.members) > 1:
        return None
    (member,) = state.members
    details = (member.revisions, member.tables, member.service.unmanaged)
    return await look_up(live.service, live.url, connection, replays, details=details)


async def _member(live: Live, service: Service, connection: "asyncpg.Connection") -> _Member:
    histories, url = live.histories, live.url
    is_own = service.name == live.service.name
    history = live.history if is_own else await histories.history(service)
    tables = await histories.version_tables(service, url, connection)
    revisions = history.least_advanced(await read_revisions(connection, tables))
    if tables is None:
        tables = await version_table_candidates(connection)
    return _Member(service=service, history=history, tables=tables, revisions=revisions)


def _require_known(member: _Member) -> None:
    if member.history.pending(member.revisions) is None:
        raise RevisionUnknown(
            f"The database is at {named(member.revisions)} of {member.service.name}, which is not "
            "in the revision files.",
            code="revision-unknown",
            hint="Run the command in a checkout that has the revision.",
        )


def _is_unversioned(state: _State, actual: SchemaDump) -> bool:
    """Whether a database of one service has tables, but no version table."""
    is_single = len(state.members) == 1 and bool(state.members[0].history.revisions)
    has_tables = any(found.kind == "table" for found in actual.schema().objects.values())
    return is_single and has_tables and not actual.facts.version_tables


async def _nearest(
    live: Live, state: _State, actual: SchemaDump, replays: Replays, step: Step
) -> tuple[tuple[str, ...], list[Difference]]:
    """Return the revisions with the nearest schema, and the differences from the last of them."""
    service, history = live.service, live.history
    candidates: dict[str, tuple[SchemaDump, list[Difference]]] = {}
    async with replays.database(service, history, (), step=step) as url:
        for revision in history.between((), history.heads):
            step(f"comparing with {revision.id}")
            await replays.upgrade(service, url, history, (revision.id,))
            expected = await dump(url, environment=live.environment, version_tables=state.tables)
            found = _compared(service.unmanaged, expected, actual)
            candidates[revision.id] = expected, found
        least = min(_weight(found) for _, found in candidates.values())
        nearest = tuple(name for name, (_, found) in candidates.items() if _weight(found) == least)
        expected, found = candidates[nearest[-1]]
        return nearest, await _confirmed(live, service.unmanaged, expected, actual, found, replays)


def _weight(differences: Sequence[Difference]) -> int:
    return sum(1 + len(found.parts) for found in differences)


async def _differences(
    live: Live, state: _State, actual: SchemaDump, replays: Replays, step: Step
) -> tuple[list[Difference], Inputs | None]:
    """Return the differences, and the inputs of the expected schema if it has a template."""
    first, *others = state.members
    step(f"replaying its history up to {named(state.revisions(live))}")
    async with replays.database(first.service, first.history, first.revisions, step=step) as url:
        for other in others:
            await replays.upgrade(other.service, url, other.history, other.revisions)
        expected = await dump(url, environment=live.environment, version_tables=state.tables)
        unmanaged = [pattern for member in state.members for pattern in member.service.unmanaged]
        found = _compared(unmanaged, expected, actual)
        step("comparing")
        confirmed = await _confirmed(live, unmanaged, expected, actual, found, replays)
        return confirmed, replays.inputs_of(url)


async def _confirmed(
    live: Live,
    unmanaged: Sequence[str],
    expected: SchemaDump,
    actual: SchemaDump,
    found: list[Difference],
    replays: Replays,
) -> list[Difference]:
    """Return the differences that remain when both schemas were loaded into one server."""
    if not found:
        return found
    try:
        loaded = await _reloaded_both(live, expected, actual, replays)
    except ServerError:
        if expected.facts.major != actual.facts.major:
            raise
        # The replay and the database are shown in the words of the same version.
        return found
    return _compared(unmanaged, *loaded)


async def _reloaded_both(
    live: Live, expected: SchemaDump, actual: SchemaDump, replays: Replays
) -> list[SchemaDump]:
    """Load both schemas into empty databases of one server, and dump them again.

    Expressions that were dumped and restored once, or by another version, are in other words.
    """
    server = await replays.server(live.service)
    loaded = []
    async with AsyncExitStack() as stack:
        for label, dumped in (("expected", expected), ("actual", actual)):
            name = replay_name(live.service.database, label)
            url = await stack.enter_async_context(server.database(name))
            await create(server.admin, name, replays.tag)
            await server.create_roles(dumped.roles)
            loaded.append(await reloaded(dumped, url, environment=live.environment))
    return loaded


def _compared(
    unmanaged: Sequence[str], expected: SchemaDump, actual: SchemaDump
) -> list[Difference]:
    return compare(expected.schema().without(unmanaged), actual.schema().without(unmanaged))
