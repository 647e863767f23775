"""Report the revision of a database, its pending revisions and its seeds."""

from contextlib import suppress
from dataclasses import replace

from huleedu_tasks import parallel
from huleedu_tasks.config.registry import Service
from huleedu_tasks.db.edited_revisions import with_edits
from huleedu_tasks.db.service_run import ServiceRun
from huleedu_tasks.errors import ConfigurationError, HuleEduError
from huleedu_tasks.migrations.edits import edits_since_applied
from huleedu_tasks.migrations.revision_graph import graph_of_database
from huleedu_tasks.migrations.revisions import NO_HISTORY, History, named
from huleedu_tasks.parallel import Stage, Step
from huleedu_tasks.postgres import databases
from huleedu_tasks.postgres.connections import DatabaseMissing, Unreachable, connection
from huleedu_tasks.postgres.databases import EnvironmentTag
from huleedu_tasks.report import Fact, Outcome, State, Status
from huleedu_tasks.seeds.files import fingerprint

STATUS_COLUMNS = ("reachable", "current", "head", "pending", "seeded", "last_reset")
NO_SEEDS_APPLIED, CHANGED_SEEDS = "no", "changed since"


async def status(run: ServiceRun, step: Step) -> Outcome:
    """Report the database's revision, its pending revisions and its seeds."""
    history = await _history_or_problem(run)
    # `reset` is the first name of `last_reset` in schema version 1.
    facts: dict[str, Fact] = dict.fromkeys((*STATUS_COLUMNS, "edited", "reset"))
    facts |= {"reachable": False, "head": _head(history)}
    try:
        async with connection(run.url) as session:
            known = history if isinstance(history, History) else NO_HISTORY
            current = await run.context.histories.current(run.service, run.url, session, known)
            tag = await databases.read_tag(session, run.url.database)
            other = await run.context.guard.other_server(session, run.service)
    except (Unreachable, DatabaseMissing) as error:
        return replace(
            run.done(error.message, facts),
            status=Status.SKIPPED,
            state=State.UNREACHABLE,
            hint=error.hint,
        )
    last_reset = (tag.reset if tag else "") or None
    facts |= {
        "reachable": True,
        "current": named(current),
        "seeded": seeded(run.service, tag),
        "last_reset": last_reset,
        "reset": last_reset,
    }
    if not isinstance(history, History):
        return replace(parallel.failed(run.service, history), facts=facts)
    pending = facts["pending"] = history.pending(current)
    edits = edits_since_applied(tag, run.name, history, current)
    facts["edited"] = tuple(edit.revision.id for edit in edits)
    done = replace(run.done(other, facts), graph=graph_of_database(history, current))
    if pending is None:
        return await _unknown_revision(run, current, done)
    if edits:
        return with_edits(run, edits, done)
    if pending:
        return replace(done, state=State.BEHIND, hint="Run `invoke db.migrate`.")
    return done


async def prepare_status(run: ServiceRun) -> None:
    """Read the service's files for `status`, which reports an error in them."""
    with suppress(HuleEduError):
        await run.history()
        run.context.histories.known_version_tables(run.service, run.url)


def _head(history: History | HuleEduError) -> str | None:
    return named(history.heads) if isinstance(history, History) else None


async def _unknown_revision(run: ServiceRun, current: tuple[str, ...], done: Outcome) -> Outcome:
    """Return the outcome of a database whose revision is not in the service's code."""
    unknown = f"revision {named(current)} is not in the code of {run.name}"
    detail = f"{done.detail}; {unknown}" if done.detail else unknown
    if owner := await _owner_of(current, run):
        detail += f"; it is a revision of {owner}, whose migrations ran on this database"
    hint = (
        "Switch to the branch that has the revision, or rebuild the database with "
        f"`invoke db.reset --service {run.name}`."
    )
    return replace(done, state=State.UNKNOWN_REVISION, detail=detail, hint=hint)


async def _history_or_problem(run: ServiceRun) -> History | HuleEduError:
    """Return a service's revisions, or the error that occurred when they were read."""
    try:
        if findings := run.service.missing_files():
            raise ConfigurationError(
                "The registry names files that do not exist.",
                code="file-missing",
                findings=findings,
                hint="Create them, or correct the registry.",
            )
        run.require_own_version_tables()
        return await run.history()
    except HuleEduError as error:
        return error


async def _owner_of(revisions: tuple[str, ...], run: ServiceRun) -> str:
    """Return the name of another service that has one of the revisions; or an empty string."""
    for other in run.context.registry.services:
        if other == run.service or other.missing_files():
            continue
        # A history that cannot be read is reported for its own service.
        with suppress(HuleEduError):
            history = await run.context.histories.history(other)
            if not history.revisions.keys().isdisjoint(revisions):
                return other.name
    return ""


def seeded(service: Service, tag: EnvironmentTag | None) -> str:
    """Return whether the seeds were applied, and whether their files have changed since."""
    if not service.seeds:
        return "no seeds"
    applied = tag.seeds if tag else ""
    if tag and service.shared_database:
        applied = tag.shared_seeds.get(service.name, "")
    if not applied:
        return NO_SEEDS_APPLIED
    return "yes" if applied == fingerprint(service) else CHANGED_SEEDS


STATUS = Stage(run=status, io_bound=True)
