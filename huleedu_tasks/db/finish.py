"""Finish a database that is complete, for later runs: its tag, its predecessor, its template."""

from dataclasses import replace

from huleedu_tasks.db.predecessors import retire_predecessor
from huleedu_tasks.db.service_run import ServiceRun, after_migrated
from huleedu_tasks.parallel import Stage, Step
from huleedu_tasks.postgres import databases
from huleedu_tasks.report import Outcome


async def finish(run: ServiceRun, step: Step) -> Outcome:
    """Remove `unfinished` from the environment tag of a complete database; correct the rest.

    A database of development may be tagged `testing` by a version for which they were the same.
    """
    if run.is_leader:
        database = run.url.database
        admin = await run.prove_disposable()
        tag = await databases.read_tag(admin, database)
        if tag is None:
            return run.done()
        complete = replace(tag, environment=run.context.tag.environment, unfinished=False)
        if complete != tag:
            await databases.write_tag(admin, database, complete)
    return run.done()


async def expect_writes(run: ServiceRun, step: Step) -> Outcome:
    """Record that the database differs from its build: the writes of tasks are not counted."""
    if run.database.is_copied:
        return run.done()
    admin = await run.prove_disposable()
    tag = await databases.read_tag(admin, run.url.database)
    if tag and tag.untouched:
        await databases.write_tag(admin, run.url.database, replace(tag, untouched=""))
    return run.done()


async def keep(run: ServiceRun, step: Step) -> Outcome:
    """Save a template of the complete database, and drop its predecessor."""
    if not run.is_leader:
        return run.done()
    database, context = run.database, run.context
    if database.is_unfinished:
        await finish(run, step)
        await retire_predecessor(await run.prove_disposable(), run)
    if database.build:
        step("saving a template")
        admin = await run.prove_disposable()
        tag = await databases.read_tag(admin, run.url.database) or context.tag
        await context.templates.keep(admin, database.build, run.url, tag)
    return run.done()


FINISH = Stage(run=finish, io_bound=False, after=after_migrated)
KEEP = Stage(run=keep, io_bound=True, after=after_migrated)
EXPECT_WRITES = Stage(run=expect_writes, io_bound=True, after=after_migrated)
