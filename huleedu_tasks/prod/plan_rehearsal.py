"""Rehearse the pending revisions of a database on a throwaway copy of its schema."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from huleedu_tasks.config.settings import Settings
from huleedu_tasks.config.urls import DatabaseUrl
from huleedu_tasks.errors import HuleEduError, ServerError
from huleedu_tasks.migrations.observation import throwaway_observation
from huleedu_tasks.migrations.observed_statements import ObservedRevision
from huleedu_tasks.migrations.observing import observe
from huleedu_tasks.migrations.revisions import Revision
from huleedu_tasks.parallel import Step
from huleedu_tasks.postgres import locks
from huleedu_tasks.postgres.clones import replay_name
from huleedu_tasks.postgres.connections import answering, connection
from huleedu_tasks.postgres.databases import VersionTable, create, version_table_candidates
from huleedu_tasks.postgres.version_tables import read_revisions
from huleedu_tasks.process import scratch_directory
from huleedu_tasks.prod.problems import Validated
from huleedu_tasks.prod.target import Target, reach
from huleedu_tasks.report import Kind, Level, Problem
from huleedu_tasks.schema.dump import SchemaDump, dump, load
from huleedu_tasks.schema.replay import Replays

if TYPE_CHECKING:
    import asyncpg

_LABEL = "rehearsed"
NOT_REHEARSED = "not-rehearsed"
FAILED = "rehearsal-failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsed:
    """How a rehearsal ended.

    Attributes:
        revisions: What each revision did, by its id; the last one may have failed.
        problem: Why nothing was rehearsed; None if the revisions ran.
    """

    revisions: Mapping[str, ObservedRevision] = field(default_factory=dict)
    problem: Problem | None = None


async def rehearse(
    validated: Validated,
    pending: Sequence[Revision],
    settings: Settings,
    replays: Replays,
    *,
    step: Step,
) -> Rehearsed:
    """Run the pending revisions on a copy of the schema; a plan does not depend on it.

    The copy has no rows besides the revisions of the database.

    Args:
        validated: The database, at the parents of the pending revisions.
        settings: The settings of the command.
        replays: Starts the throwaway server.
    """
    target = validated.target
    try:
        step("copying its schema")
        async with reach(target) as opened:
            await _require_no_run(target, opened)
            dumped = validated.dumped or await _dump(target, opened, settings)
            recorded = await _recorded(opened, dumped)
        async with replays.turn(target.service):
            server = await replays.server(target.service)
            async with server.database(replay_name(target.service.database, _LABEL)) as url:
                await create(server.admin, url.database, replays.tag)
                await server.create_roles(dumped.roles)
                await load(dumped, url, environment=settings.tool_environment())
                await _record(url, recorded)
                step("rehearsing its revisions")
                with scratch_directory() as scratch:
                    session = await throwaway_observation(server.admin, url, scratch / "events")
                    alembic = replays.alembic(target.service, url)
                    observed = await observe(alembic, session, [one.id for one in pending])
    except HuleEduError as error:
        return Rehearsed(problem=_not_rehearsed(error))
    return Rehearsed(revisions={one.revision: one for one in observed})


def failure_in(problem: Problem) -> Problem:
    """Return the problem of a revision that failed, with what that means for a plan."""
    return replace(
        problem,
        # It may succeed in the database.
        level=Level.WARNING,
        cause=f"failed in the rehearsal, on a copy of the schema without rows: {problem.cause}",
        remedy="If it needs rows that the database has, try it on a restored backup. Otherwise "
        "correct upgrade() in the file.",
        code=FAILED,
        kind=Kind.OTHER,
    )


async def _require_no_run(target: Target, opened: "asyncpg.Connection") -> None:
    """Require that no other run migrates the database, whose schema changes meanwhile.

    Raises:
        ServerError: If one does.
    """
    async with answering(target.url.address):
        holder = await locks.lock_holder(opened)
    if holder:
        raise ServerError(
            f"The database is being migrated by {holder}.",
            code="migration-running",
            hint="Run the command again when the migration has ended.",
        )


async def _dump(target: Target, opened: "asyncpg.Connection", settings: Settings) -> SchemaDump:
    tables = await target.histories.version_tables(target.service, target.url, opened)
    if tables is None:
        async with answering(target.url.address):
            tables = await version_table_candidates(opened)
    return await dump(
        target.url,
        environment=settings.tool_environment(),
        version_tables=tables,
        opened=opened,
    )


async def _recorded(opened: "asyncpg.Connection", dumped: SchemaDump) -> dict[str, tuple[str, ...]]:
    """Return the revisions in each version table of the dump, by its quoted name."""
    tables = [
        VersionTable(name=name, schema=schema) for schema, name in dumped.facts.version_tables
    ]
    return await read_revisions(opened, tables)


async def _record(url: DatabaseUrl, recorded: Mapping[str, Sequence[str]]) -> None:
    async with connection(url) as opened, answering():
        for table, revisions in recorded.items():
            await opened.execute(
                f"INSERT INTO {table} (version_num) SELECT unnest($1::text[])", list(revisions)
            )


def _not_rehearsed(error: HuleEduError) -> Problem:
    found = "; ".join(finding.problem for finding in error.findings)
    reason = f"{error.message.rstrip('.')}: {found}" if found else error.message.rstrip(".")
    return Problem(
        level=Level.WARNING,
        cause=f"the revisions were not rehearsed: {reason}",
        remedy=error.hint,
        code=NOT_REHEARSED,
    )
