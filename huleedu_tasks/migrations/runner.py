"""Runs a service's migrations in a child process, with its `env.py` and `config.py` unchanged."""

import json
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

from huleedu_tasks import process
from huleedu_tasks.config.registry import Service
from huleedu_tasks.config.secret import Redactor
from huleedu_tasks.config.settings import Settings
from huleedu_tasks.config.urls import DatabaseUrl
from huleedu_tasks.errors import HuleEduError, Interrupted, MigrationError
from huleedu_tasks.migrations.alembic_failures import (
    cause_in,
    failure_of,
    how_to_follow,
    remedy,
    require_match,
)
from huleedu_tasks.migrations.child_process import (
    INSTRUCTIONS,
    Alembic,
    environment_of,
    environment_with_url,
    run_alembic,
)
from huleedu_tasks.migrations.forkserver import WarmWorkers
from huleedu_tasks.migrations.observation import Observation
from huleedu_tasks.migrations.results import (
    Migrated,
    Rendered,
    ReportedConnection,
    ReportedRevisions,
    ReportedTables,
    Used,
    read_used,
)
from huleedu_tasks.migrations.revisions import History, Revision, named
from huleedu_tasks.postgres.connections import connection
from huleedu_tasks.postgres.databases import VersionTable
from huleedu_tasks.postgres.version_tables import read_revisions

HEAD, HEADS, BASE = "head", "heads", "base"
# Seconds until env.py must connect, if it is only asked for its connection.
ASKING_SECONDS = 30.0
_CORRECT_DOWNGRADE = (
    "Correct downgrade() in the revision that is named, or rebuild the database with "
    "`invoke db.reset`."
)
# Returns the revisions that the version tables of a database record.
Read = Callable[[Sequence[VersionTable] | None], Awaitable[tuple[str, ...]]]


async def upgrade(
    alembic: Alembic,
    history: History,
    target: str = HEAD,
    *,
    session: Observation,
    tables: Sequence[VersionTable] | None = None,
    read: Read | None = None,
    beside: Sequence[str] = (),
) -> Migrated:
    """Upgrade a service's database, and read its revisions afterwards.

    No process is started if the database is at the target already.

    Args:
        alembic: The Alembic of the service.
        history: The revisions of the service.
        target: A revision, as `alembic upgrade` accepts it.
        session: The instructions for the run, with the verified database.
        tables: The version tables that `env.py` configures; None if only the run reports them.
        read: Returns the revisions of the database; None to connect for them.
        beside: The revisions of other branches that the database may have as well.

    Raises:
        Interrupted: If the run was stopped before its last revision.
        LockTimeout: If a statement exceeded lock_timeout.
        MigrationError: If Alembic fails, exceeds the timeout, or does not reach the target.
        Refused: If the service's code connects to a different database, a file has changed, or
            the run loses its lock; no further revision ran.
        ServerError: If the revisions cannot be read.
    """
    service, url = alembic.service, alembic.url
    wanted = history.resolve(target)
    read = read or partial(revisions_of, url, history)
    before = await read(tables) if tables else None
    if wanted and before == (wanted,):
        return Migrated(before=before, after=before, used=Used(sessions=1))
    if wanted and before and history.is_past(before, wanted):
        raise MigrationError(
            f"{url.database} is at {named(before)}, which is past {wanted}; nothing was run.",
            code="downgrade-unsupported",
            hint=f"In development, go back with `invoke db.rollback --service {service.name} "
            f"--revision {wanted}`, or rebuild the database with `invoke db.reset`. Staging and "
            "production only go forward: correct a released revision with a new one.",
        )
    with process.scratch_directory() as scratch:
        report = scratch / "used"
        done = await alembic.run(
            ["upgrade", target], session.instructions(url.reveal(), used=report)
        )
        # Our own sessions: one after the run, and one before it if the tables were known.
        used = read_used(report, url, own_sessions=1 if before is None else 2)
    if done.returncode != 0 or session.was_refused:
        at = session.before if before is None else before
        raise failure_of(service, url, done, session, remedy(at, history))
    if session.stopped_early:
        raise Interrupted("stopped before the next revision", code="interrupted")
    tables = session.version_tables or tables
    after = await read(tables)
    if wanted and (wanted not in after or not {wanted, *beside}.issuperset(after)):
        raise MigrationError(
            f"Alembic ended without an error, but {url.database} is at "
            f"{named(after)}, not at {wanted}.",
            code="revision-not-reached",
            hint=f"Make env.py use the URL in {service.alembic_url_variable}: it ran no migration, "
            "or migrated a different database.",
            output=done.output,
        )
    return Migrated(
        before=session.before if before is None else before,
        after=after,
        reported=ReportedTables(
            tables=session.version_tables, queried_first=session.queried_first, used=used
        ),
        output=done.output,
        used=used,
    )


async def downgrade(
    alembic: Alembic,
    history: History,
    target: str,
    *,
    session: Observation,
    before: tuple[str, ...],
    tables: Sequence[VersionTable] | None = None,
) -> Migrated:
    """Downgrade a service's database, and read its revisions afterwards.

    Args:
        target: The full id of a revision; an empty string for none.
        session: The instructions for the run, with the verified database.
        before: The revisions of the database.
        tables: The version tables that `env.py` configures; None if only the run reports them.

    Raises:
        LockTimeout: If a statement exceeded lock_timeout.
        MigrationError: If Alembic fails, exceeds the timeout, or does not reach the target.
        Refused: If the service's code connects to a different database; no further revision ran.
        ServerError: If the revisions cannot be read.
    """
    service, url = alembic.service, alembic.url
    done = await alembic.run(["downgrade", target or BASE], session.instructions(url.reveal()))
    if done.returncode != 0 or session.was_refused:
        error = failure_of(service, url, done, session, _CORRECT_DOWNGRADE)
        raise _downgrade_failed(error, session) if error.code == "migration-failed" else error
    after = await revisions_of(url, history, session.version_tables or tables)
    if target not in after and (target or after):
        raise MigrationError(
            f"Alembic ended without an error, but {url.database} is at {named(after)}, not at "
            f"{target or named(())}.",
            code="revision-not-reached",
            hint=f"Make env.py use the URL in {service.alembic_url_variable}.",
            output=done.output,
        )
    return Migrated(before=before, after=after, output=done.output)


def _downgrade_failed(error: HuleEduError, session: Observation) -> MigrationError:
    """Return the error of a downgrade, with whether it was rolled back."""
    if not session.begun:
        return MigrationError(
            error.message, code="downgrade-failed", hint=error.hint, output=error.output
        )
    fate = "may be partially applied" if session.kept else "was rolled back"
    cause = error.message.removeprefix(f"Revision {session.begun} failed: ")
    return MigrationError(
        f"The downgrade of {session.begun} failed and {fate}: {cause}",
        code="downgrade-failed",
        hint=error.hint,
        output=error.output,
    )


async def render(alembic: Alembic, session: Observation, start: Sequence[str]) -> Rendered:
    """Render the SQL from given revisions to head with Alembic's offline mode.

    Args:
        session: The instructions. Its settings must be read-only, because `env.py` may connect.
        start: The current revisions of the database.

    Raises:
        Refused: If `env.py` connects to a different database.
    """
    url = alembic.url
    used_file = session.events.with_name(f"{session.events.name}-used")
    instructions = session.instructions(url.reveal(), used=used_file, start=list(start))
    # For connections that a revision opens: libpq reads PGOPTIONS, asyncpg does not.
    options = " ".join(f"-c {name}={value}" for name, value in session.settings.items())
    try:
        done = await alembic.run(["upgrade", HEAD, "--sql"], instructions, options=options)
        problem = "" if done.returncode == 0 else cause_in(done.output)
        output = done.output
    except MigrationError as error:
        problem, output = error.message, error.output
    require_match(alembic.service, url, session, output)
    events = session.read_events()
    return Rendered(
        sql={str(e["revision"]): str(e["sql"]) for e in events if e["event"] == "sql"},
        unrendered={
            str(e["revision"]): str(e["reason"]) for e in events if e["event"] == "unrendered"
        },
        problem=problem,
        used=read_used(used_file, url),
    )


async def report_revisions(
    service: Service, url: DatabaseUrl | None, settings: Settings, *, workers: WarmWorkers
) -> ReportedRevisions:
    """Load a service's revision files with Alembic, without connecting to a database.

    Args:
        url: The URL in the service's variables; None to leave them out.
        workers: Forks the process.

    Raises:
        MigrationError: If Alembic cannot load them, with its error.
    """
    environment = (
        environment_with_url(service, url, settings) if url else environment_of(service, settings)
    )
    with process.scratch_directory() as scratch:
        report, used = scratch / "revisions", scratch / "used"
        environment[INSTRUCTIONS] = json.dumps({"revisions": str(report), "used": str(used)})
        done = await run_alembic(service, settings, environment, ["heads"], workers=workers)
        if done.returncode != 0 or not report.exists():
            raise MigrationError(
                f"Alembic could not load the revisions: {cause_in(done.output)}",
                code="revisions-unreadable",
                hint="Correct the file or the configuration that the error names.",
                output=done.output,
            )
        facts = json.loads(report.read_bytes())
        found = [
            Revision(
                id=revision["id"],
                parents=tuple(revision["parents"]),
                depends_on=tuple(revision["depends_on"]),
                message=revision["message"],
                path=Path(revision["path"]),
            )
            for revision in facts["revisions"]
        ]
        return ReportedRevisions(
            revisions=tuple(found),
            contradictions=tuple(facts["contradictions"]),
            used=read_used(used, url),
        )


async def report_version_tables(alembic: Alembic, session: Observation) -> ReportedTables:
    """Run a service's `env.py` read-only, and return the version tables that it configures.

    Args:
        session: The instructions, with read-only settings.

    Raises:
        MigrationError: If `env.py` fails, or configures no version table.
        Refused: If it connects to a different database.
    """
    with process.scratch_directory() as scratch:
        used = scratch / "used"
        instructions = session.instructions(alembic.url.reveal(), used=used, is_asking=True)
        done = await alembic.run(["current"], instructions)
        found = read_used(used, alembic.url)
    require_match(alembic.service, alembic.url, session, done.output)
    tables = session.version_tables
    if done.returncode != 0 or not tables:
        raise MigrationError(
            f"env.py did not configure a version table: {cause_in(done.output)}",
            code="version-table-unknown",
            hint="Correct env.py. `alembic current` in the service's directory shows the error.",
            output=done.output,
        )
    acting = next((event for event in session.read_events() if event["event"] == "acting"), {})
    return ReportedTables(
        tables=tables,
        queried_first=session.queried_first,
        used=found,
        role=acting.get("role", ""),
        search_path=tuple(acting.get("search_path", ())),
    )


async def report_connection(alembic: Alembic) -> ReportedConnection:
    """Run a service's `env.py` up to its first connection, which is not opened.

    Raises:
        MigrationError: If it exceeds `ASKING_SECONDS`, or its interpreter cannot be started.
    """
    url = alembic.url
    with process.scratch_directory() as scratch:
        file = scratch / "connection"
        asking = {"asking": {"file": str(file), "url": url.reveal()}}
        done = await alembic.run(["current"], json.dumps(asking), timeout=ASKING_SECONDS)
        report = json.loads(file.read_bytes()) if file.exists() else {}
    if "address" not in report:
        failure = cause_in(done.output) if done.returncode else ""
        return ReportedConnection(refused=report.get("refused", ""), failure=failure)
    return ReportedConnection(
        address=report["address"],
        database=report["database"],
        follows=report["follows"],
        driver=report["driver"],
        complaint=Redactor([url.password])(report["complaint"]),
        how_to_follow=how_to_follow(alembic.service, report),
    )


async def revisions_of(
    url: DatabaseUrl, history: History, tables: Sequence[VersionTable] | None
) -> tuple[str, ...]:
    """Read the revisions of a database.

    Args:
        tables: The version tables that `env.py` configures; None if they are not known.

    Raises:
        ServerError: If they cannot be read, or several tables may be the version table.
    """
    async with connection(url) as asked:
        return history.least_advanced(await read_revisions(asked, tables))
