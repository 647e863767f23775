"""Undo snapshots: the previous database of a service, if it was written to since it was built.

A command that replaces a database calls `becomes_undo` before the previous one is dropped; one that
changes it in place calls `keep_copy` before.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from huleedu_tasks.db.service_run import ServiceRun
from huleedu_tasks.errors import ServerError
from huleedu_tasks.postgres import clones, databases, replacement
from huleedu_tasks.postgres.connections import connection

if TYPE_CHECKING:
    import asyncpg

_MEGABYTE = 1_000_000
NEW_SERVER = "its server was recreated, so that its init scripts run again"
HOLDS_ROLE = "a role has objects or grants in it, and a migration may drop the role"


async def becomes_undo(admin: "asyncpg.Connection", run: ServiceRun) -> bool:
    """Whether the predecessor of the service's database is to be kept as its undo snapshot.

    That is the case if it may have been written to since it was built. The time is then recorded
    in its environment tag.
    """
    name = replacement.predecessor_name(run.url.database)
    if not run.context.keeps_undo or not await has_data_of_user(admin, run, name):
        return False
    await replacement.drop_slots(admin, name)
    await record_time(admin, run, name)
    run.database.has_undo = True
    return True


async def keep_copy(admin: "asyncpg.Connection", run: ServiceRun) -> None:
    """Keep a copy of the service's database as its undo snapshot, if it may have been written to.

    The sessions on the database are ended.

    Raises:
        ServerError: If it cannot be copied; the earlier undo snapshot is unchanged.
    """
    database, limit = run.url.database, run.context.settings.undo_limit
    size = (await databases.sizes(admin, [database]))[database]
    if size > limit * _MEGABYTE:
        await note_loss(admin, run, database, _exceeds(size, limit))
        return
    async with replacement.building(admin, database) as copy:
        tag = await databases.read_tag(admin, database) or run.context.tag
        kept = replace(tag, untouched="", source=0, kept=run.context.began)
        await clones.take_snapshot(admin, database, copy, kept, closed=False)
    # The server counts the writes of a session when it ends at the latest.
    if not await has_data_of_user(admin, run, database):
        await databases.drop(admin, copy)
        return
    await replacement.keep_as_undo(admin, database, copy)
    run.database.has_undo = True
    await drop_oldest(admin, run)


async def record_time(admin: "asyncpg.Connection", run: ServiceRun, name: str) -> None:
    """Record in a database's environment tag that this run keeps it as an undo snapshot."""
    tag = await databases.read_tag(admin, name) or run.context.tag
    await databases.write_tag(admin, name, replace(tag, kept=run.context.began))


async def time_kept(admin: "asyncpg.Connection", name: str) -> float:
    """Return when a database became an undo snapshot, in seconds since the epoch.

    Returns:
        The time; 0 if it is not recorded.
    """
    tag = clones.readable_tag(name, await databases.comment_of(admin, name))
    return tag.kept if tag else 0.0


async def drop_oldest(admin: "asyncpg.Connection", run: ServiceRun) -> None:
    """Drop the oldest undo snapshots on the service's server that exceed `HULEEDU_UNDO_LIMIT`."""
    limit, own = run.context.settings.undo_limit, replacement.undo_name(run.url.database)
    known = {other.url.database for other in run.server.runs}
    known |= run.server.databases_outside(run.context.settings)
    sizes = await databases.sizes(admin, [replacement.undo_name(name) for name in known])
    times = {name: await time_kept(admin, name) for name in sizes}
    for name in sorted(sizes, key=lambda name: (name == own, times[name])):
        total = sum(sizes.values())
        if total <= limit * _MEGABYTE:
            return
        await databases.drop(admin, name)
        del sizes[name]
        if name == own:
            run.database.has_undo = False
            run.database.undo_lost = _exceeds(total, limit)


async def drop_blocking_undo(admin: "asyncpg.Connection", run: ServiceRun) -> None:
    """Drop the undo snapshot if it would prevent a migration from dropping a role."""
    name = replacement.undo_name(run.url.database)
    if await clones.holds_roles(admin, name):
        await databases.drop(admin, name)
        run.database.undo_lost = HOLDS_ROLE


async def note_loss(admin: "asyncpg.Connection", run: ServiceRun, name: str, why: str) -> None:
    """Note that a database which is about to be dropped does not become the undo snapshot.

    Args:
        name: The database, under its own or its predecessor's name.
        why: The reason, as a clause.
    """
    if run.context.keeps_undo and await has_data_of_user(admin, run, name):
        run.database.undo_lost = why


def undo_notes(runs: Iterable[ServiceRun]) -> tuple[str, ...]:
    """Return a note about the previous databases that were kept, and one for each that was not."""
    runs = tuple(runs)
    kept = [run.name for run in runs if run.database.has_undo]
    note = (
        f"{', '.join(kept)}: written to since it was built; the previous data is kept, and "
        "`invoke db.undo` brings it back."
    )
    lost = [
        f"{run.name}: the previous data is not kept for db.undo: {run.database.undo_lost}."
        for run in runs
        if run.database.undo_lost
    ]
    return (*([note] if kept else []), *lost)


async def has_data_of_user(admin: "asyncpg.Connection", run: ServiceRun, name: str) -> bool:
    """Whether a database may contain more than its build.

    A database on a server that this run has created, an unfinished build and one without any
    object do not.
    """
    if run.database.is_on_new_server:
        return False
    tag = clones.readable_tag(name, await databases.comment_of(admin, name))
    if tag and tag.unfinished:
        return False
    if not await clones.is_written_to(admin, name, tag):
        return False
    if not await databases.exists(admin, name):
        return False
    try:
        async with connection(run.url, database=name) as session:
            return not (
                await databases.is_untouched(session)
                or await clones.is_only_analyzed(session, name, tag)
            )
    except ServerError:
        # What cannot be examined is kept.
        return True


def _exceeds(size: int, limit: int) -> str:
    return f"its {size / _MEGABYTE:.0f} MB exceed HULEEDU_UNDO_LIMIT, which is {limit} MB"
