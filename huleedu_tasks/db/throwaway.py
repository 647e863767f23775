"""A throwaway database beside a service's own, on which its revisions are tried out."""

import ast
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

from huleedu_tasks import parallel
from huleedu_tasks.config.registry import migrating_order
from huleedu_tasks.config.urls import DatabaseUrl
from huleedu_tasks.db.init_snapshots import find_init_snapshot
from huleedu_tasks.db.service_run import ServiceRun
from huleedu_tasks.errors import MigrationError
from huleedu_tasks.migrations import runner
from huleedu_tasks.migrations.alembic_config import script_directory
from huleedu_tasks.migrations.observation import throwaway_observation
from huleedu_tasks.migrations.revisions import History, named
from huleedu_tasks.parallel import Step
from huleedu_tasks.postgres import clones, databases
from huleedu_tasks.postgres.connections import connection
from huleedu_tasks.process import scratch_directory

_SOURCE = ".py"
# A revision that imports only these does not depend on the service's code.
_LIBRARIES = frozenset({"alembic", "sqlalchemy"} | sys.stdlib_module_names - {"importlib"})


@asynccontextmanager
async def throwaway(
    run: ServiceRun, step: Step, history: History, at: tuple[str, ...]
) -> AsyncIterator[DatabaseUrl]:
    """Create a database at given revisions, and drop it at the end of a `with` block.

    It is a copy of a template if there is one with the same revisions. Otherwise the revisions are
    applied to a new database. The service's own database is not used. A database that a killed run
    has left is dropped first.

    Args:
        history: The revisions of the service.
        at: The revisions to apply, with those that they need: one, all heads, or none.

    Raises:
        MigrationError: If a revision fails on a new database.
        Refused: If the server was not proven to be the provider's own.
    """
    name = clones.throwaway_name(run.url.database)
    admin = await run.admin()
    await run.context.guard.prove_disposable(admin, run.service, name)
    await databases.drop(admin, name)
    url = replace(run.url, database=name)
    try:
        if not await _copy_template(run, url, history, at):
            step("migrating a throwaway database")
            await _build(run, url, history, at)
        yield url
    finally:
        await parallel.run_to_end(_drop(run, name))


async def _copy_template(
    run: ServiceRun, url: DatabaseUrl, history: History, at: tuple[str, ...]
) -> bool:
    """Copy a template with the same revisions; return whether there was one."""
    # A template of several services has tables that this service's history does not make.
    if at != history.heads or len(run.database.members) > 1:
        return False
    admin, context = await run.admin(), run.context
    template = await context.templates.find_migrated(
        admin,
        run.database.services,
        await context.provider.init_scripts(run.service),
        run.url.database,
        is_read_by_revisions=_read_by_revisions(run, history),
    )
    if not template:
        return False
    await clones.clone(admin, template, url.database, context.tag)
    async with connection(url) as session:
        found = await context.histories.current(run.service, url, session, history)
    if found != at:
        await databases.drop(admin, url.database)
    return found == at


async def _build(run: ServiceRun, url: DatabaseUrl, history: History, at: tuple[str, ...]) -> None:
    """Create a database, and apply the revisions of the service and of those that it needs."""
    admin, database = await run.admin(), run.database
    if snapshot := await find_init_snapshot(admin, run.url.database, ""):
        await clones.clone(admin, snapshot, url.database, run.context.tag)
    else:
        await databases.create(admin, url.database, run.context.tag)
    async with connection(url) as owner:
        for extension in {name for service in database.services for name in service.extensions}:
            await databases.create_extension(owner, extension)
    for member in _needed(run):
        theirs = await member.history()
        await _upgrade(member, url, theirs, theirs.heads)
    await _upgrade(run, url, history, at)


async def _upgrade(
    run: ServiceRun, url: DatabaseUrl, history: History, at: tuple[str, ...]
) -> None:
    for revision in (runner.HEADS,) if len(at) > 1 else at:
        with scratch_directory() as scratch:
            session = await throwaway_observation(await run.admin(), url, scratch / "events")
            try:
                await runner.upgrade(
                    run.context.histories.alembic(run.service, url),
                    history,
                    revision,
                    session=session,
                )
            except MigrationError as error:
                raise error.changed(
                    message=f"{run.name}: a new database could not be migrated to {named(at)}: "
                    f"{error.message}"
                ) from error


def _needed(run: ServiceRun) -> list[ServiceRun]:
    """Return the services of a shared database that must be migrated before one, in order."""
    members = {member.name: member for member in run.database.members}
    order = migrating_order([run.service, *run.database.services])
    return [members[s.name] for s in takewhile(lambda s: s.name != run.name, order)]


async def _drop(run: ServiceRun, name: str) -> None:
    await databases.drop(await run.admin(), name)


def _read_by_revisions(run: ServiceRun, history: History) -> Callable[[str], bool]:
    """Return whether the result of the revisions may depend on an input of a template.

    The service's modules beside its script directory are no inputs of the revisions, unless one of
    the revisions imports more than libraries.
    """
    with suppress(MigrationError, OSError, ValueError):
        if all(_imports(revision.path) <= _LIBRARIES for revision in history.revisions.values()):
            own = f"{run.context.templates.present.name(script_directory(run.service))}/"
            return lambda name: not name.endswith(_SOURCE) or name.startswith(own)
    return lambda name: True


def _imports(file: Path) -> set[str]:
    """Return the first names of the modules that a file imports; a relative import is empty."""
    found = set()
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add("" if node.level else (node.module or "").partition(".")[0])
    return found
