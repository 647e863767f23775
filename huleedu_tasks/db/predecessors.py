"""Predecessors: the databases that a reset has replaced, kept until their successor is complete."""

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

from huleedu_tasks.db.service_run import ServiceRun
from huleedu_tasks.db.undo_snapshots import (
    HOLDS_ROLE,
    becomes_undo,
    drop_blocking_undo,
    drop_oldest,
    note_loss,
    record_time,
)
from huleedu_tasks.postgres import clones, databases, replacement
from huleedu_tasks.postgres.connections import connection

if TYPE_CHECKING:
    import asyncpg


async def put_in_place(admin: "asyncpg.Connection", run: ServiceRun) -> str:
    """Replace the database by its successor; return a note about lost replication slots."""
    database = run.database
    replaced = await replacement.put_in_place(
        admin,
        run.url.database,
        is_unfinished=partial(is_unfinished, admin, run),
        becomes_undo=partial(becomes_undo, admin, run),
    )
    database.is_unfinished = True
    database.keeps_predecessor |= replaced.is_kept
    if not replaced.slots:
        return ""
    return f"replication slot {', '.join(replaced.slots)} was dropped with the old database"


async def retire_predecessor(admin: "asyncpg.Connection", run: ServiceRun) -> None:
    """Keep the predecessor of a complete database as its undo snapshot, or drop it.

    It is dropped if it was not written to since it was built.
    """
    name = run.url.database
    if run.database.keeps_predecessor and await becomes_undo(admin, run):
        await replacement.keep_as_undo(admin, name, replacement.predecessor_name(name))
    else:
        await replacement.drop_predecessor(admin, name)
    run.database.is_unfinished = False
    run.database.keeps_predecessor = False
    if run.database.has_undo:
        await drop_oldest(admin, run)


async def settle_predecessor(admin: "asyncpg.Connection", run: ServiceRun) -> None:
    """Finish what a killed or failed command has left of replacing the database.

    The predecessor of a complete database becomes its undo snapshot if it was written to, and that
    of an unfinished one does in any case.
    """
    name = replacement.predecessor_name(run.url.database)
    if not await databases.exists(admin, name):
        return
    if await is_unfinished(admin, run):
        await record_time(admin, run, name)
        await replacement.keep_as_undo(admin, run.url.database, name)
    else:
        run.database.keeps_predecessor = True
        await retire_predecessor(admin, run)
    run.database.has_undo = False


async def drop_blocking_predecessor(admin: "asyncpg.Connection", run: ServiceRun) -> None:
    """Drop the predecessor and the undo snapshot that would prevent dropping a role."""
    await drop_blocking_undo(admin, run)
    name = replacement.predecessor_name(run.url.database)
    if run.database.keeps_predecessor and await clones.holds_roles(admin, name):
        await note_loss(admin, run, name, HOLDS_ROLE)
        await databases.drop(admin, name)
        run.database.keeps_predecessor = False


def predecessor_notes(runs: Iterable[ServiceRun]) -> tuple[str, ...]:
    """Return a note for each predecessor whose successor is not complete."""
    kept = [run for run in runs if run.is_leader and run.database.keeps_predecessor]
    names = sorted((run.name, run.url.database) for run in kept)
    return tuple(_restore_note(service, database) for service, database in names)


async def is_unfinished(admin: "asyncpg.Connection", run: ServiceRun) -> bool:
    """Whether a failed reset has left the database unfinished, or the database is empty."""
    tag = await databases.read_tag(admin, run.url.database)
    if run.database.is_unfinished or (tag and tag.unfinished):
        return True
    async with connection(run.url) as owner:
        return await databases.is_untouched(owner)


def _restore_note(service: str, database: str) -> str:
    """Return a note with the command that restores the previous database."""
    kept = replacement.predecessor_name(database)
    return (
        f"{service}: its previous database is kept as {kept!r} until a reset succeeds; "
        f"`invoke db.undo --service {service}` brings it back."
    )
