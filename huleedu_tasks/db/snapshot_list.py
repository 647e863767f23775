"""List the snapshots on the servers: the named ones, and the undo snapshots."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from huleedu_tasks.db.service_run import ServiceRun
from huleedu_tasks.db.snapshots import Unfinished, read_snapshots, shown_age
from huleedu_tasks.postgres import clones, databases, replacement
from huleedu_tasks.postgres.connections import Unreachable
from huleedu_tasks.postgres.databases import EnvironmentTag
from huleedu_tasks.report import Fact, Listing

if TYPE_CHECKING:
    import asyncpg

COLUMNS = ("name", "service", "kind", "revision", "size", "age")
_MEGABYTE = 1_000_000
Row = Mapping[str, Fact]


async def snapshots_of(runs: Sequence[ServiceRun], unfinished: Unfinished) -> Listing:
    """List the snapshots of services, by name and service.

    A service whose server does not answer has one row of the kind `unreachable`.
    """
    keys = unfinished.read().keys()
    leaders = [run for run in runs if run.is_leader]
    found = await asyncio.gather(*(_rows(run, keys) for run in leaders))
    # Sorting keeps the order of the registry within one name.
    rows = sorted((row for rows in found for row in rows), key=lambda row: str(row["name"]))
    return Listing(command="db.snapshots", key="snapshots", columns=COLUMNS, rows=tuple(rows))


async def _rows(run: ServiceRun, keys: Collection[str]) -> list[Row]:
    try:
        admin = await run.admin()
    except Unreachable:
        nothing: dict[str, Fact] = dict.fromkeys(COLUMNS)
        return [{**nothing, "name": "", "service": run.name, "kind": "unreachable"}]
    named = await read_snapshots(admin, run, keys, drops=False)
    copies = {clones.snapshot_name(run.url.database, name): name for name in named}
    undo = replacement.undo_name(run.url.database)
    sizes = await databases.sizes(admin, [*copies, undo])
    rows = [_row(run, name, named[name], sizes[copy]) for copy, name in copies.items()]
    if undo in sizes:
        rows.append(await _undo_row(admin, run, undo, sizes[undo]))
    return rows


def _row(run: ServiceRun, name: str, tag: EnvironmentTag, size: int) -> Row:
    return {
        "name": name,
        "service": run.name,
        "kind": "named",
        "revision": tag.snapshot.get("revision"),
        "size": f"{size / _MEGABYTE:.1f} MB",
        "age": shown_age(tag),
        "bytes": size,
        "created": float(tag.snapshot["created"]),
    }


async def _undo_row(admin: "asyncpg.Connection", run: ServiceRun, undo: str, size: int) -> Row:
    tag = clones.readable_tag(undo, await databases.comment_of(admin, undo))
    kept = tag.kept if tag else None
    return {
        "name": "",
        "service": run.name,
        "kind": "undo",
        "revision": None,
        "size": f"{size / _MEGABYTE:.1f} MB",
        "age": shown_age(tag) if tag and kept else None,
        "bytes": size,
        "created": kept,
    }
