"""Runs a service's migrations in a child process, with its `env.py` and `config.py` unchanged.

The override variable carries the complete URL, in the environment of that process only; PGPASSWORD
carries the password too, for code that connects without the URL. What the process prints is masked
before anything else sees it.
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
# What stands between exceptions that caused each other (Python's traceback module).
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
# The same code stands for pg_cancel_backend().
_BY_TIMEOUT = "statement timeout"
_SHOWN_STATEMENT = 120
# What an env.py may take until it connects, when it is only asked where.
ASKING_SECONDS = 30.0
# Returns the revisions of a database, as its version tables say.
Read = Callable[[Sequence[VersionTable] | None], Awaitable[tuple[str, ...]]]
# Names that may say where a database is.
_NAMES_DATABASE = re.compile(r"DATABASE|DB|PG|POSTGRES|SQL|DSN|UR[IL]", re.IGNORECASE)


class LockTimeout(MigrationError):
    """A statement has waited too long for a lock that somebody else holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovedInputs:
    """The files that the SQL of an approved plan was made from.

    Attributes:
        root: The directory that their paths start in.
        digests: The SHA-256 of each, by its path.
    """

    root: Path
    digests: Mapping[str, str]

    def as_json(self) -> dict[str, object]:
        """Return what the worker reads."""
        return {"root": str(self.root), "digests": dict(self.digests)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What a run of Alembic is told, and where it tells what it does.

    Attributes:
        events: The file it writes to; see `worker.py`.
        settings: Settings of PostgreSQL for each of its sessions.
        wishes: Settings that a server may refuse.
        target: The database that is meant: its server's start, and its number there.
        hold: The hold of the run on its lock; None without one.
        inputs: The files that a run must load as they were approved; None to compare none.
        go_on: A file; no further revision is begun once it is gone. None to run all.
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
        """Return what the worker reads.

        Args:
            url: What takes the place of the URL in the service's Alembic configuration.
            used: A file that gets what was used; None to note nothing of it.
            start: The revisions to render SQL from; None to run it.
            is_asking: Whether `env.py` is only asked what it configures.
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
        """Return what has been told so far, in order."""
        if not self.events.exists():
            return []
        # The last line may still be in the making.
        whole, _, _ = self.events.read_text(encoding="utf-8").rpartition("\n")
        events = []
        for line in whole.splitlines():
            # On a full disk one may have been cut off.
            with suppress(ValueError):
                events.append(json.loads(line))
        return events

    @property
    def version_tables(self) -> tuple[VersionTable, ...]:
        """The version tables that `env.py` has configured, in order; empty if it has none."""
        configured = [event for event in self.told() if event["event"] == "configured"]
        return tuple(dict.fromkeys(map(_version_table, configured)))

    @property
    def before(self) -> tuple[str, ...]:
        """The revisions the database was at, as Alembic itself read them first."""
        found = (event["revisions"] for event in self.told() if event["event"] == "before")
        return tuple(next(found, ()))

    @property
    def queried_first(self) -> bool:
        """Whether `env.py` asked the database before it configured Alembic."""
        return any(event["event"] == "queried" for event in self.told())

    @property
    def was_refused(self) -> bool:
        """Whether the worker let nothing more run, even if `env.py` went on."""
        refusals = ("mismatch", "lock lost", "changed")
        return any(event["event"] in refusals for event in self.told())

    @property
    def begun(self) -> str:
        """The revision that was begun last; empty if none was."""
        return next(
            (str(e["revision"]) for e in reversed(self.told()) if e["event"] == "begun"), ""
        )

    @property
    def stopped_early(self) -> bool:
        """Whether revisions were left out because the run was to stop."""
        return any(event["event"] == "stopped" for event in self.told())

    @property
    def kept(self) -> str:
        """The revision of which a part stays, because it commits before its end; or nothing."""
        kept = ""
        for event in self.told():
            if event["event"] in ("kept", "committed"):
                kept = str(event.get("revision", ""))
        return kept


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """What was used while a database was made.

    Attributes:
        files: What was read, the modules that were loaded among it.
        directories: Where it was asked what there is.
        statuses: Paths of which it was only asked what they are.
        modules: The names of modules that were looked for, by the directory.
        addresses: What was connected to besides the database's own server: a port and a host, or
            a path.
        untracked: What was used whose own inputs cannot be tracked, each as a clause.
        clocks: What returns another value each time, each as a clause.
        sessions: How often the database was connected to.
        variables: The environment variables that were read by name.
        all_variables: Whether something went through the whole environment.
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
    """What a run did, as the database itself says.

    Attributes:
        before: The revisions it was at.
        after: The revisions it is at.
        reported: The version tables it is recorded in, as `env.py` configured them.
        output: What Alembic and the service's code printed.
        used: What was used for it; None if that was not told.
    """

    before: tuple[str, ...]
    after: tuple[str, ...]
    reported: "ReportedTables | None" = None
    output: str = ""
    used: Used | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedRevisions:
    """What Alembic's own script directory holds.

    Attributes:
        contradictions: What Alembic warns of and then passes over, in its words.
        used: What was read for it; None if that was not told.
    """

    revisions: tuple[Revision, ...]
    contradictions: tuple[str, ...]
    used: Used | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedTables:
    """What a service's `env.py` configures.

    Attributes:
        queried_first: Whether that may depend on what the database answered.
        used: What was read for it; None if that was not told.
        role: The role that revisions would run as; empty if that was not told.
        search_path: Where they would look for names.
    """

    tables: tuple[VersionTable, ...]
    queried_first: bool
    used: Used | None
    role: str = ""
    search_path: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedConnection:
    """The first connection that a service's `env.py` would open; none was opened.

    Attributes:
        address: Its host and port; empty if `env.py` would connect to nothing.
        follows: Whether it is to the database of the URL that `env.py` was given.
        driver: The library that would connect.
        complaint: What the driver says of parameters that it does not take; empty if it takes all.
        how_to_follow: Which variable `env.py` read instead, and what to change.
        refused: An address that `env.py` tried to reach before; empty if none.
        failure: The error that `env.py` ended with; empty if it connects.
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
        unrendered: Those that have none, each with the reason.
        output: What was printed, if Alembic itself failed.
        used: What was read for it; None if that was not told.
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
    """Upgrade a service's database, and ask it afterwards where it is.

    No process is started if it is there already.

    Args:
        target: A revision, as `alembic upgrade` takes it.
        tables: The version tables that `env.py` configures; None if only the run itself tells.
        session: Which database was proven, and where the run tells what it does.
        workers: Whoever can run it without starting an interpreter.
        read: Returns the revisions of the database; None to connect for that.

    Raises:
        Interrupted: If it was to stop, and has left out revisions.
        LockTimeout: If a statement has waited for a lock longer than the session allows.
        MigrationError: If Alembic fails, takes too long, or leaves the database elsewhere.
        Refused: If the service's code connects to another database, or the run loses its lock;
            no further revision ran.
        ServerError: If the database cannot be asked.
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
            hint="Migrations go forward only; in development `invoke db.reset` starts anew.",
        )
    environment = _environment(service, url, settings)
    with process.scratch_directory() as scratch:
        told = scratch / "used"
        environment[INSTRUCTIONS] = session.instructions(url.reveal(), used=told)
        done = await _run_alembic(
            service, settings, environment, ["upgrade", target], workers=workers
        )
        # Our own sessions: that after it, and that before it where there was one.
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
            hint=f"Its env.py did not migrate, or migrated another database: it must use "
            f"the URL in {service.alembic_url_variable}.",
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
    """Have Alembic write the SQL from given revisions to head, without running it.

    Args:
        start: The revisions the database is at.
        session: Should `env.py` connect all the same, its settings must keep it from writing.

    Raises:
        Refused: If `env.py` connects to another database.
    """
    environment = _environment(service, url, settings)
    told_used = session.events.with_name(f"{session.events.name}-used")
    environment[INSTRUCTIONS] = session.instructions(
        url.reveal(), used=told_used, start=list(start)
    )
    # A revision may open a connection of its own; libpq's drivers read this one, asyncpg does not.
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
    """Have Alembic load a service's revision files; nothing is connected to.

    Args:
        url: What the service's variables name meanwhile; None for nothing.

    Raises:
        MigrationError: If Alembic cannot load them, in its words.
    """
    environment = _environment(service, url, settings) if url else environment_of(service, settings)
    with process.scratch_directory() as scratch:
        told, used = scratch / "revisions", scratch / "used"
        environment[INSTRUCTIONS] = json.dumps({"revisions": str(told), "used": str(used)})
        done = await _run_alembic(service, settings, environment, ["heads"], workers=workers)
        if done.returncode != 0 or not told.exists():
            raise MigrationError(
                f"Alembic cannot load the revisions: {cause_in(done.output)}",
                code="revisions-unreadable",
                hint="Nothing was run. Correct the file or the configuration that it names.",
                output=done.output,
            )
        facts = json.loads(told.read_bytes())
        found = [
            Revision(
                id=each["id"],
                parents=tuple(each["parents"]),
                depends_on=tuple(each["depends_on"]),
                message=each["message"],
                path=Path(each["path"]),
            )
            for each in facts["revisions"]
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
    """Have a service's `env.py` configure Alembic on its database, and change nothing there.

    Args:
        session: Its settings must keep it from writing.

    Raises:
        MigrationError: If `env.py` fails, or configures nothing.
        Refused: If it connects to another database.
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
            f"env.py does not say which version table it uses: {cause_in(done.output)}",
            code="version-table-unknown",
            hint="Correct env.py; `alembic current` in the service's directory shows the same.",
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
    """Ask a service's `env.py` where it would connect; it connects to nothing.

    Raises:
        MigrationError: If it takes too long, or its interpreter cannot be started.
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
    # A schema that is stated needs no search path.
    path = () if event["schema"] else tuple(event["search_path"])
    return VersionTable(name=event["table"], schema=event["schema"], search_path=path)


def applied(
    sessions: Sequence[Observation], history: History, before: Sequence[str], after: Sequence[str]
) -> tuple[AppliedRevision, ...]:
    """Return the revisions that lead from one place to another, with the times they took.

    What Alembic says it has run counts only where the database says so too.
    """
    told = [each for session in sessions for each in session.told() if each["event"] == "run"]
    seconds = {str(each["revision"]): float(each["seconds"]) for each in told}
    return tuple(
        AppliedRevision(revision=each.id, message=each.message, seconds=seconds.get(each.id))
        for each in history.between(before, after)
    )


def named(revisions: tuple[str, ...]) -> str:
    """Return revisions as people read them."""
    return ", ".join(revisions) or "no revision"


async def revisions_of(
    url: DatabaseUrl, history: History, tables: Sequence[VersionTable] | None
) -> tuple[str, ...]:
    """Ask a database for its revisions.

    Args:
        tables: The version tables that `env.py` configures; None if that is not known.

    Raises:
        ServerError: If it cannot be asked, or there are several tables that may be the one.
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
    """Run a script of ours with a service's own interpreter, in the service's directory.

    Args:
        script: It watches its standard input, and ends when we do.
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
            f"{python[0]!r} cannot be started: {error.strerror}",
            code="interpreter-missing",
            hint="Correct 'python' or 'alembic' of this service in the registry.",
        ) from error


def environment_of(
    service: Service, settings: Settings, url: DatabaseUrl | None = None
) -> dict[str, str]:
    """Return what a service's own code finds in its environment.

    Args:
        url: Its database, for the variables that hold a part of its URL; None leaves those out.
    """
    environment = settings.child_environment()
    if service.python:
        # Ours would be taken for the service's by `pdm run` and the like.
        environment.pop("VIRTUAL_ENV", None)
    return environment | fill_in(service.environment, str(settings.environment), url)


def environment_at(service: Service, url: DatabaseUrl, settings: Settings) -> dict[str, str]:
    """Return what a service's own code finds in its environment where its database is given."""
    return _environment(service, url, settings)


def used_at(told: Path, url: DatabaseUrl) -> Used | None:
    """Return what a process has written down that it used; None if it has not."""
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
        # Should nothing be left that forks, an interpreter of its own does as well.
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
            f"Its migrations took longer than {timeout:g} s and were ended.",
            code="migration-timeout",
            hint="See what it waits for; HULEEDU_MIGRATION_TIMEOUT allows more time.",
            output=done.output,
        )
    return done


def _with_options(environment: Mapping[str, str], service: Service) -> dict[str, str]:
    """Return an environment with what the worker is told of every run."""
    options = service.alembic_options
    return {**environment, **({OPTIONS: json.dumps(options)} if options else {})}


def _used(told: Path, url: DatabaseUrl | None, *, own_sessions: int = 0) -> Used | None:
    """Return what a worker has told; None if it has not told anything.

    Args:
        own_sessions: How many sessions we had on the database ourselves meanwhile.
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
        addresses=[each for each in facts["addresses"] if each.split()[0] != own_port],
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
    told = {str(each["event"]): each for each in session.told()}
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
        cause = f"A statement has waited too long for a lock: {statement}"
        hint = (
            "Run the same command again once it is released, or end its holder with "
            "pg_terminate_backend(pid). HULEEDU_LOCK_TIMEOUT allows more time, while everybody "
            "else waits behind it."
        )
    elif failed.get("sqlstate") == _CANCELED and _BY_TIMEOUT in str(failed["message"]):
        code = "statement-timeout"
        cause = f"A statement has taken too long: {statement}"
        hint = (
            "HULEEDU_STATEMENT_TIMEOUT, or 'statement_timeout' in the registry, allows more time."
        )
    if session.kept:
        hint = (
            "See what of it is there (`invoke prod.validate` names invalid indexes), and undo it "
            "or let the revision pass over it; then run the same command again."
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
    where = "A revision or env.py" if was_run else "Its env.py"
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
        hint="Run `invoke prod.plan` again and have the new plan approved.",
    )


def _tagged(event: Mapping[str, Any]) -> str:
    """Name the environment of the database that was connected to, where that is known."""
    with suppress(ServerError):
        if tag := parse_tag(event["database"], event["comment"]):
            return f", whose environment tag is {tag.environment}"
    return ""


def _how_to_follow(service: Service, event: Mapping[str, Any]) -> str:
    """Say which variable led to another database, and what to change."""
    ours = service.alembic_url_variable
    read = [name for name in event["read"] if _NAMES_DATABASE.search(name)]
    led = [name for name in event["led"] if name != ours]
    # A URL variable says it all; without one, the parts do together.
    named = led if event["all_were_read"] else [name for name in led if name in read] or led
    if ours in event["read"] or (event["all_were_read"] and not named):
        return (
            f"{ours} held the right URL, and env.py read it. Remove what makes env.py connect "
            f"elsewhere{_from(named)}, or state the difference in the registry."
        )
    if len(named) == 1:
        return (
            f'env.py read {named[0]}, not {ours}. State "url_variable": "{named[0]}" for '
            f'{service.name} in the registry, or "alembic_url_variable" if other services read '
            "it too."
        )
    return (
        f"env.py did not read {ours}; it read {', '.join(named or read) or 'no such variable'}. "
        f'State the variable with its URL as "url_variable" for {service.name} in the registry.'
    )


def _from(variables: Sequence[str]) -> str:
    return f" ({', '.join(variables)})" if variables else ""


def _handed_over(url: DatabaseUrl) -> str:
    return url.reveal()


def _from_directory(service: Service, python: tuple[str, ...]) -> list[str]:
    program = python[0]
    # As a shell has it: with a slash it is a path, without one it is looked up in PATH.
    path = str(service.directory / program) if "/" in program else program
    return [path, *python[1:]]


def _environment(service: Service, url: DatabaseUrl, settings: Settings) -> dict[str, str]:
    environment = environment_of(service, settings, url)
    if url.is_local:
        # The developer's PGSSLMODE and the like are meant for servers elsewhere.
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
    """Say what helps if Alembic fails."""
    unknown = tuple(revision for revision in before if revision not in history.revisions)
    if unknown:
        return (
            f"Revision {named(unknown)} was made by another branch of the code: check that out, "
            "or in development start anew with `invoke db.reset`."
        )
    return "The service's own output names the cause; correct it and run the command again."


def cause_in(output: str) -> str:
    """Return the line that names the cause: a traceback's exception, else the last line.

    Of exceptions that caused each other it is the last one, with the first in brackets.
    """
    raised: list[str] = []
    for text in _LINK.split(output):
        if text.count(_TRACEBACK) > 1:
            # The last one has nothing to do with those before it.
            raised = []
        raised += filter(None, [_exception_in(text)])
    if not raised:
        lines = [line for line in output.splitlines() if line.strip()]
        return (lines[-1:] or ["it printed nothing"])[0].strip()
    shown, root = raised[-1], raised[0]
    return shown if root == shown else f"{shown} (caused by {root})"


def _exception_in(text: str) -> str:
    """Return the first line of a traceback's exception; empty if there is no traceback."""
    _, traceback, rest = text.rpartition(_TRACEBACK)
    # SQLAlchemy's exceptions go on for lines; the frames before them are indented.
    lines = (line.strip() for line in rest.splitlines() if line and not line.startswith(" "))
    return next(filter(None, lines), "") if traceback else ""
