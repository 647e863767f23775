"""Recreate a whole server, so that its init scripts run again.

Init scripts run only in a new data directory. A server on which other databases have tables is
never recreated without `--volumes`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from huleedu_tasks.config.settings import Environment, Settings
from huleedu_tasks.config.urls import DatabaseUrl
from huleedu_tasks.db.extensions import create_extensions
from huleedu_tasks.db.init_snapshots import find_init_snapshot, keep_init_snapshots
from huleedu_tasks.db.prove import prove_server, snapshot_names
from huleedu_tasks.db.service_run import ServerRun, ServiceRun, after_leader, after_migrated
from huleedu_tasks.db.undo_snapshots import has_data_of_user
from huleedu_tasks.errors import Finding, HuleEduError, Refused, ServerError
from huleedu_tasks.parallel import Stage, Step
from huleedu_tasks.postgres import clones, databases, replacement
from huleedu_tasks.postgres.connections import connection
from huleedu_tasks.report import Outcome

if TYPE_CHECKING:
    import asyncpg

NEW_DATA = "the server's data is new"


async def examine_init_scripts(run: ServiceRun, step: Step) -> Outcome:
    """Require a new server if the init scripts must run again for the service.

    That is the case if there is no init snapshot from the current scripts, unless other databases
    on the server would be lost.
    """
    run.init_scripts = await run.context.provider.init_scripts(run.service)
    if run.init_scripts:
        admin = await run.admin()
        if not await find_init_snapshot(admin, run.filled_database, run.init_scripts):
            lost = await _other_data(admin, run)
            run.server.databases_to_lose = lost or run.server.databases_to_lose
            run.server.must_be_recreated |= not lost
    return run.done()


async def prove_recreation(run: ServiceRun, step: Step) -> Outcome:
    """Prove that the server may be destroyed, if it must be recreated for any of its services.

    Whether its databases have data that is lost must be known before the first of its services
    recreates it.
    """
    if not run.server.must_be_recreated:
        return run.done()
    if run.is_leader and run.context.keeps_undo:
        database = run.url.database
        run.database.has_data_to_lose = await has_data_of_user(await run.admin(), run, database)
    return await prove_server(run, step)


async def recreate_server(run: ServiceRun, step: Step) -> Outcome:
    """Recreate the server's data: run initdb and the init scripts again."""
    if not run.is_leader:
        return run.done()
    _require_all_proven(run)
    step("recreating its volume")
    await run.close()
    provider = run.context.provider
    started = await provider.renew(run.service, run.url)
    if started.is_new:
        await keep_init_snapshots(run, started.counted)
    scripts = await provider.init_scripts(run.service)
    admin = await run.admin()
    await databases.write_tag(admin, run.url.database, run.context.tag)
    # Writes of other sessions cannot be distinguished from those of the init scripts.
    before = replace(await clones.activity(admin, run.url.database), writes=None)
    run.database.build = await run.context.templates.begin(
        admin, run.database.services, scripts, why=NEW_DATA, before=before
    )
    await create_extensions(run)
    return run.done(facts={"server": started.done})


def require_whole_servers(runs: Iterable[ServiceRun]) -> None:
    """Require that every service on the servers of a run is in the run.

    Raises:
        Refused: If one is not: its database would be destroyed without being rebuilt.
    """
    findings = [
        Finding(place=service.name, problem=f"shares the server {server.name!r}")
        for server in _servers(runs)
        for service in server.outside
    ]
    if findings:
        raise Refused(
            "--volumes would destroy databases of services that were not selected.",
            code="volume-shared",
            findings=findings,
            hint="Select them with --service as well, or omit --volumes.",
        )


def kept_server_notes(runs: Iterable[ServiceRun], settings: Settings) -> tuple[str, ...]:
    """Return a note for each server that was kept, with the command that recreates it."""
    kept = [server for server in _servers(runs) if server.databases_to_lose]
    return tuple(_kept_server_note(server, settings) for server in kept)


def _kept_server_note(server: ServerRun, settings: Settings) -> str:
    lost = set(server.databases_to_lose)
    flag = "" if lost <= server.databases_outside(settings) else " --volumes"
    selected = "".join(f" --service {service.name}" for service in server.services)
    where = " in development" if settings.environment is Environment.TESTING else ""
    return (
        f"The init scripts of the server {server.name!r} did not run, because it "
        f"also has {', '.join(sorted(lost))}. Roles, extensions and schemas that they create "
        f"may be missing or outdated. To recreate the server, these databases included, run "
        f"`invoke db.reset{flag}{selected}`{where}."
    )


def _require_all_proven(run: ServiceRun) -> None:
    """Require that every service of the run on the server was proven disposable.

    Raises:
        ServerError: If one failed before: its data would be lost without being rebuilt.
    """
    failed = ", ".join(other.name for other in run.server.runs if not other.is_proven)
    if failed:
        raise ServerError(
            f"{run.name}: the server {run.server.name!r} was not recreated, "
            f"because {failed} failed and has a database on it.",
            code="server-not-recreated",
            hint=f"Correct {failed}, then run the command again.",
        )


async def _other_data(admin: "asyncpg.Connection", run: ServiceRun) -> Sequence[str]:
    """Return the databases on a server that have tables and belong to no service of the run."""
    own = {name for other in run.server.runs for name in _names_of(other.url.database)}
    names = set(await databases.open_names(admin)) - own
    others = [name for name in names if await _holds_tables(run.url, name)]
    return sorted([*others, *await _snapshots(admin, run)])


async def _snapshots(admin: "asyncpg.Connection", run: ServiceRun) -> list[str]:
    """Return the databases that are named snapshots, unless they may be lost."""
    if run.context.may_lose_snapshots:
        return []
    comments = await databases.comments(admin)
    return snapshot_names(comments)


def _names_of(database: str) -> tuple[str, ...]:
    """Return the names under which a service's database and its copies exist."""
    return (
        database,
        clones.init_snapshot_name(database),
        replacement.successor_name(database),
        replacement.predecessor_name(database),
        replacement.undo_name(database),
    )


async def _holds_tables(url: DatabaseUrl, name: str) -> bool:
    """Whether a database has tables; True if it cannot be reached."""
    try:
        async with connection(url, database=name) as session:
            return await databases.holds_tables(session)
    except HuleEduError:
        return True


def _servers(runs: Iterable[ServiceRun]) -> list[ServerRun]:
    return list(dict.fromkeys(run.server for run in runs))


EXAMINE_INIT_SCRIPTS = Stage(run=examine_init_scripts, io_bound=True, after=after_migrated)
PROVE_RECREATION = Stage(run=prove_recreation, io_bound=True, after=after_migrated)
RECREATE_SERVER = Stage(run=recreate_server, io_bound=True, after=after_leader)
