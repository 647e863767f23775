"""Find drift: compare a database's schema with that which its migrations create.

The migrations are replayed up to the revision that the database has, so that pending revisions are
not drift.
"""

from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from huleedu_tasks.config.registry import Service
from huleedu_tasks.config.urls import DatabaseUrl
from huleedu_tasks.errors import MigrationError, ServerError
from huleedu_tasks.migrations.alembic_history import AlembicHistories
from huleedu_tasks.migrations.revisions import History, named
from huleedu_tasks.postgres import locks
from huleedu_tasks.postgres.clones import replay_name
from huleedu_tasks.postgres.connections import answering
from huleedu_tasks.postgres.databases import VersionTable, create, version_table_candidates
from huleedu_tasks.report import Difference, Outcome, State, Status
from huleedu_tasks.schema.diff import compare
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
        migrating: The run of `prod.migrate` that holds the lock, so that nothing was compared; an
            empty string if there is none.
    """

    revisions: tuple[str, ...]
    differences: tuple[Difference, ...] = ()
    migrating: str = ""


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
    if drift.differences:
        return replace(done, state=State.DRIFTED, hint=ACCEPT)
    return done


async def find_drift(
    live: Live, connection: "asyncpg.Connection", replays: Replays, *, step: Step = str
) -> Drift:
    """Return the drift of a database; read-only.

    Args:
        connection: A connection to the database.
        replays: Builds the expected schema on a throwaway server.
        step: Called with each step.

    Raises:
        RevisionUnknown: If the history does not have the database's revision.
        MigrationError: If the history cannot be replayed.
        ConfigurationError: If there is no throwaway server, or no pg_dump.
        ServerError: If the schema cannot be read, or changed while it was read.
    """
    tables, revisions, migrating = await _state(live, connection)
    if migrating:
        return Drift(revisions=revisions, migrating=migrating)
    if live.history.pending(revisions) is None:
        raise RevisionUnknown(
            f"The database is at {named(revisions)}, which is not in the revision files.",
            code="revision-unknown",
            hint="Run the command in a checkout that has the revision.",
        )
    step("reading its schema")
    actual = await dump(live.url, environment=live.environment, version_tables=tables)
    _, after, migrating = await _state(live, connection)
    if migrating or after != revisions:
        return Drift(revisions=after, migrating=migrating or "another session")
    differences = await _differences(live, revisions, tables, actual, replays, step)
    return Drift(revisions=revisions, differences=tuple(differences))


async def _state(
    live: Live, connection: "asyncpg.Connection"
) -> tuple[tuple[VersionTable, ...], tuple[str, ...], str]:
    """Return the version tables, the revisions, and the run that holds the lock if there is one."""
    histories, service = live.histories, live.service
    async with answering(live.url.address):
        migrating = await locks.lock_holder(connection)
    tables = await histories.version_tables(service, live.url, connection)
    if tables is None:
        tables = await version_table_candidates(connection)
    revisions = await histories.current(service, live.url, connection, live.history)
    return tables, revisions, migrating


async def _differences(
    live: Live,
    revisions: tuple[str, ...],
    tables: tuple[VersionTable, ...],
    actual: SchemaDump,
    replays: Replays,
    step: Step,
) -> list[Difference]:
    service = live.service
    step(f"replaying its history up to {named(revisions)}")
    async with replays.database(service, live.history, revisions, step=step) as url:
        expected = await dump(url, environment=live.environment, version_tables=tables)
        found = _compared(live, expected, actual)
        if not found:
            return found
        step("comparing")
        try:
            loaded = await _reloaded_both(live, expected, actual, replays)
        except ServerError:
            if expected.facts.major != actual.facts.major:
                raise
            # The replay and the database are shown in the words of the same version.
            return found
        return _compared(live, *loaded)


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
            loaded.append(await reloaded(dumped, url, server.admin, environment=live.environment))
    return loaded


def _compared(live: Live, expected: SchemaDump, actual: SchemaDump) -> list[Difference]:
    unmanaged = live.service.unmanaged
    return compare(expected.schema().without(unmanaged), actual.schema().without(unmanaged))
