"""Init snapshots: the databases as the init scripts of a new server have filled them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from huleedu_tasks.db.service_run import ServiceRun
from huleedu_tasks.postgres import clones, databases
from huleedu_tasks.postgres.clones import Activity
from huleedu_tasks.postgres.connections import MAINTENANCE_DATABASES

if TYPE_CHECKING:
    import asyncpg


async def keep_init_snapshots(run: ServiceRun, counted: Mapping[str, Activity]) -> None:
    """Save an init snapshot of each database on a server that init scripts have just filled.

    None is saved of a database to which another session has written since. A reset recreates the
    server then.

    Args:
        counted: The counters of each database before anything was written; a database without
            them is not verified.
    """
    scripts = await run.context.provider.init_scripts(run.service)
    if not scripts:
        return
    tag = replace(run.context.tag, init=scripts)
    admin = await run.admin()
    for database in [run.filled_database, *_databases_beside(run)]:
        if not await databases.exists(admin, database):
            continue
        before = counted.get(database)
        await clones.keep(
            admin,
            database,
            clones.init_snapshot_name(database),
            tag,
            # A session that was counted before may write later, so only the writes decide.
            sessions=0 if before else None,
            writes=before.writes if before else None,
        )


async def find_init_snapshot(admin: "asyncpg.Connection", database: str, scripts: str) -> str:
    """Return the name of a database's init snapshot; empty string if there is no matching one.

    Args:
        scripts: The fingerprint of the init scripts that made it; empty string if any will do.
    """
    name = clones.init_snapshot_name(database)
    tag = await databases.read_tag(admin, name)
    return name if tag is not None and tag.init and scripts in ("", tag.init) else ""


def _databases_beside(run: ServiceRun) -> list[str]:
    """Return the databases of services outside the run that have no init snapshot yet."""
    server = run.server
    found = server.filled_outside(run.context.settings) - server.snapshotted
    found.difference_update(MAINTENANCE_DATABASES)
    server.snapshotted |= found
    return sorted(found)
