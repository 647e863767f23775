"""Migrate a database to a revision."""

import asyncio
from dataclasses import replace
from functools import partial

from huleedu_tasks import parallel, process
from huleedu_tasks.db.edited_revisions import record_applied, with_edits
from huleedu_tasks.db.planned_revisions import planned_revision
from huleedu_tasks.db.service_run import ServiceRun, after_migrated
from huleedu_tasks.errors import MigrationError
from huleedu_tasks.migrations import runner
from huleedu_tasks.migrations.alembic_failures import remedy
from huleedu_tasks.migrations.alembic_history import READ_ONLY
from huleedu_tasks.migrations.observation import Observation, applied_revisions
from huleedu_tasks.migrations.results import Migrated
from huleedu_tasks.migrations.revision_graph import graph_of_database
from huleedu_tasks.migrations.revisions import History, Revision, named
from huleedu_tasks.parallel import Stage, Step
from huleedu_tasks.postgres import databases
from huleedu_tasks.postgres.connections import UNCOUNTED, connection
from huleedu_tasks.report import Outcome, Status


async def require_database(run: ServiceRun, step: Step) -> Outcome:
    """Create the database if it does not exist, and tag it if the user has confirmed it."""
    name, tag = run.url.database, run.context.tag
    async with run.database.lock:
        admin = await run.prove_disposable()
        if not await databases.exists(admin, name):
            await databases.create(admin, name, tag)
        elif name in run.context.guard.confirmed:
            await databases.write_tag(admin, name, tag)
    return run.done()


def migrate_to(target: str) -> Stage[ServiceRun]:
    """Return the stage that migrates to a revision."""
    return Stage(run=partial(migrate, target=target), io_bound=False, after=after_migrated)


def preview_to(target: str) -> Stage[ServiceRun]:
    """Return the stage that renders the SQL of the pending revisions up to a revision."""
    return Stage(run=partial(preview, target=target), io_bound=False)


async def migrate(run: ServiceRun, step: Step, *, target: str) -> Outcome:
    """Migrate the database to a revision, unless it is a copy of a template."""
    if run.database.is_copied:
        return run.done()
    async with run.database.lock:
        step("migrating")
        run.require_own_version_tables()
        await run.history()
        with process.scratch_directory() as scratch:
            session = Observation(
                events=scratch / "events",
                optional_settings=UNCOUNTED,
                target=await run.prove_place(),
            )
            try:
                done = await _upgrade(run, target, session)
            except (Exception, asyncio.CancelledError) as error:
                if isinstance(error, Exception):
                    run.require_own_version_tables(session.version_tables)
                if not session.begun:
                    raise
                return await parallel.run_to_end(unfinished(run, session, error))
            return await _keep_reported(run, done, session)


async def preview(run: ServiceRun, step: Step, *, target: str) -> Outcome:
    """Return the pending revisions with their SQL, without changing the database."""
    step("rendering")
    history, histories = await run.history(), run.context.histories
    async with connection(run.url) as opened:
        before = await histories.current(run.service, run.url, opened, history)
    if history.pending(before) is None:
        raise MigrationError(
            f"{run.name}: {run.url.database} is at {named(before)}, which the files do not "
            "contain.",
            code="revision-unknown",
            hint=remedy(before, history),
        )
    pending = _pending(history, before, target)
    outcome = replace(run.done("nothing pending"), status=Status.SKIPPED, revisions=())
    if not pending:
        return outcome
    with process.scratch_directory() as scratch:
        session = Observation(
            events=scratch / "events", settings=READ_ONLY, target=await run.prove_place()
        )
        rendered = await runner.render(histories.alembic(run.service, run.url), session, before)
    facts = {"from": named(before), "to": pending[-1].id}
    revisions = tuple(planned_revision(run, revision, rendered) for revision in pending)
    detail = f"dry run: would run {', '.join(revision.id for revision in pending)}"
    return replace(outcome, detail=detail, facts=facts, revisions=revisions)


def _pending(history: History, before: tuple[str, ...], target: str) -> tuple[Revision, ...]:
    """Return the revisions that an upgrade to a target runs, in order."""
    resolved = history.resolve(target)
    pending = history.between(before, (resolved,) if resolved else history.heads)
    steps = target.removeprefix("+")
    return pending[: int(steps)] if target != steps and steps.isdecimal() else pending


async def _upgrade(run: ServiceRun, target: str, session: Observation) -> Migrated:
    return await runner.upgrade(
        run.context.histories.alembic(run.service, run.url),
        await run.history(),
        target,
        session=session,
        tables=run.context.histories.known_version_tables(run.service, run.url),
    )


async def _keep_reported(run: ServiceRun, done: Migrated, session: Observation) -> Outcome:
    """Return the outcome of a migration that succeeded, and keep what it reported."""
    if done.reported:
        run.require_own_version_tables(done.reported.tables)
        run.context.histories.cache_reported_tables(run.service, run.url, done.reported)
    if run.database.build:
        run.database.build.add(done.used)
    edits = await record_applied(run, done.before, done.after)
    detail = "already there" if done.before == done.after else "migrated"
    if edits and done.before == done.after:
        detail = ""
    if not (await run.history()).revisions:
        detail = "no revisions yet"
    facts = {"from": named(done.before), "to": named(done.after)}
    applied = applied_revisions([session], await run.history(), done.before, done.after)
    outcome = replace(
        run.done(detail, facts),
        output=done.output,
        revisions=applied,
        graph=graph_of_database(await run.history(), done.after),
    )
    return with_edits(run, edits, outcome)


async def unfinished(run: ServiceRun, session: Observation, error: BaseException) -> Outcome:
    """Return the outcome of an upgrade or downgrade that failed, with the current revision."""
    outcome = parallel.unfinished(run.service, error)
    database = run.url.database
    try:
        history, tables = await run.history(), session.version_tables or None
        current = await runner.revisions_of(run.url, history, tables)
        await record_applied(run, session.before, current)
    except Exception as reason:
        where = (
            f"the revision of {database} is not known: {str(reason).rstrip('.')}; "
            f"run `invoke db.status --service {run.name}`"
        )
        return replace(outcome, detail=parallel.joined(outcome, where))
    at = named(current)
    detail = parallel.joined(outcome, f"{database} is at {at}")
    if outcome.status is Status.ABORTED:
        # The next reset does not depend on the revision.
        detail = outcome.detail
    return replace(outcome, detail=detail, facts={"to": at})


REQUIRE_DATABASE = Stage(run=require_database, io_bound=False, after=after_migrated)
