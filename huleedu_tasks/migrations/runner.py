"""Runs a service's migrations in a child process, with its `env.py` and `config.py` unchanged.

The override variable of that process contains the complete URL. PGPASSWORD contains the password,
for code that connects without the URL. Secrets in the output are masked before it is returned.
"""

import json
import re
import sys
import textwrap
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from huleedu_tasks import process
from huleedu_tasks.config.placeholders import fill_in
from huleedu_tasks.config.registry import Service
from huleedu_tasks.config.secret import Redactor, Secret
from huleedu_tasks.config.settings import Settings
from huleedu_tasks.config.urls import DatabaseUrl
from huleedu_tasks.errors import HuleEduError, Interrupted, MigrationError, Refused, ServerError
from huleedu_tasks.migrations.forkserver import WarmWorkers
from huleedu_tasks.migrations.revisions import History, Revision, option_hint
from huleedu_tasks.postgres.connections import connection
from huleedu_tasks.postgres.databases import VersionTable, parse_tag
from huleedu_tasks.postgres.inspection import read_revisions
from huleedu_tasks.postgres.locks import Hold, lock_lost
from huleedu_tasks.report import AppliedRevision

_TRACEBACK = "Traceback (most recent call last):\n"
# Separators of chained exceptions (Python's traceback module).
_LINK = re.compile(
    r"The above exception was the direct cause of the following exception:"
    r"|During handling of the above exception, another exception occurred:"
)
WORKER = Path(__file__).parent / "child" / "worker.py"
INSTRUCTIONS = "HULEEDU_WORKER"
OPTIONS = "HULEEDU_WORKER_OPTIONS"
HEAD = "head"
# PostgreSQL, Appendix A: lock_not_available, query_canceled.
_LOCK_TIMEOUT = "55P03"
_CANCELED = "57014"
# pg_cancel_backend() raises the same code with another message.
_BY_TIMEOUT = "statement timeout"
_SHOWN_STATEMENT = 120
# Seconds until env.py must connect, if it is only asked for its connection.
ASKING_SECONDS = 30.0
# Returns the revisions that the version tables of a database record.
Read = Callable[[Sequence[VersionTable] | None], Awaitable[tuple[str, ...]]]
# Names of variables that may contain the address of a database.
_NAMES_DATABASE = re.compile(r"DATABASE|DB|PG|POSTGRES|SQL|DSN|UR[IL]", re.IGNORECASE)


class LockTimeout(MigrationError):
    """A statement timed out while waiting for a lock of another session."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovedInputs:
    """The files from which the SQL of an approved plan was rendered.

    Attributes:
        root: The directory to which the paths are relative.
        digests: The SHA-256 of each file, by its path.
    """

    root: Path
    digests: Mapping[str, str]

    def as_json(self) -> dict[str, object]:
        """Return the JSON object that the worker reads."""
        return {"root": str(self.root), "digests": dict(self.digests)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """The instructions for a run of Alembic, and the events that it writes.

    Attributes:
        events: The file that receives the events; see `worker.py`.
        settings: Settings of PostgreSQL for each of its sessions.
        optional_settings: Settings that a server may refuse.
        target: The start time of the server and the OID of the database to migrate.
        hold: The advisory lock of the run; None if it has none.
        inputs: Files that must be unchanged since approval; None to compare none.
        go_on: A file. No further revision is begun after it was deleted. None to run all.
    """

    events: Path
    settings: Mapping[str, str] = field(default_factory=dict)
    optional_settings: Mapping[str, str] = field(default_factory=dict)
    target: tuple[str, int]
    hold: Hold | None = None
    inputs: ApprovedInputs | None = None
    go_on: Path | None = None

    def instructions(
        self,
        url: str,
        *,
        used: Path | None = None,
        start: Sequence[str] | None = None,
        is_asking: bool = False,
    ) -> str:
        """Return the JSON document that the worker reads.

        Args:
            url: Replaces the URL in the service's Alembic configuration.
            used: The file that receives the inputs; None to track no inputs.
            start: The revisions from which SQL is rendered; None to run the revisions.
            is_asking: Whether `env.py` is only asked for its configuration.
        """
        return json.dumps(
            {
                "is_asking": is_asking,
                "used": str(used) if used else None,
                "events": str(self.events),
                "settings": dict(self.settings),
                "optional_settings": dict(self.optional_settings),
                "target": self.target,
                "url": url,
                "start": start,
                "lock": {"held": self.hold.joined, "others": self.hold.others}
                if self.hold
                else None,
                "inputs": self.inputs.as_json() if self.inputs else None,
                "go_on": str(self.go_on) if self.go_on else None,
            }
        )

    def told(self) -> list[dict[str, Any]]:
        """Return the events that were written so far, in order."""
        if not self.events.exists():
            return []
        # The last line may be incomplete.
        whole, _, _ = self.events.read_text(encoding="utf-8").rpartition("\n")
        events = []
        for line in whole.splitlines():
            # A full disk may have truncated a line.
            with suppress(ValueError):
                events.append(json.loads(line))
        return events

    @property
    def version_tables(self) -> tuple[VersionTable, ...]:
        """The version tables that `env.py` configured, in order; empty if it configured none."""
        configured = [event for event in self.told() if event["event"] == "configured"]
        return tuple(dict.fromkeys(map(_version_table, configured)))

    @property
    def before(self) -> tuple[str, ...]:
        """The revisions of the database before the run, as Alembic read them."""
        found = (event["revisions"] for event in self.told() if event["event"] == "before")
        return tuple(next(found, ()))

    @property
    def queried_first(self) -> bool:
        """Whether `env.py` queried the database before it configured Alembic."""
        return any(event["event"] == "queried" for event in self.told())

    @property
    def was_refused(self) -> bool:
        """Whether the worker stopped the run, even if `env.py` ignored the exception."""
        refusals = ("mismatch", "lock lost", "changed")
        return any(event["event"] in refusals for event in self.told())

    @property
    def begun(self) -> str:
        """The revision that was begun last; an empty string if none was."""
        return next(
            (str(e["revision"]) for e in reversed(self.told()) if e["event"] == "begun"), ""
        )

    @property
    def stopped_early(self) -> bool:
        """Whether the run stopped before its last revision, as requested."""
        return any(event["event"] == "stopped" for event in self.told())

    @property
    def kept(self) -> str:
        """A revision that may be partially applied, because it committed before its end.

        An empty string if there is none.
        """
        kept = ""
        for event in self.told():
            if event["event"] in ("kept", "committed"):
                kept = str(event.get("revision", ""))
        return kept


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """The inputs that a build read.

    Attributes:
        files: Files that were read, and those of loaded modules.
        directories: Directories that were listed.
        statuses: Paths that were only checked, for example with `os.stat`.
        modules: Names of modules that were searched for, by directory.
        addresses: Connections to other servers than the database's: a port and a host, or a path.
        untracked: Inputs that cannot be tracked, each as a clause.
        clocks: Uses of the clock or of random values, each as a clause.
        sessions: The number of connections to the database.
        variables: Environment variables that were read by name.
        all_variables: Whether the whole environment was iterated.
    """

    files: Sequence[str] = ()
    directories: Sequence[str] = ()
    statuses: Sequence[str] = ()
    modules: Mapping[str, Sequence[str]] = field(default_factory=dict)
    addresses: Sequence[str] = ()
    untracked: Sequence[str] = ()
    clocks: Sequence[str] = ()
    sessions: int = 0
    variables: Sequence[str] = ()
    all_variables: bool = False

    def __add__(self, other: "Used") -> "Used":
        return Used(
            files=[*self.files, *other.files],
            directories=[*self.directories, *other.directories],
            statuses=[*self.statuses, *other.statuses],
            modules={
                directory: [*self.modules.get(directory, ()), *other.modules.get(directory, ())]
                for directory in {*self.modules, *other.modules}
            },
            addresses=[*self.addresses, *other.addresses],
            untracked=[*self.untracked, *other.untracked],
            clocks=[*self.clocks, *other.clocks],
            sessions=self.sessions + other.sessions,
            variables=[*self.variables, *other.variables],
            all_variables=self.all_variables or other.all_variables,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Migrated:
    """The result of a run, as the database records it.

    Attributes:
        before: The revisions before the run.
        after: The revisions after the run.
        reported: The version tables that `env.py` configured; None if Alembic did not run.
        output: The output of Alembic and the service's code.
        used: The inputs; None if the process did not report them.
    """

    before: tuple[str, ...]
    after: tuple[str, ...]
    reported: "ReportedTables | None" = None
    output: str = ""
    used: Used | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedRevisions:
    """The revisions in Alembic's script directory.

    Attributes:
        contradictions: Warnings of Alembic about contradictory files.
        used: The inputs; None if the process did not report them.
    """

    revisions: tuple[Revision, ...]
    contradictions: tuple[str, ...]
    used: Used | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedTables:
    """The version tables that a service's `env.py` configures.

    Attributes:
        queried_first: Whether `env.py` queried the database before.
        used: The inputs; None if the process did not report them.
        role: The role that runs revisions; an empty string if it is not known.
        search_path: The schemas of that role's search path.
    """

    tables: tuple[VersionTable, ...]
    queried_first: bool
    used: Used | None
    role: str = ""
    search_path: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedConnection:
    """The first connection that a service's `env.py` would open; it was not opened.

    Strings are empty if they do not apply.

    Attributes:
        address: Its host and port; empty if `env.py` would not connect.
        database: The name of its database.
        follows: Whether it is to the database of the URL that `env.py` was given.
        driver: The library that would connect.
        complaint: The driver's error about parameters that it does not accept.
        how_to_follow: Which variable `env.py` read instead, and what to change.
        refused: Another address that `env.py` tried to connect to before.
        failure: The error with which `env.py` ended.
    """

    address: str = ""
    database: str = ""
    follows: bool = False
    driver: str = ""
    complaint: str = ""
    how_to_follow: str = ""
    refused: str = ""
    failure: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """The SQL of revisions, by their ids.

    Attributes:
        unrendered: Revisions without offline SQL, each with the reason.
        problem: The error of Alembic; an empty string if it succeeded.
        used: The inputs; None if the process did not report them.
    """

    sql: Mapping[str, str]
    unrendered: Mapping[str, str]
    problem: str = ""
    used: Used | None = None


async def upgrade(
    service: Service,
    url: DatabaseUrl,
    settings: Settings,
    history: History,
    target: str = HEAD,
    *,
    session: Observation,
    tables: Sequence[VersionTable] | None = None,
    workers: WarmWorkers | None = None,
    read: Read | None = None,
) -> Migrated:
    """Upgrade a service's database, and read its revisions afterwards.

    No process is started if the database is at the target already.

    Args:
        service: The service.
        url: The URL of its database.
        settings: The settings of the command.
        history: The revisions of the service.
        target: A revision, as `alembic upgrade` accepts it.
        session: The instructions for the run, with the verified database.
        tables: The version tables that `env.py` configures; None if only the run reports them.
        workers: Forks the process from one that has imported Alembic; None to start an interpreter.
        read: Returns the revisions of the database; None to connect for them.

    Raises:
        Interrupted: If the run was stopped before its last revision.
        LockTimeout: If a statement exceeded lock_timeout.
        MigrationError: If Alembic fails, exceeds the timeout, or does not reach the target.
        Refused: If the service's code connects to a different database, a file has changed, or
            the run loses its lock; no further revision ran.
        ServerError: If the revisions cannot be read.
    """
    wanted = history.resolve(target)
    read = read or partial(revisions_of, url, history)
    before = await read(tables) if tables else None
    if wanted and before == (wanted,):
        return Migrated(before=before, after=before, used=Used(sessions=1))
    if wanted and before and history.is_past(before, wanted):
        raise MigrationError(
            f"{service.database} is at {named(before)}, which is past {wanted}; nothing was run.",
            code="downgrade-unsupported",
            hint="Migrations only go forward. In development, rebuild the database with "
            "`invoke db.reset`.",
        )
    environment = _environment(service, url, settings)
    with process.scratch_directory() as scratch:
        told = scratch / "used"
        environment[INSTRUCTIONS] = session.instructions(url.reveal(), used=told)
        done = await _run_alembic(
            service, settings, environment, ["upgrade", target], workers=workers
        )
        # Our own sessions: one after the run, and one before it if the tables were known.
        used = _used(told, url, own_sessions=1 if before is None else 2)
    if done.returncode != 0 or session.was_refused:
        at = session.before if before is None else before
        raise _failure(service, url, done, session, _remedy(at, history))
    if session.stopped_early:
        raise Interrupted("stopped before the next revision", code="interrupted")
    tables = session.version_tables or tables
    after = await read(tables)
    if wanted and after != (wanted,):
        raise MigrationError(
            f"Alembic ended without an error, but {service.database} is at "
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


async def render(
    service: Service,
    url: DatabaseUrl,
    settings: Settings,
    session: Observation,
    start: Sequence[str],
) -> Rendered:
    """Render the SQL from given revisions to head with Alembic's offline mode.

    Args:
        session: The instructions. Its settings must be read-only, because `env.py` may connect.
        start: The current revisions of the database.

    Raises:
        Refused: If `env.py` connects to a different database.
    """
    environment = _environment(service, url, settings)
    told_used = session.events.with_name(f"{session.events.name}-used")
    environment[INSTRUCTIONS] = session.instructions(
        url.reveal(), used=told_used, start=list(start)
    )
    # For connections that a revision opens: libpq reads PGOPTIONS, asyncpg does not.
    options = (f"-c {name}={value}" for name, value in session.settings.items())
    environment["PGOPTIONS"] = " ".join([environment.get("PGOPTIONS", ""), *options]).strip()
    try:
        done = await _run_alembic(service, settings, environment, ["upgrade", HEAD, "--sql"])
        problem = "" if done.returncode == 0 else cause_in(done.output)
        output = done.output
    except MigrationError as error:
        problem, output = error.message, error.output
    told = session.told()
    for event in told:
        if event["event"] == "mismatch":
            raise _mismatch(service, url, event, was_run=False, output=output)
    return Rendered(
        sql={str(e["revision"]): str(e["sql"]) for e in told if e["event"] == "sql"},
        unrendered={
            str(e["revision"]): str(e["reason"]) for e in told if e["event"] == "unrendered"
        },
        problem=problem,
        used=_used(told_used, url),
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
    environment = _environment(service, url, settings) if url else environment_of(service, settings)
    with process.scratch_directory() as scratch:
        told, used = scratch / "revisions", scratch / "used"
        environment[INSTRUCTIONS] = json.dumps({"revisions": str(told), "used": str(used)})
        done = await _run_alembic(service, settings, environment, ["heads"], workers=workers)
        if done.returncode != 0 or not told.exists():
            raise MigrationError(
                f"Alembic could not load the revisions: {cause_in(done.output)}",
                code="revisions-unreadable",
                hint="Correct the file or the configuration that the error names.",
                output=done.output,
            )
        facts = json.loads(told.read_bytes())
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
            used=_used(used, url),
        )


async def report_version_tables(
    service: Service,
    url: DatabaseUrl,
    settings: Settings,
    session: Observation,
    *,
    workers: WarmWorkers,
) -> ReportedTables:
    """Run a service's `env.py` read-only, and return the version tables that it configures.

    Args:
        session: The instructions, with read-only settings.
        workers: Forks the process.

    Raises:
        MigrationError: If `env.py` fails, or configures no version table.
        Refused: If it connects to a different database.
    """
    environment = _environment(service, url, settings)
    with process.scratch_directory() as scratch:
        used = scratch / "used"
        environment[INSTRUCTIONS] = session.instructions(url.reveal(), used=used, is_asking=True)
        done = await _run_alembic(service, settings, environment, ["current"], workers=workers)
        found = _used(used, url)
    for event in session.told():
        if event["event"] == "mismatch":
            raise _mismatch(service, url, event, was_run=False, output=done.output)
    tables = session.version_tables
    if done.returncode != 0 or not tables:
        raise MigrationError(
            f"env.py did not configure a version table: {cause_in(done.output)}",
            code="version-table-unknown",
            hint="Correct env.py. `alembic current` in the service's directory shows the error.",
            output=done.output,
        )
    acting = next((event for event in session.told() if event["event"] == "acting"), {})
    return ReportedTables(
        tables=tables,
        queried_first=session.queried_first,
        used=found,
        role=acting.get("role", ""),
        search_path=tuple(acting.get("search_path", ())),
    )


async def report_connection(
    service: Service, url: DatabaseUrl, settings: Settings, *, workers: WarmWorkers
) -> ReportedConnection:
    """Run a service's `env.py` up to its first connection, which is not opened.

    Raises:
        MigrationError: If it exceeds `ASKING_SECONDS`, or its interpreter cannot be started.
    """
    environment = _environment(service, url, settings)
    with process.scratch_directory() as scratch:
        file = scratch / "connection"
        asking = {"asking": {"file": str(file), "url": url.reveal()}}
        environment[INSTRUCTIONS] = json.dumps(asking)
        done = await _run_alembic(
            service, settings, environment, ["current"], workers=workers, timeout=ASKING_SECONDS
        )
        told = json.loads(file.read_bytes()) if file.exists() else {}
    if "address" not in told:
        failure = cause_in(done.output) if done.returncode else ""
        return ReportedConnection(refused=told.get("refused", ""), failure=failure)
    return ReportedConnection(
        address=told["address"],
        database=told["database"],
        follows=told["follows"],
        driver=told["driver"],
        complaint=Redactor([url.password])(told["complaint"]),
        how_to_follow=_how_to_follow(service, told),
    )


def _version_table(event: Mapping[str, Any]) -> VersionTable:
    # A configured schema needs no search path.
    path = () if event["schema"] else tuple(event["search_path"])
    return VersionTable(name=event["table"], schema=event["schema"], search_path=path)


def applied(
    sessions: Sequence[Observation], history: History, before: Sequence[str], after: Sequence[str]
) -> tuple[AppliedRevision, ...]:
    """Return the revisions that a run applied, with their durations.

    The database decides which were applied; events of Alembic add only the durations.
    """
    runs = [event for session in sessions for event in session.told() if event["event"] == "run"]
    seconds = {str(event["revision"]): float(event["seconds"]) for event in runs}
    return tuple(
        AppliedRevision(
            revision=revision.id, message=revision.message, seconds=seconds.get(revision.id)
        )
        for revision in history.between(before, after)
    )


def named(revisions: tuple[str, ...]) -> str:
    """Return revisions for messages; `no revision` if there are none."""
    return ", ".join(revisions) or "no revision"


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


async def run_script(
    service: Service,
    script: Path,
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str],
    timeout: float,
) -> process.Completed:
    """Run a script of this package with a service's interpreter, in the service's directory.

    Args:
        script: The path of the script. It ends when its standard input is closed.
        timeout: Seconds it may take.

    Raises:
        MigrationError: If the interpreter cannot be started.
    """
    python = service.python or (sys.executable,)
    command = [*_from_directory(service, python), str(script), *arguments]
    try:
        return await process.run(
            command,
            cwd=service.directory,
            environment=_with_options(environment, service),
            timeout=timeout,
            lifeline=True,
            keeps=process.PRINTED,
        )
    except OSError as error:
        raise MigrationError(
            f"{python[0]!r} could not be started: {error.strerror}",
            code="interpreter-missing",
            hint="Correct 'python' or 'alembic' of this service in the registry.",
        ) from error


def environment_of(
    service: Service, settings: Settings, url: DatabaseUrl | None = None
) -> dict[str, str]:
    """Return the environment of a service's own code, without its override variable.

    Args:
        url: The URL for variables with a part of it; None leaves these variables out.
    """
    environment = settings.child_environment()
    if service.python:
        # `pdm run` would use our virtual environment instead of the service's.
        environment.pop("VIRTUAL_ENV", None)
    return environment | fill_in(service.environment, str(settings.environment), url)


def environment_at(service: Service, url: DatabaseUrl, settings: Settings) -> dict[str, str]:
    """Return the environment of a service's own code, with its override variable."""
    return _environment(service, url, settings)


def used_at(told: Path, url: DatabaseUrl) -> Used | None:
    """Return the inputs that a process wrote to a file; None if the file does not exist."""
    return _used(told, url)


async def _run_alembic(
    service: Service,
    settings: Settings,
    environment: Mapping[str, str],
    arguments: list[str],
    *,
    workers: WarmWorkers | None = None,
    timeout: float | None = None,
) -> process.Completed:
    arguments = [*service.alembic_arguments, *arguments]
    timeout = timeout or settings.migration_timeout
    done = None
    if workers and not service.python and workers.can_have(environment):
        # If the fork server has ended, start an interpreter instead.
        with suppress(OSError):
            done = await workers.run(
                arguments,
                cwd=service.directory,
                environment=_with_options(environment, service),
                timeout=timeout,
            )
    if done is None:
        done = await run_script(
            service, WORKER, arguments, environment=environment, timeout=timeout
        )
    mask = Redactor([Secret(environment.get("PGPASSWORD", "")), *settings.secrets()])
    done = replace(done, output=mask(done.output))
    if done.timed_out:
        raise MigrationError(
            f"The migrations exceeded {timeout:g} s and were terminated.",
            code="migration-timeout",
            hint="Find out what they wait for, or set HULEEDU_MIGRATION_TIMEOUT to more seconds.",
            output=done.output,
        )
    return done


def _with_options(environment: Mapping[str, str], service: Service) -> dict[str, str]:
    """Return an environment with the service's options for the worker."""
    options = service.alembic_options
    return {**environment, **({OPTIONS: json.dumps(options)} if options else {})}


def _used(told: Path, url: DatabaseUrl | None, *, own_sessions: int = 0) -> Used | None:
    """Return the inputs that a worker reported; None if it did not report them.

    Args:
        own_sessions: The number of sessions that this process opened on the database.
    """
    if not told.exists():
        return None
    facts = json.loads(told.read_bytes())
    places = (f"{url.port} {url.database}" if url else "", "")
    own_port = str(url.port) if url else ""
    sessions = sum(facts["sessions"].get(place, 0) for place in dict.fromkeys(places))
    return Used(
        files=facts["files"],
        directories=facts["directories"],
        statuses=facts["statuses"],
        modules=facts["modules"],
        untracked=facts["untracked"],
        clocks=facts["clocks"],
        addresses=[address for address in facts["addresses"] if address.split()[0] != own_port],
        sessions=sessions + own_sessions,
        variables=facts["variables"],
        all_variables=facts["all_variables"],
    )


def _failure(
    service: Service,
    url: DatabaseUrl,
    done: process.Completed,
    session: Observation,
    hint: str,
) -> HuleEduError:
    told = {str(event["event"]): event for event in session.told()}
    if mismatch := told.get("mismatch"):
        return _mismatch(service, url, mismatch, was_run="begun" in told, output=done.output)
    if "lock lost" in told:
        done_so_far = "no further revision was run" if "begun" in told else "nothing was run"
        return lock_lost(f"{url.database} on {url.address}", done_so_far)
    if changed := told.get("changed"):
        return _changed_input(str(changed["path"]), was_run="begun" in told)
    cause = f"Alembic failed with exit code {done.returncode}: {cause_in(done.output)}"
    failed = told.get("failed", {})
    if failed.get("revision"):
        cause = f"Revision {failed['revision']} failed: {failed['message']}"
    else:
        hint = option_hint(service, cause) or hint
    statement = textwrap.shorten(str(failed.get("statement")), _SHOWN_STATEMENT, placeholder=" ...")
    kind, code = MigrationError, "migration-failed"
    if failed.get("sqlstate") == _LOCK_TIMEOUT:
        kind, code = LockTimeout, "lock-timeout"
        cause = f"A statement timed out while waiting for a lock: {statement}"
        hint = (
            "Run the same command again when the lock is released, or end its holder with "
            "pg_terminate_backend(pid). HULEEDU_LOCK_TIMEOUT allows more time, but other sessions "
            "then wait behind this statement."
        )
    elif failed.get("sqlstate") == _CANCELED and _BY_TIMEOUT in str(failed["message"]):
        code = "statement-timeout"
        cause = f"A statement exceeded statement_timeout: {statement}"
        hint = (
            "Set HULEEDU_STATEMENT_TIMEOUT, or 'statement_timeout' in the registry, to a longer "
            "time."
        )
    if session.kept:
        hint = (
            "Check which of its changes are in the database (`invoke prod.validate` names invalid "
            "indexes). Undo them, or make the revision skip them. Then run the same command again."
        )
    return kind(cause, code=code, hint=hint, output=done.output)


def _mismatch(
    service: Service,
    url: DatabaseUrl,
    event: Mapping[str, Any],
    *,
    was_run: bool,
    output: str,
) -> Refused:
    where = "A revision or env.py" if was_run else "env.py"
    done = "no further revision was run" if was_run else "nothing was run"
    return Refused(
        f"{where} connected to {event['database']} on {event['address']}{_tagged(event)}, not to "
        f"{url.database} on {url.address}; {done}.",
        code="target-mismatch",
        hint=option_hint(service, "") or _how_to_follow(service, event),
        output=output,
    )


def _changed_input(path: str, *, was_run: bool) -> Refused:
    done = "no further revision was run" if was_run else "nothing was run"
    return Refused(
        f"{path} was changed after the plan was approved; {done}.",
        code="plan-changed",
        hint="Run `invoke prod.plan` again, and get approval for the new plan.",
    )


def _tagged(event: Mapping[str, Any]) -> str:
    """Return a clause with the environment tag of a database; empty if it has none."""
    with suppress(ServerError):
        if tag := parse_tag(event["database"], event["comment"]):
            return f", whose environment tag is {tag.environment}"
    return ""


def _how_to_follow(service: Service, event: Mapping[str, Any]) -> str:
    """Return which variable named a different database, and what to change."""
    ours = service.alembic_url_variable
    read = [name for name in event["read"] if _NAMES_DATABASE.search(name)]
    led = [name for name in event["led"] if name != ours]
    # One variable with a URL is enough; otherwise several variables name parts of it.
    named = led if event["all_were_read"] else [name for name in led if name in read] or led
    if ours in event["read"] or (event["all_were_read"] and not named):
        return (
            f"env.py read the correct URL in {ours}, but connected to a different "
            f"database. Correct env.py{_from(named)}, or state the difference in the registry."
        )
    if len(named) == 1:
        return (
            f'env.py read {named[0]}, not {ours}. State "url_variable": "{named[0]}" for '
            f'{service.name} in the registry, or "alembic_url_variable" if other services read '
            "it too."
        )
    return (
        f"env.py did not read {ours}; it read {', '.join(named or read) or 'no variable'}. "
        f'State the variable with its URL as "url_variable" for {service.name} in the registry.'
    )


def _from(variables: Sequence[str]) -> str:
    return f" ({', '.join(variables)})" if variables else ""


def _from_directory(service: Service, python: tuple[str, ...]) -> list[str]:
    program = python[0]
    # As in a shell, a name with a slash is a path, and any other one is found in PATH.
    path = str(service.directory / program) if "/" in program else program
    return [path, *python[1:]]


def _environment(service: Service, url: DatabaseUrl, settings: Settings) -> dict[str, str]:
    environment = environment_of(service, settings, url)
    if url.is_local:
        # PG* variables of the developer are meant for remote servers.
        own = service.environment
        environment = {n: v for n, v in environment.items() if n in own or not n.startswith("PG")}
    environment |= {
        "HULEEDU_ENVIRONMENT": str(settings.environment),
        settings.own_name("HULEEDU_ENVIRONMENT"): str(settings.environment),
        service.url_variable: url.reveal(),
        service.alembic_url_variable: url.reveal(),
    }
    if url.password:
        environment["PGPASSWORD"] = url.password.reveal()
    return environment


def _remedy(before: tuple[str, ...], history: History) -> str:
    """Return a hint for a failure of Alembic."""
    unknown = tuple(revision for revision in before if revision not in history.revisions)
    if unknown:
        return (
            f"The revision files do not contain {named(unknown)}. Check out the branch that has "
            "it, "
            "or rebuild the database with `invoke db.reset` in development."
        )
    return "Correct the cause that the service's output names, and run the command again."


def cause_in(output: str) -> str:
    """Return the exception of a traceback, or the last line of the output.

    For chained exceptions it is the last one, with the first one in brackets. `no output` if the
    output is empty.
    """
    raised: list[str] = []
    for text in _LINK.split(output):
        if text.count(_TRACEBACK) > 1:
            # The last traceback is not related to those before it.
            raised = []
        raised += filter(None, [_exception_in(text)])
    if not raised:
        lines = [line for line in output.splitlines() if line.strip()]
        return (lines[-1:] or ["no output"])[0].strip()
    shown, root = raised[-1], raised[0]
    return shown if root == shown else f"{shown} (caused by {root})"


def _exception_in(text: str) -> str:
    """Return the first line of a traceback's exception; an empty string without a traceback."""
    _, traceback, rest = text.rpartition(_TRACEBACK)
    # Frames are indented; exceptions of SQLAlchemy have several lines.
    lines = (line.strip() for line in rest.splitlines() if line and not line.startswith(" "))
    return next(filter(None, lines), "") if traceback else ""
