"""Migrate a database to a revision."""

import asyncio
from dataclasses import replace
from functools import partial

from huleedu_tasks import parallel, process
from huleedu_tasks.db.service_run import ServiceRun, after_migrated
from huleedu_tasks.migrations import runner
from huleedu_tasks.migrations.observation import Observation, applied_revisions
from huleedu_tasks.migrations.results import Migrated
from huleedu_tasks.migrations.revisions import named
from huleedu_tasks.parallel import Stage, Step
from huleedu_tasks.postgres import databases
from huleedu_tasks.postgres.connections import UNCOUNTED
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
                return await parallel.whatever_happens(unfinished(run, session, error))
            return await _migrated(run, done, session)


async def _upgrade(run: ServiceRun, target: str, session: Observation) -> Migrated:
    return await runner.upgrade(
        run.context.histories.alembic(run.service, run.url),
        await run.history(),
        target,
        session=session,
        tables=run.context.histories.known_version_tables(run.service, run.url),
    )


async def _migrated(run: ServiceRun, done: Migrated, session: Observation) -> Outcome:
    """Return the outcome of a migration that succeeded, and keep what it reported."""
    if done.reported:
        run.require_own_version_tables(done.reported.tables)
        run.context.histories.learn(run.service, run.url, done.reported)
    if run.database.build:
        run.database.build.add(done.used)
    detail = "already there" if done.before == done.after else "migrated"
    if not (await run.history()).revisions:
        detail = "no revisions yet"
    facts = {"from": named(done.before), "to": named(done.after)}
    applied = applied_revisions([session], await run.history(), done.before, done.after)
    return replace(run.done(detail, facts), output=done.output, revisions=applied)


async def unfinished(run: ServiceRun, session: Observation, error: BaseException) -> Outcome:
    """Return the outcome of an upgrade or downgrade that failed, with the current revision."""
    outcome = parallel.unfinished(run.service, error)
    database = run.url.database
    try:
        history, tables = await run.history(), session.version_tables or None
        at = named(await runner.revisions_of(run.url, history, tables))
    except Exception as reason:
        where = (
            f"the revision of {database} is not known: {str(reason).rstrip('.')}; "
            f"run `invoke db.status --service {run.name}`"
        )
        return replace(outcome, detail=parallel.joined(outcome, where))
    detail = parallel.joined(outcome, f"{database} is at {at}")
    if outcome.status is Status.ABORTED:
        # The next reset does not depend on the revision.
        detail = outcome.detail
    return replace(outcome, detail=detail, facts={"to": at})


REQUIRE_DATABASE = Stage(run=require_database, io_bound=False, after=after_migrated)
