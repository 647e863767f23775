"""Finish a database that is complete, for later runs: its tag, its predecessor, its template."""

from dataclasses import replace
from typing import TYPE_CHECKING

from huleedu_tasks.db.predecessors import retire_predecessor
from huleedu_tasks.db.service_run import ServiceRun, after_migrated
from huleedu_tasks.parallel import Stage, Step
from huleedu_tasks.postgres import databases
from huleedu_tasks.report import Outcome

if TYPE_CHECKING:
    import asyncpg


async def finish(run: ServiceRun, step: Step) -> Outcome:
    """Remove `unfinished` from the environment tag of a complete database; correct the rest.

    A database of development may be tagged `testing` by a version for which they were the same.
    """
    if run.is_leader:
        await _complete_tag(await run.prove_disposable(), run)
    return run.done()


async def _complete_tag(admin: "asyncpg.Connection", run: ServiceRun) -> None:
    database = run.url.database
    tag = await databases.read_tag(admin, database)
    if tag is None:
        return
    complete = replace(tag, environment=run.context.tag.environment, unfinished=False)
    if complete != tag:
        await databases.write_tag(admin, database, complete)


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
    if not (database.is_unfinished or database.build):
        return run.done()
    admin = await run.prove_disposable()
    if database.is_unfinished:
        await _complete_tag(admin, run)
        await retire_predecessor(admin, run)
    if database.build:
        step("saving a template")
        tag = await databases.read_tag(admin, run.url.database) or context.tag
        await context.templates.keep(admin, database.build, run.url, tag)
    return run.done()


FINISH = Stage(run=finish, io_bound=False, after=after_migrated)
KEEP = Stage(run=keep, io_bound=True, after=after_migrated)
EXPECT_WRITES = Stage(run=expect_writes, io_bound=True, after=after_migrated)
