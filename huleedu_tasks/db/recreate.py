"""Recreate a database: as a copy of a template, or else a new one to be migrated and seeded."""

from dataclasses import replace
from typing import TYPE_CHECKING

from huleedu_tasks.db.extensions import create_extensions
from huleedu_tasks.db.init_snapshots import find_init_snapshot
from huleedu_tasks.db.predecessors import (
    drop_blocking_predecessor,
    put_in_place,
    retire_predecessor,
)
from huleedu_tasks.db.recreate_server import recreate_server
from huleedu_tasks.db.service_run import ServiceRun, after_leader
from huleedu_tasks.db.undo_snapshots import NEW_SERVER
from huleedu_tasks.errors import ServerError
from huleedu_tasks.migrations.revisions import named
from huleedu_tasks.parallel import Stage, Step
from huleedu_tasks.postgres import clones, databases, replacement
from huleedu_tasks.postgres.connections import connection
from huleedu_tasks.postgres.databases import EnvironmentTag
from huleedu_tasks.report import Outcome
from huleedu_tasks.templates.policy import COPIED, NOTHING_YET

if TYPE_CHECKING:
    import asyncpg


async def recreate(run: ServiceRun, step: Step) -> Outcome:
    """Replace the database by a copy of a valid template, or else by a new database.

    A copy of a template is complete, and later stages do not change it. A new database is a
    copy of the init snapshot if init scripts filled the database, and empty otherwise. The
    previous database is dropped when its successor is complete.
    """
    if not run.is_leader:
        return await _copy_outcome(run) if run.database.is_copied else run.done()
    if run.server.must_be_recreated:
        if run.database.has_data_to_lose:
            run.database.undo_lost = NEW_SERVER
        return await recreate_server(run, step)
    step("recreating")
    # Revisions that cannot be read must fail before the data is replaced.
    for member in run.database.members:
        await member.history()
    run.require_own_version_tables()
    admin = await run.prove_disposable()
    untouched = await _untouched(admin, run)
    run.database.build = await run.context.templates.begin(
        admin, run.database.services, run.init_scripts, before=untouched or NOTHING_YET
    )
    if copied := await _restore(admin, run):
        return copied
    detail = ""
    if untouched is not None:
        await databases.write_tag(admin, run.url.database, run.context.tag)
    else:
        detail = await _replace_by_new(admin, run)
    await create_extensions(run)
    return run.done(detail)


async def _untouched(admin: "asyncpg.Connection", run: ServiceRun) -> clones.Activity | None:
    """Return the activity on a database that is still empty.

    Returns:
        Its sessions and writes so far; None if it has objects, if init scripts filled it, or if
        this run has not created the server.
    """
    if run.init_scripts or not run.database.is_on_new_server:
        return None
    # Read before the check, so that writes between the two are counted later.
    before = await clones.activity(admin, run.url.database)
    async with connection(run.url) as owner:
        untouched = await databases.is_untouched(owner)
    return replace(before, sessions=before.sessions + 1) if untouched else None


async def _restore(admin: "asyncpg.Connection", run: ServiceRun) -> Outcome | None:
    """Replace the database by a copy of a valid template; return None if none is valid."""
    database, templates = run.database, run.context.templates
    while valid := await templates.find_valid(admin, database.build, run.url.database):
        template, tag = valid
        note = await _replace_by_copy(admin, run, template, tag)
        if note is not None:
            await retire_predecessor(admin, run)
            database.build = None
            database.is_copied = True
            return await _copy_outcome(run, note)
        # No session can write to a template, so this one is damaged.
        await databases.drop(admin, template)
    run.context.expect_migrations()
    await templates.make_room(admin, run.url.database)
    return None


async def _replace_by_copy(
    admin: "asyncpg.Connection", run: ServiceRun, template: str, saved: EnvironmentTag
) -> str | None:
    """Replace the database by a copy of a template.

    If the template may have been written to since it was saved, the revisions of the copy are
    verified.

    Returns:
        A note about lost replication slots, or an empty string; None if the template cannot be
        copied or its copy is not at head.
    """
    try:
        async with replacement.building(admin, run.url.database) as successor:
            tag = replace(saved, parts={}, analyzed=0, used=0.0, reset=COPIED)
            untouched = await clones.counters(admin, successor)
            await clones.clone(admin, template, successor, replace(tag, untouched=untouched))
            # Read after the copy, so that no write to the template is missed.
            is_as_saved = not await clones.is_written_to(admin, template, saved)
    except ServerError:
        return None
    note = await put_in_place(admin, run)
    return note if is_as_saved or await _is_at_head(run) else None


async def _is_at_head(run: ServiceRun) -> bool:
    """Whether the database is at the heads of all services that share it."""
    async with connection(run.url) as session:
        for member in run.database.members:
            history = await member.history()
            current = await run.context.histories.current(
                member.service, member.url, session, history
            )
            if current != history.heads:
                return False
    return True


async def _replace_by_new(admin: "asyncpg.Connection", run: ServiceRun) -> str:
    """Replace the database by a copy of its init snapshot, or else by an empty one.

    Returns:
        A note about lost replication slots, or an empty string.
    """
    snapshot = ""
    if run.init_scripts:
        # On a server that is kept, a snapshot from earlier scripts is better than none.
        required = "" if run.server.databases_to_lose else run.init_scripts
        snapshot = await find_init_snapshot(admin, run.filled_database, required)
    tag = replace(run.context.tag, unfinished=True)
    async with replacement.building(admin, run.url.database) as successor:
        if snapshot:
            await clones.clone(admin, snapshot, successor, tag)
        else:
            await databases.create(admin, successor, tag)
    note = await put_in_place(admin, run)
    await drop_blocking_predecessor(admin, run)
    return note


async def _copy_outcome(run: ServiceRun, note: str = "") -> Outcome:
    """Return the outcome of a service whose database is a copy of a template."""
    head = named((await run.history()).heads)
    detail = ", ".join(filter(None, (COPIED, note)))
    return run.done(detail, {"from": named(()), "to": head})


RECREATE = Stage(run=recreate, io_bound=True, after=after_leader)
