"""Runs Alembic's command line in a child process, with any interpreter that has Alembic.

It is started by its path, imports nothing of this package, and takes Alembic's arguments.
`python -m alembic` would import the directory `alembic/` of a service.

If `HULEEDU_WORKER` is set, each connection gets the settings in it, and events are written to a
file. `env.py` is not affected by either.
"""

from __future__ import annotations  # a service's interpreter may be older than ours

import atexit
import gc
import io
import json
import os
import re
import select
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    # Python 3.8 cannot evaluate it at run time.
    Step = Callable[..., None]
INSTRUCTIONS = "HULEEDU_WORKER"
OPTIONS = "HULEEDU_WORKER_OPTIONS"
HERE = os.path.dirname(os.path.abspath(__file__))
POSTGRESQL = "postgresql"
MAIN_URL = "sqlalchemy.url"
# The option with the names of databases, in Alembic's template multidb.
DATABASES = "databases"
# The attribute of Alembic's configuration with those names, while one of them is selected.
ALL_DATABASES = "huleedu_tasks.databases"
SCRIPT_LOCATION = "script_location"
# A single statement that writes nothing; a SELECT may call a function that writes.
HARMLESS = re.compile(r"\s*(SHOW|SET)\b[^;]*;?\s*$", re.IGNORECASE)
READING = re.compile(
    r"\s*(SELECT|SHOW|SET|VALUES|TABLE|WITH|BEGIN|COMMIT|ROLLBACK)\b", re.IGNORECASE
)
COMMIT = re.compile(r"(^|;)\s*(COMMIT|END)\b", re.IGNORECASE)
# Comments, bodies of functions and strings, which may contain words of statements.
NO_STATEMENT = re.compile(
    r"/\*.*?\*/|--[^\n]*|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$|'(?:[^']|'')*'", re.DOTALL
)
# PostgreSQL, Appendix A: in_failed_sql_transaction, which follows the error that is the cause.
AFTERMATH = "25P02"
PLACE = "huleedu_tasks.place"
DEFAULT_PORT = 5432


def main() -> None:
    """Run Alembic, and end with its exit code."""
    end_with_parent()
    end_process(exit_code_of_alembic())


def end_process(code: int) -> NoReturn:
    """End the process as Python does, but without destroying the imported modules.

    Threads are joined, exit handlers are run, and files are flushed. Destroying the modules of
    Alembic and SQLAlchemy takes a tenth of a second or more.
    """
    threading._shutdown()  # type: ignore[attr-defined]  # noqa: SLF001  # as Python itself
    # Python 3.9 and earlier raise the error of a handler again after printing it.
    with suppress(BaseException):
        atexit._run_exitfuncs()  # noqa: SLF001  # likewise
    # gc.freeze() excludes what was imported, and the files of a forked process's parent.
    for value in gc.get_objects():
        if issubclass(type(value), io.IOBase):
            with suppress(Exception):
                value.flush()
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    os._exit(code)


def exit_code_of_alembic() -> int:
    """Run Alembic with this process's arguments and environment, and return its exit code."""
    with outside_of_service():
        alembic = command_line()
        watchers = Watchers(
            json.loads(os.environ.pop(INSTRUCTIONS, "{}")),
            json.loads(os.environ.pop(OPTIONS, "{}")),
        )
    try:
        alembic.main()
        watchers.report_revisions()
    except (
        load_beside("target_check").MayNotRun,
        load_beside("pinned_inputs").ChangedInput,
    ) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except SystemExit as error:
        # Alembic has printed its error already.
        if error.code:
            watchers.report_failure(error.__context__ or error)
        return exit_code_of(error)
    except Exception as error:
        watchers.report_failure(error)
        show(error)
        return 1
    finally:
        # The inputs are reported even if Alembic fails.
        watchers.report_inputs()
    return 0


@lru_cache(maxsize=1)
def command_line() -> Any:
    """Return Alembic's command line, which has a parser for each of its commands."""
    from alembic.config import CommandLine

    return CommandLine(prog="alembic")


def exit_code_of(error: SystemExit) -> int:
    """Return the exit code of `sys.exit()`, and print a status that is not a number."""
    if isinstance(error.code, int):
        return error.code & 0xFF
    if error.code is not None:
        sys.stderr.write(f"{error.code}\n")
    return int(error.code is not None)


class Watchers:
    """What observes one run of Alembic, as its instructions demand.

    Args:
        instructions: The files that receive the reports, and the instructions for the observer.
        options: The service's options in the registry.
    """

    def __init__(self, instructions: dict[str, Any], options: dict[str, str]) -> None:
        engine = options.get("engine", "")
        used = instructions.pop("used", None)
        revisions = instructions.pop("revisions", None)
        asking = instructions.pop("asking", None)
        writing = instructions.pop("writing", None)
        comparing = instructions.pop("comparing", None)
        targets = load_beside("target_check")
        variables = targets.ReadVariables() if used or instructions or asking else None
        self._observer: Observer | None = None
        accept_percent_signs()
        apply_options(**options)
        if instructions:
            hand_over_url(instructions["url"], engine)
            if engine and instructions["start"] is not None:
                write_nothing_to(f"{engine}.sql")
            self._observer = Observer(variables, instructions)
        self._report: Any = None
        if revisions:
            self._report = load_beside("revisions_report").RevisionsReport(revisions)
        if writing:
            load_beside("new_revision_report").NewRevision(writing, before=offer_all_databases)
        if comparing:
            load_beside("model_report").ModelComparison(**comparing)
        if asking:
            hand_over_url(asking["url"], engine)
            load_beside("first_connection").FirstConnection(
                asking["file"],
                asking["url"],
                targets=targets,
                drivers=load_beside("drivers"),
                variables=variables,
            )
        self._used = Used(used, variables) if used else None

    def report_revisions(self) -> None:
        """Report the revisions, if they were asked for."""
        if self._report:
            self._report.write()

    def report_failure(self, error: BaseException) -> None:
        """Report the error with which Alembic ended."""
        if self._observer:
            self._observer.report_failure(error)

    def report_inputs(self) -> None:
        """Report the inputs."""
        if self._used:
            self._used.write()


def load_beside(name: str) -> Any:
    """Load a module of this directory under a unique name.

    Args:
        name: The name of its file without the suffix.
    """
    from importlib.util import module_from_spec, spec_from_file_location

    unique = f"_huleedu_{name}"
    if unique not in sys.modules:
        spec = spec_from_file_location(unique, os.path.join(HERE, f"{name}.py"))
        assert spec is not None
        assert spec.loader is not None
        sys.modules[unique] = module_from_spec(spec)
        spec.loader.exec_module(sys.modules[unique])
    return sys.modules[unique]


class Used:
    """Records the inputs of a build and its number of sessions.

    Args:
        file: The file that receives them.
        variables: The environment variables that were read.
        counts_sessions: Whether to count sessions of SQLAlchemy, which is imported for this.
    """

    def __init__(self, file: str, variables: Any, *, counts_sessions: bool = True) -> None:
        tracking = load_beside("input_tracker")
        self._file = file
        self._variables = variables
        self._reads = tracking.Reads()
        self._sessions: dict[str, int] = {}
        sys.addaudithook(self._reads.handle_event)
        tracking.watch_path_checks(self._reads)
        tracking.watch_searches(self._reads)
        tracking.watch_processes(self._reads)
        tracking.watch_asyncpg(self._reads)
        tracking.drop_stale_bytecode()
        if counts_sessions:
            self._count_sessions()

    def write(self) -> None:
        """Write the inputs to the file, with the directories of installed libraries."""
        import sysconfig

        paths = sysconfig.get_paths()
        report = {
            "files": [*self._reads.files, sys.executable],
            "directories": [*self._reads.directories, paths["purelib"], paths["platlib"]],
            "statuses": self._reads.statuses,
            "modules": self._reads.modules,
            "addresses": sorted(self._reads.addresses),
            "untracked": sorted(self._reads.untracked),
            "clocks": sorted(self._reads.clocks),
            "sessions": self._sessions,
            "variables": self._variables.all_names,
            "all_variables": self._variables.all_were_read,
        }
        # Without the file, the inputs count as unknown.
        with suppress(OSError):
            partial = f"{self._file}.partial"
            with open(partial, "w", encoding="utf-8") as written:
                json.dump(report, written)
            os.rename(partial, self._file)

    def _count_sessions(self) -> None:
        from sqlalchemy import event
        from sqlalchemy.engine import Engine

        event.listen(Engine, "do_connect", self._connecting)
        event.listen(Engine, "connect", self._connected)
        event.listen(Engine, "before_cursor_execute", self._executing)

    def _connecting(self, dialect: Any, record: Any, words: Any, named: dict[str, Any]) -> None:
        database = named.get("database") or named.get("dbname") or ""
        record.info[PLACE] = f"{named.get('port') or DEFAULT_PORT} {database}" if database else ""

    def _connected(self, connection: Any, record: Any) -> None:
        # The address is not known if an engine has a `creator` function.
        place = record.info.get(PLACE, "")
        self._sessions[place] = self._sessions.get(place, 0) + 1

    def _executing(self, connection: object, cursor: object, statement: str, *_: object) -> None:
        self.record_statement(statement)

    def record_statement(self, statement: str) -> None:
        """Record an SQL statement."""
        self._reads.record_statement(statement)


@contextmanager
def outside_of_service() -> Iterator[None]:
    """Import from neither this directory nor the service's, which may contain `alembic/`.

    What is imported stays until the process ends, so the garbage collector never visits it.
    """
    paths = [path for path in sys.path if path and os.path.abspath(path) != HERE]
    # `PYTHONPATH=.` is the service's directory. Its code needs it; Alembic must not see it.
    sys.path[:] = [path for path in paths if os.path.abspath(path) != os.getcwd()]
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
        sys.path[:] = paths


def end_with_parent() -> int:
    """End this process when its parent ends, even by SIGKILL.

    The parent keeps the other end of standard input open and writes nothing. Migrations without
    a parent would run beside those of the next run.

    Returns:
        The file descriptor that is watched.
    """
    lifeline = os.dup(0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    watch(lifeline)
    return lifeline


def watch(lifeline: int) -> None:
    """End this process as soon as the other end of a pipe is closed.

    The pipe is only polled, because forked processes share it.

    Args:
        lifeline: The file descriptor of the pipe.
    """

    def wait() -> None:
        poll = select.poll()
        poll.register(lifeline, 0)
        poll.poll()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def show(error: Exception) -> None:
    """Print a traceback with the frames of the service's code, without those of libraries."""
    import sysconfig
    import traceback

    paths = sysconfig.get_paths()
    # Code without a file calls `env.py` and the functions of `op`.
    foreign = ("<", HERE, paths["stdlib"], paths["purelib"], paths["platlib"])

    def own(summary: traceback.TracebackException) -> traceback.StackSummary:
        frames = [frame for frame in summary.stack if not frame.filename.startswith(foreign)]
        return traceback.StackSummary.from_list(frames)

    summary = traceback.TracebackException.from_exception(error)
    link: traceback.TracebackException | None = summary if own(summary) else None
    while link:
        link.stack = own(link)
        for name in ("__cause__", "__context__"):
            inner = getattr(link, name)
            # An exception of a library with the same message.
            if inner is not None and not own(inner) and str(inner) in str(link):
                setattr(link, name, None)
        link = link.__cause__ or link.__context__
    sys.stderr.write("".join(summary.format()))
    # The conflicting row, which SQLAlchemy does not print.
    if detail := getattr(_database_error(error), "detail", None):
        sys.stderr.write(f"DETAIL:  {detail}\n")


class Observer:
    """Sets up each connection, and writes events to a file, one JSON document per line.

    Args:
        variables: The environment variables that were read.
        instructions: The values that follow, by name.

    Instructions:
        events: The file.
        settings: Settings of PostgreSQL for each session; a refused one is an error.
        optional_settings: Settings that a server may refuse.
        target: The start time of the server and the OID of the database.
        url: The URL of the database.
        start: The revisions from which SQL is rendered; None to run the revisions.
        is_asking: Whether `env.py` is only asked for its configuration. Its own writes, such as
            CREATE SCHEMA, are skipped.
        lock: SQL expressions: `held`, whether the run holds its lock, and `others`, how many other
            sessions it has; None without a lock.
        inputs: The files of an approved plan: `root` and `digests`; None to compare none.
        go_on: A file. No further revision is begun after it was deleted. None to run all.
        walking: The steps to run instead of those of the command, see `walk.py`; None to run those.
            With `is_observing`, the effects of each statement are reported, see
            `statement_observer.py`.
    """

    def __init__(self, variables: Any, instructions: dict[str, Any]) -> None:
        from alembic.runtime.environment import EnvironmentContext
        from sqlalchemy import event
        from sqlalchemy.engine import Engine

        # Open as long as the process lives; each line is written at once.
        self._file = open(instructions["events"], "ab", buffering=0)  # noqa: SIM115
        self._events_are_complete = True
        self._settings: dict[str, str] = instructions["settings"]
        self._optional_settings: dict[str, str] = instructions["optional_settings"]
        lock: dict[str, str] | None = instructions["lock"]
        targets = load_beside("target_check")
        self._target = targets.Target(
            instructions["target"],
            self._write_event,
            variables,
            self._settings,
            lock=lock["held"] if lock else "true",
            on_connection=self._handle_connection,
        )
        self._inputs = load_beside("pinned_inputs").PinnedInputs(
            **(instructions["inputs"] or {"root": "", "digests": {}}), write_event=self._write_event
        )
        self._start: Sequence[str] | None = instructions["start"]
        self._go_on: str | None = instructions["go_on"]
        self._is_asking: bool = instructions["is_asking"]
        walking = instructions["walking"]
        is_observing = bool(walking) and walking.pop("is_observing")
        self._walk = (
            load_beside("walk").Walk(**walking, tell=self._write_event) if walking else None
        )
        self._statements = (
            load_beside("statement_observer").StatementObserver(self._write_event, commits)
            if is_observing
            else None
        )
        # The revision that is running; None between revisions.
        self._running: str | None = None
        self._unfinished_work = False
        self._is_partial = False
        self._is_configured = False
        self._engine_connections = 0
        self._fence = self._fence_of(lock, instructions["url"]) if lock else None
        self._observe_steps(EnvironmentContext)
        event.listen(Engine, "do_connect", self._note_dialect)
        event.listen(Engine, "connect", self._set_up)
        event.listen(Engine, "before_cursor_execute", self._executing)
        event.listen(Engine, "commit", self._committing)
        if self._is_asking:
            event.listen(Engine, "before_cursor_execute", skip_writes, retval=True)

    def report_failure(self, error: BaseException) -> None:
        """Report the error with which Alembic ended."""
        cause = _database_error(error)
        words = str(cause or error).splitlines()[:1]
        self._write_event(
            "failed",
            revision=self._running,
            message=words[0] if cause and words else ": ".join([type(error).__name__, *words]),
            sqlstate=_sqlstate(cause) if cause else None,
            statement=str(getattr(error, "statement", None) or ""),
        )

    def _fence_of(self, lock: dict[str, str], url: str) -> Any:
        return load_beside("fence").Fence(
            **lock,
            url=url,
            write_event=self._write_event,
            on_partial=self._report_partial,
            on_lock_lost=self._target.raise_lock_lost,
            on_commit=self._report_commit,
        )

    def _write_event(self, event: str, **facts: object) -> None:
        """Write an event. A full disk does not end a running revision.

        After a failed write no further events are written, because incomplete events would be
        misleading.

        Raises:
            OSError: If the beginning of a revision could not be written.
        """
        line = (json.dumps({"event": event, **facts}) + "\n").encode()
        try:
            if self._events_are_complete:
                self._events_are_complete = self._file.write(line) == len(line)
        except OSError:
            self._events_are_complete = False
        if event == "begun" and not self._events_are_complete:
            # No revision begins without its event.
            raise OSError("the events of the run could not be written")

    def _observe_steps(self, environment: Any) -> None:
        """Patch `context.configure` to observe each step."""
        configure = environment.configure

        def observed(context: Any, *args: Any, **options: Any) -> None:
            plain = context.context_opts["fn"]
            # An env.py with several databases calls `configure` several times.
            if not hasattr(plain, "is_observed"):
                context.context_opts["fn"] = self._observed_steps(plain)
            if self._start is not None:
                context.context_opts["starting_rev"] = tuple(self._start) or "base"
            if self._walk:
                self._walk.configure(options)
            connection = args[0] if args else options.get("connection")
            is_online = connection is not None and connection.dialect.name == POSTGRESQL
            if is_online:
                self._require_target(connection)
            configure(context, *args, **options)
            if is_online:
                self._tell_version_table(connection, context.get_context())

        environment.configure = observed

    def _require_target(self, connection: Any) -> None:
        """Require that `env.py` connected to the verified database.

        Raises:
            WrongDatabase: If `env.py` connected to a different one.
        """
        # Alembic would use a transaction that this query begins.
        self._target.require(
            connection.connection.dbapi_connection, ends=not connection.in_transaction()
        )

    def _tell_version_table(self, connection: Any, context: Any) -> None:
        """Report the configured version table, the search path and the role."""
        driver = connection.connection.dbapi_connection
        cursor = driver.cursor()
        try:
            cursor.execute("SELECT array_to_json(current_schemas(false))::text, current_user::text")
            row = load_beside("target_check").values_of(cursor.fetchone())
        finally:
            cursor.close()
        if not connection.in_transaction():
            driver.rollback()
        self._is_configured = True
        if self._target.opened > self._engine_connections:
            # Queries on a connection without SQLAlchemy are not observed.
            self._write_event("queried")
        self._write_event(
            "configured",
            table=context.version_table,
            schema=context.version_table_schema,
            search_path=json.loads(row[0]),
            role=row[1],
        )

    def _tell_session(self, connection: Any) -> None:
        """Report the role and the search path with which revisions would run."""
        if connection.dialect.name != POSTGRESQL:
            return
        cursor = connection.connection.dbapi_connection.cursor()
        try:
            cursor.execute("SELECT array_to_json(current_schemas(false))::text, current_user::text")
            row = load_beside("target_check").values_of(cursor.fetchone())
        finally:
            cursor.close()
        self._write_event("acting", search_path=json.loads(row[0]), role=row[1])

    def _observed_steps(self, plain: Callable[..., Any]) -> Callable[..., Iterator[Any]]:
        def steps(heads: Any, context: Any) -> Iterator[Any]:
            self._write_event("before", revisions=sorted(_as_tuple(heads)))
            if self._is_asking and context.connection is not None:
                self._tell_session(context.connection)
            for step in self._walk.steps(context) if self._walk else plain(heads, context):
                if self._go_on and not os.path.exists(self._go_on):
                    # Alembic commits the revisions that ran.
                    self._write_event("stopped")
                    return
                run = self._rendering if context.as_sql else self._running_step
                step.migration_fn = run(step, context)
                yield step

        steps.is_observed = True  # type: ignore[attr-defined]  # for the next `configure`
        return steps

    def _running_step(self, step: Any, context: Any) -> Step:
        plain, revision = step.migration_fn, step.revision.revision

        def run(**options: Any) -> None:
            self._target.require_hit()
            self._inputs.require_unchanged()
            if self._fence:
                self._fence.begin_revision(context.connection, revision)
            direction = "downgrade" if step.is_downgrade else "upgrade"
            self._write_event("begun", revision=revision, direction=direction)
            if self._statements:
                file = step.revision.module.__file__
                self._statements.begin_revision(context.connection, revision, file)
            started = time.monotonic()
            self._running, self._unfinished_work = revision, False
            try:
                plain(**options)
            finally:
                self._end_revision()
            self._running = None
            seconds = round(time.monotonic() - started, 3)
            self._write_event("run", revision=revision, seconds=seconds)

        return run

    def _end_revision(self) -> None:
        if self._fence:
            self._fence.end_revision()
        if self._statements:
            self._statements.end_revision()

    def _rendering(self, step: Any, context: Any) -> Step:
        plain, revision = step.migration_fn, step.revision.revision

        def render(**options: Any) -> None:
            usual, context.impl.output_buffer = context.impl.output_buffer, io.StringIO()
            try:
                plain(**options)
                sql = context.impl.output_buffer.getvalue()
                self._write_event("sql", revision=revision, sql=sql)
            except Exception as error:
                # A revision that queries the database has no offline SQL; the next one may have.
                reason = f"{type(error).__name__}: {error}"
                self._write_event("unrendered", revision=revision, reason=reason.splitlines()[0])
            finally:
                context.impl.output_buffer = usual

        return render

    def _note_dialect(self, dialect: Any, record: Any, *arguments: object) -> None:
        record.info[POSTGRESQL] = dialect.name == POSTGRESQL

    def _set_up(self, connection: Any, record: Any) -> None:
        if not record.info.get(POSTGRESQL) and not self._target.is_postgresql(connection):
            return
        self._engine_connections += 1
        self._handle_connection()
        for settings, needed in ((self._settings, True), (self._optional_settings, False)):
            if not settings:
                continue
            cursor = connection.cursor()
            try:
                for name, value in settings.items():
                    cursor.execute(f"SET {name} = '{value}'")
                # The first rollback would otherwise reset the settings.
                connection.commit()
            except Exception:
                connection.rollback()
                if needed:
                    raise
            finally:
                cursor.close()
        self._target.require(connection)

    def _executing(self, connection: Any, cursor: object, statement: str, *others: object) -> None:
        said = NO_STATEMENT.sub(" ", statement)
        if not self._is_configured and not HARMLESS.match(said):
            # The configuration may depend on the result.
            self._write_event("queried")
        if not self._running or HARMLESS.match(said):
            return
        driver = connection.connection.dbapi_connection
        if self._fence:
            self._fence.executing(driver)
        ends = getattr(driver, "autocommit", False) or COMMIT.search(said)
        if ends and (self._unfinished_work or not COMMIT.match(said)):
            self._report_partial()
        self._unfinished_work = True

    def _committing(self, connection: object) -> None:
        if self._running:
            if self._unfinished_work:
                self._report_partial()
        elif not self._fence:
            # With a fence, the end of the commit is reported instead.
            self._report_commit()

    def _report_commit(self) -> None:
        """Report that the revisions that ran are recorded in the version table."""
        if self._running:
            # The revision failed, and env.py commits nevertheless.
            return
        self._is_partial = False
        self._write_event("committed")

    def _handle_connection(self) -> None:
        """Handle a new connection: writes on a revision's own connection may not be rolled back."""
        if self._running:
            self._report_partial()

    def _report_partial(self, revision: str = "") -> None:
        """Report that a revision may be partially applied if it fails."""
        if not self._is_partial:
            self._is_partial = True
            self._write_event("kept", revision=revision or self._running)


def commits(statement: str) -> bool:
    """Whether a statement, or one of several, ends a transaction."""
    return bool(COMMIT.search(NO_STATEMENT.sub(" ", statement)))


def skip_writes(
    connection: object, cursor: object, statement: str, parameters: Any, *others: object
) -> tuple[str, Any]:
    """Return a reading statement unchanged, and replace any other with one without effect."""
    if READING.match(NO_STATEMENT.sub(" ", statement)):
        return statement, parameters
    return "SELECT 1 WHERE false", ()


def accept_percent_signs() -> None:
    """Patch ConfigParser to escape percent signs in URLs, which it takes for interpolations.

    A percent-encoded password contains percent signs, and the error would show the password.
    """
    import configparser

    interpolation: Any = configparser.BasicInterpolation
    plain = interpolation.before_set

    def before_set(parser: Any, *where: Any) -> Any:
        try:
            return plain(parser, *where)
        except ValueError:
            value = where[-1]
            if "://" not in value:
                raise
            return value.replace("%", "%%")

    interpolation.before_set = before_set


def hand_over_url(url: str, engine: str = "") -> None:
    """Replace sqlalchemy.url in Alembic's configuration before env.py runs.

    The generated `env.py` of Alembic reads the URL from there, not from a variable.

    Args:
        url: The URL of the database.
        engine: A second section with the URL; an empty string for none.
    """

    def replace_urls(config: Any) -> None:
        for section in filter(None, (config.config_ini_section, engine)):
            replace_url(config, section, url)

    before_env_py(replace_urls)


def apply_options(*, engine: str = "", flask_app: str = "") -> None:
    """Apply the service's options in the registry.

    Args:
        engine: The only one of several databases to migrate; an empty string for all.
        flask_app: The application to run env.py in; an empty string for none.
    """
    if engine:
        select_engine(engine)
    if flask_app:
        run_in_application(flask_app)


def run_in_application(path: str) -> None:
    """Run env.py, and the template of a revision, in a Flask application, as `flask db` does.

    Args:
        path: The application, as `flask --app` accepts it.
    """
    from alembic.script import ScriptDirectory

    directory: Any = ScriptDirectory
    plain_from_config = directory.from_config.__func__
    plain_run, plain_generate = directory.run_env, directory.generate_revision
    loaded: list[Any] = []

    def from_config(cls: Any, config: Any) -> Any:
        if not config.get_main_option(SCRIPT_LOCATION):
            directory = os.path.dirname(os.path.abspath(config.config_file_name))
            config.set_main_option(SCRIPT_LOCATION, directory.replace("%", "%%"))
        return plain_from_config(cls, config)

    def application() -> Any:
        import importlib

        if loaded:
            return loaded[0]
        # Flask is installed in the service's interpreter only.
        flask: Any = importlib.import_module("flask.cli")
        if flask.get_load_dotenv(True):
            # Variables that are set are not overridden.
            flask.load_dotenv()
        loaded.append(flask.ScriptInfo(path).load_app())
        return loaded[0]

    def run_env(scripts: Any) -> None:
        with application().app_context():
            plain_run(scripts)

    def generate_revision(scripts: Any, *args: Any, **options: Any) -> Any:
        with application().app_context():
            return plain_generate(scripts, *args, **options)

    directory.from_config = classmethod(from_config)
    directory.run_env = run_env
    directory.generate_revision = generate_revision


def select_engine(engine: str) -> None:
    """Restrict a configuration of several databases to one of them, before env.py runs.

    Raises:
        LookupError: If the configuration does not name it, when env.py is run.
    """

    def select(config: Any) -> None:
        stated = config.get_main_option(DATABASES) or ""
        if engine not in re.split(r"[,\s]+", stated):
            raise LookupError(
                f"the option {DATABASES!r} has {stated or 'no names'}, not {engine!r}"
            )
        # The template of a new revision has functions for all of them.
        config.attributes[ALL_DATABASES] = stated
        config.set_main_option(DATABASES, engine)

    before_env_py(select)


def offer_all_databases(config: Any) -> None:
    """Undo `select_engine`, for a revision file that all databases of a configuration share."""
    if stated := config.attributes.get(ALL_DATABASES):
        config.set_main_option(DATABASES, stated)


def before_env_py(change: Callable[[Any], None]) -> None:
    """Call a function with Alembic's configuration before env.py runs."""
    from alembic.runtime.environment import EnvironmentContext

    environment: Any = EnvironmentContext
    initialise = environment.__init__

    def observed(context: Any, config: Any, *args: Any, **options: Any) -> None:
        initialise(context, config, *args, **options)
        change(config)

    environment.__init__ = observed


def write_nothing_to(name: str) -> None:
    """Discard writes to a file: the env.py of the template multidb writes SQL to it."""
    import builtins

    plain: Any = builtins.open

    def opened(file: Any, *args: Any, **options: Any) -> Any:
        return io.StringIO() if file == name else plain(file, *args, **options)

    builtins.open = opened


def replace_url(config: Any, section: str, url: str) -> None:
    """Replace sqlalchemy.url of a section, if it has one, and keep its driver.

    Args:
        config: Alembic's configuration.
        section: The name of the section.
        url: The new URL.
    """
    stated = config.file_config.get(section, MAIN_URL, raw=True, fallback="")
    if not stated:
        return
    scheme, _, rest = url.partition("://")
    own = stated.partition("://")[0]
    driver = own if own.startswith(POSTGRESQL) else scheme
    config.set_section_option(section, MAIN_URL, f"{driver}://{rest}".replace("%", "%%"))


def _as_tuple(value: Any) -> tuple[str, ...]:
    """Return revisions as a tuple; Alembic passes a string, a sequence or None."""
    if not value:
        return ()
    return (value,) if isinstance(value, str) else tuple(map(str, value))


def _database_error(error: BaseException) -> BaseException | None:
    """Return the driver's error that caused an exception; None if there is none."""
    found = None
    link: BaseException | None = error
    seen: set[int] = set()
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        found = link if _sqlstate(link) else found
        cause = getattr(link, "orig", None) or link.__cause__
        # A handled exception is not a cause, unless it aborted the transaction.
        link = cause or (link.__context__ if _sqlstate(link) == AFTERMATH else None)
    return found


def _sqlstate(error: BaseException) -> str | None:
    code = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    return str(code) if code else None


if __name__ == "__main__":
    main()
