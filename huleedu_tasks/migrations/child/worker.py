"""Runs Alembic's command line in a child process, with any interpreter that has Alembic.

It is started by its path, needs nothing of this package, and takes Alembic's own arguments.
`python -m alembic` would not do: in a service's directory it imports `alembic/` from there.

Where `HULEEDU_WORKER` says so, each connection gets settings of ours, and a file is told what
happens; `env.py` sees nothing of either.
"""

from __future__ import annotations  # a service's interpreter may be older than ours

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
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    # Not when it runs: Python 3.8 cannot.
    Step = Callable[..., None]
INSTRUCTIONS = "HULEEDU_WORKER"
OPTIONS = "HULEEDU_WORKER_OPTIONS"
HERE = os.path.dirname(os.path.abspath(__file__))
POSTGRESQL = "postgresql"
MAIN_URL = "sqlalchemy.url"
# Where an `env.py` as Alembic's template multidb has it finds the names of its databases.
DATABASES = "databases"
SCRIPT_LOCATION = "script_location"
# A statement that leaves nothing behind, and stands alone; a SELECT may call what does.
HARMLESS = re.compile(r"\s*(SHOW|SET)\b[^;]*;?\s*$", re.IGNORECASE)
READING = re.compile(
    r"\s*(SELECT|SHOW|SET|VALUES|TABLE|WITH|BEGIN|COMMIT|ROLLBACK)\b", re.IGNORECASE
)
COMMIT = re.compile(r"(^|;)\s*(COMMIT|END)\b", re.IGNORECASE)
# What only looks like statements: comments, bodies of functions, strings.
NO_STATEMENT = re.compile(
    r"/\*.*?\*/|--[^\n]*|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$|'(?:[^']|'')*'", re.DOTALL
)
# PostgreSQL, Appendix A: in_failed_sql_transaction. The error before it is the cause.
AFTERMATH = "25P02"
PLACE = "huleedu_tasks.place"
DEFAULT_PORT = 5432


def main() -> None:
    """Become `alembic`."""
    end_with_parent()
    sys.exit(exit_code_of_alembic())


def exit_code_of_alembic() -> int:
    """Run Alembic with this process's arguments and environment, and return how it ended."""
    instructions = json.loads(os.environ.pop(INSTRUCTIONS, "{}"))
    options = json.loads(os.environ.pop(OPTIONS, "{}"))
    engine = options.get("engine", "")
    told = instructions.pop("used", None)
    revisions = instructions.pop("revisions", None)
    asking = instructions.pop("asking", None)
    targets = beside("target")
    variables = targets.ReadVariables() if told or instructions or asking else None
    with outside_of_service():
        from alembic.config import main as alembic

        accept_percent_signs()
        apply_options(**options)
        if instructions:
            hand_over_url(instructions["url"], engine)
            if engine and instructions["start"] is not None:
                write_nothing_to(f"{engine}.sql")
        observer = Observer(variables=variables, **instructions) if instructions else None
        report = beside("script_directory").RevisionsReport(revisions) if revisions else None
        if asking:
            hand_over_url(asking["url"], engine)
            beside("env_py_url").Asking(asking["file"], asking["url"], targets, variables)
        used = Used(told, variables) if told else None
    try:
        alembic(prog="alembic")
        if report:
            report.tell()
    except (targets.MayNotRun, beside("pinned_inputs").ChangedInput) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except SystemExit as error:
        # Alembic's own, after it has said why.
        if observer and error.code:
            observer.failed(error.__context__ or error)
        if isinstance(error.code, int):
            return error.code & 0xFF
        if error.code is not None:
            # As Python itself does with what is no number.
            sys.stderr.write(f"{error.code}\n")
        return int(error.code is not None)
    except Exception as error:
        if observer:
            observer.failed(error)
        show(error)
        return 1
    finally:
        # What was read decides, too, where Alembic fails.
        if used:
            used.tell()
    return 0


def beside(name: str) -> Any:
    """Load a module that lies beside this one, under a name no service's own module has.

    Args:
        name: The name of its file, without its ending.
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
    """Notes what a database is made of, and which sessions there were for it.

    Args:
        file: Where that is written down.
        variables: What is read of the environment.
        counts_sessions: Whether SQLAlchemy, which is imported for it, tells of its sessions.
    """

    def __init__(self, file: str, variables: Any, *, counts_sessions: bool = True) -> None:
        tracking = beside("input_tracker")
        self._file = file
        self._variables = variables
        self._reads = tracking.Reads()
        self._sessions: dict[str, int] = {}
        sys.addaudithook(self._reads.hear)
        tracking.watch_questions(self._reads)
        tracking.watch_asyncpg(self._reads)
        tracking.drop_stale_bytecode()
        if counts_sessions:
            self._count_sessions()

    def tell(self) -> None:
        """Write it down, with where the libraries are installed."""
        import sysconfig

        paths = sysconfig.get_paths()
        told = {
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
        # Whoever reads it does without what cannot be written down.
        with suppress(OSError):
            partial = f"{self._file}.partial"
            with open(partial, "w", encoding="utf-8") as written:
                json.dump(told, written)
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
        # An engine with a function of its own to connect does not tell where to.
        place = record.info.get(PLACE, "")
        self._sessions[place] = self._sessions.get(place, 0) + 1

    def _executing(self, connection: object, cursor: object, statement: str, *_: object) -> None:
        self.executed(statement)

    def executed(self, statement: str) -> None:
        """Note a statement of SQL."""
        self._reads.executed(statement)


@contextmanager
def outside_of_service() -> Iterator[None]:
    """Import from neither this directory nor the service's own, which may have an `alembic/`."""
    paths = [path for path in sys.path if path and os.path.abspath(path) != HERE]
    # `PYTHONPATH=.` is the service's directory here; its own code may need it, Alembic must not.
    sys.path[:] = [path for path in paths if os.path.abspath(path) != os.getcwd()]
    try:
        yield
    finally:
        sys.path[:] = paths


def end_with_parent() -> int:
    """End at once when whoever started us does, even by SIGKILL; return what is watched for that.

    The parent holds the other end of our standard input and writes nothing. Migrations that went
    on alone would meet the next run's.
    """
    lifeline = os.dup(0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    watch(lifeline)
    return lifeline


def watch(lifeline: int) -> None:
    """End this process as soon as nobody holds the other end of a pipe any more.

    Nothing is read from it: a process that was forked shares it with whoever does.
    """

    def wait() -> None:
        poll = select.poll()
        poll.register(lifeline, 0)
        poll.poll()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def show(error: Exception) -> None:
    """Print a traceback of the service's own code, without a hundred lines of its libraries."""
    import sysconfig
    import traceback

    paths = sysconfig.get_paths()
    # An `env.py` is run, and `op` is made, from code that has no file.
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
            # A library that says the same in other words.
            if inner is not None and not own(inner) and str(inner) in str(link):
                setattr(link, name, None)
        link = link.__cause__ or link.__context__
    sys.stderr.write("".join(summary.format()))
    # The row that stands in the way, which SQLAlchemy leaves out.
    if detail := getattr(_database_error(error), "detail", None):
        sys.stderr.write(f"DETAIL:  {detail}\n")


class Observer:
    """Sets up each connection, and tells a file what happens, a JSON document per line.

    Args:
        events: The file.
        variables: What is read of the environment.
        settings: Settings of PostgreSQL for each session; the server must take them.
        wishes: Settings that a server may refuse.
        target: The server's start and the database's number, as the server tells them.
        url: The URL of the database.
        start: The revisions to render SQL from; None to run what is asked for.
        is_asking: Whether `env.py` is only asked what it configures: what it would write itself,
            such as a schema that may be missing, is passed over.
        lock: SQL expressions: whether the run holds its lock, and how many other sessions it has;
            None without a lock.
        inputs: The files of an approved plan: `root` and `digests`; None to compare none.
        go_on: A file; no further revision is begun once it is gone. None to run all.
    """

    def __init__(
        self,
        *,
        variables: Any,
        events: str,
        settings: dict[str, str],
        optional_settings: dict[str, str],
        target: Sequence[object],
        url: str,
        start: Sequence[str] | None,
        is_asking: bool = False,
        lock: dict[str, str] | None = None,
        inputs: dict[str, Any] | None = None,
        go_on: str | None = None,
    ) -> None:
        from alembic.runtime.environment import EnvironmentContext
        from sqlalchemy import event
        from sqlalchemy.engine import Engine

        # Open as long as the process lives; each line is written at once.
        self._file = open(events, "ab", buffering=0)  # noqa: SIM115
        self._is_heard = True
        self._settings = settings
        self._optional_settings = optional_settings
        targets = beside("target")
        self._target = targets.Target(
            target,
            self._tell,
            variables,
            settings,
            lock=lock["held"] if lock else "true",
            heard=self._opened,
        )
        self._inputs = beside("pinned_inputs").PinnedInputs(
            **(inputs or {"root": "", "digests": {}}), tell=self._tell
        )
        self._start = start
        self._go_on = go_on
        self._is_asking = is_asking
        # The revision whose own code runs at this moment.
        self._running: str | None = None
        self._unfinished_work = False
        self._kept_in_part = False
        self._is_configured = False
        self._engine_connections = 0
        self._fence = self._fence_of(lock, url) if lock else None
        self._observe_steps(EnvironmentContext)
        event.listen(Engine, "do_connect", self._note_dialect)
        event.listen(Engine, "connect", self._set_up)
        event.listen(Engine, "before_cursor_execute", self._executing)
        event.listen(Engine, "commit", self._committing)
        if is_asking:
            event.listen(Engine, "before_cursor_execute", pass_over_writes, retval=True)

    def failed(self, error: BaseException) -> None:
        """Tell how Alembic ended, and whether a part of a revision stays nevertheless."""
        cause = _database_error(error)
        words = str(cause or error).splitlines()[:1]
        self._tell(
            "failed",
            revision=self._running,
            message=words[0] if cause and words else ": ".join([type(error).__name__, *words]),
            sqlstate=_sqlstate(cause) if cause else None,
            statement=str(getattr(error, "statement", None) or ""),
        )

    def _fence_of(self, lock: dict[str, str], url: str) -> Any:
        return beside("fence").Fence(
            **lock,
            url=url,
            tell=self._tell,
            keep=self._keep,
            lose=self._target.lose_lock,
            committed=self._committed,
        )

    def _tell(self, event: str, **facts: object) -> None:
        """Tell something; a disk that is full does not end a migration in its middle.

        What follows is not told either: half of it could be taken for all.
        """
        line = (json.dumps({"event": event, **facts}) + "\n").encode()
        try:
            self._is_heard = self._is_heard and self._file.write(line) == len(line)
        except OSError:
            self._is_heard = False
        if event == "begun" and not self._is_heard:
            # A revision that runs goes on; no other one begins unobserved.
            raise OSError("what happens cannot be written down")

    def _observe_steps(self, environment: Any) -> None:
        """Have `context.configure` run the command's steps as ours."""
        configure = environment.configure

        def observed(context: Any, *args: Any, **options: Any) -> None:
            plain = context.context_opts["fn"]
            # An env.py of several databases configures several times.
            if not hasattr(plain, "is_observed"):
                context.context_opts["fn"] = self._observed_steps(plain)
            if self._start is not None:
                context.context_opts["starting_rev"] = tuple(self._start) or "base"
            connection = args[0] if args else options.get("connection")
            is_online = connection is not None and connection.dialect.name == POSTGRESQL
            if is_online:
                self._require_target(connection)
            configure(context, *args, **options)
            if is_online:
                self._tell_version_table(connection, context.get_context())

        environment.configure = observed

    def _require_target(self, connection: Any) -> None:
        """Let no revision run on another database than the one that was meant.

        Raises:
            WrongDatabase: If `env.py` has connected elsewhere.
        """
        # Alembic would take what we begin for the service's own transaction.
        self._target.require(
            connection.connection.dbapi_connection, ends=not connection.in_transaction()
        )

    def _tell_version_table(self, connection: Any, context: Any) -> None:
        """Tell which version table was configured, and where one without a schema is looked for."""
        driver = connection.connection.dbapi_connection
        cursor = driver.cursor()
        try:
            cursor.execute("SELECT array_to_json(current_schemas(false))::text, current_user::text")
            row = beside("target").values_of(cursor.fetchone())
        finally:
            cursor.close()
        if not connection.in_transaction():
            driver.rollback()
        self._is_configured = True
        if self._target.opened > self._engine_connections:
            # What was asked on a connection without SQLAlchemy is not heard.
            self._tell("queried")
        self._tell(
            "configured",
            table=context.version_table,
            schema=context.version_table_schema,
            search_path=json.loads(row[0]),
            role=row[1],
        )

    def _tell_session(self, connection: Any) -> None:
        """Tell as whom and where revisions would run: env.py has set up all it wants by now."""
        if connection.dialect.name != POSTGRESQL:
            return
        cursor = connection.connection.dbapi_connection.cursor()
        try:
            cursor.execute("SELECT array_to_json(current_schemas(false))::text, current_user::text")
            row = beside("target").values_of(cursor.fetchone())
        finally:
            cursor.close()
        self._tell("acting", search_path=json.loads(row[0]), role=row[1])

    def _observed_steps(self, plain: Callable[..., Any]) -> Callable[..., Iterator[Any]]:
        def steps(heads: Any, context: Any) -> Iterator[Any]:
            self._tell("before", revisions=sorted(_as_tuple(heads)))
            if self._is_asking and context.connection is not None:
                self._tell_session(context.connection)
            for step in plain(heads, context):
                if self._go_on and not os.path.exists(self._go_on):
                    # Alembic commits what was run, as at the end.
                    self._tell("stopped")
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
                self._fence.enter(context.connection, revision)
            self._tell("begun", revision=revision)
            started = time.monotonic()
            self._running, self._unfinished_work = revision, False
            try:
                plain(**options)
            finally:
                if self._fence:
                    self._fence.leave()
            self._running = None
            self._tell("run", revision=revision, seconds=round(time.monotonic() - started, 3))

        return run

    def _rendering(self, step: Any, context: Any) -> Step:
        plain, revision = step.migration_fn, step.revision.revision

        def render(**options: Any) -> None:
            usual, context.impl.output_buffer = context.impl.output_buffer, io.StringIO()
            try:
                plain(**options)
                self._tell("sql", revision=revision, sql=context.impl.output_buffer.getvalue())
            except Exception as error:
                # It reads what only a database knows; the next one may do without.
                reason = f"{type(error).__name__}: {error}"
                self._tell("unrendered", revision=revision, reason=reason.splitlines()[0])
            finally:
                context.impl.output_buffer = usual

        return render

    def _note_dialect(self, dialect: Any, record: Any, *arguments: object) -> None:
        record.info[POSTGRESQL] = dialect.name == POSTGRESQL

    def _set_up(self, connection: Any, record: Any) -> None:
        if not record.info.get(POSTGRESQL) and not self._target.is_postgresql(connection):
            return
        self._engine_connections += 1
        self._opened()
        for settings, needed in ((self._settings, True), (self._optional_settings, False)):
            if not settings:
                continue
            cursor = connection.cursor()
            try:
                for name, value in settings.items():
                    cursor.execute(f"SET {name} = '{value}'")
                # Else the settings go with the first rollback.
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
            # What follows may depend on what the database answers.
            self._tell("queried")
        if not self._running or HARMLESS.match(said):
            return
        driver = connection.connection.dbapi_connection
        if self._fence:
            self._fence.executing(driver)
        commits = getattr(driver, "autocommit", False) or COMMIT.search(said)
        if commits and (self._unfinished_work or not COMMIT.match(said)):
            self._keep()
        self._unfinished_work = True

    def _committing(self, connection: object) -> None:
        if self._running:
            if self._unfinished_work:
                self._keep()
        elif not self._fence:
            # With one, the end of a commit is told and not its beginning.
            self._committed()

    def _committed(self) -> None:
        """Tell that what was run is recorded in the version table as well."""
        if self._running:
            # It has failed, and env.py commits nevertheless.
            return
        self._kept_in_part = False
        self._tell("committed")

    def _opened(self) -> None:
        """Take note of a connection: what is written on one of a revision's own may stay."""
        if self._running:
            self._keep()

    def _keep(self, revision: str = "") -> None:
        """Tell, before it happens, that something may stay whatever comes of a revision."""
        if not self._kept_in_part:
            self._kept_in_part = True
            self._tell("kept", revision=revision or self._running)


def pass_over_writes(
    connection: object, cursor: object, statement: str, parameters: Any, *others: object
) -> tuple[str, Any]:
    """Return a statement that reads as it is, and one that does nothing for any other."""
    if READING.match(NO_STATEMENT.sub(" ", statement)):
        return statement, parameters
    return "SELECT 1 WHERE false", ()


def accept_percent_signs() -> None:
    """Have ConfigParser store a URL with a percent sign, which it takes for an interpolation.

    Every password with a special character has one, and the error would show the password.
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
    """Have every configuration that names a URL name this one instead, before env.py runs.

    One that is handed over by a variable alone would leave an `env.py` as Alembic writes it where
    it was.

    Args:
        engine: The section beside the main one that names it, too.
    """

    def replace_urls(config: Any) -> None:
        for section in filter(None, (config.config_ini_section, engine)):
            replace_url(config, section, url)

    before_env_py(replace_urls)


def apply_options(*, engine: str = "", flask_app: str = "") -> None:
    """Have Alembic run as the registry says beside Alembic's own arguments.

    Args:
        engine: The only one of several databases to run for; an empty string for no choice.
        flask_app: The application to run env.py in; an empty string for none.
    """
    if engine:
        select_engine(engine)
    if flask_app:
        run_in_application(flask_app)


def run_in_application(path: str) -> None:
    """Have env.py run in the context of a Flask application, as `flask db` runs it.

    Args:
        path: As `flask --app` takes it.
    """
    from alembic.script import ScriptDirectory

    directory: Any = ScriptDirectory
    plain_from_config = directory.from_config.__func__
    plain_run = directory.run_env

    def from_config(cls: Any, config: Any) -> Any:
        if not config.get_main_option(SCRIPT_LOCATION):
            directory = os.path.dirname(os.path.abspath(config.config_file_name))
            config.set_main_option(SCRIPT_LOCATION, directory.replace("%", "%%"))
        return plain_from_config(cls, config)

    def run_env(scripts: Any) -> None:
        import importlib

        # The service's own, which this package does not need.
        flask: Any = importlib.import_module("flask.cli")
        if flask.get_load_dotenv(True):
            # What is set stays.
            flask.load_dotenv()
        with flask.ScriptInfo(path).load_app().app_context():
            plain_run(scripts)

    directory.from_config = classmethod(from_config)
    directory.run_env = run_env


def select_engine(engine: str) -> None:
    """Have a configuration of several databases name only one of them, before env.py runs.

    Raises:
        LookupError: Then, if it does not name that one.
    """

    def select(config: Any) -> None:
        stated = config.get_main_option(DATABASES) or ""
        if engine not in re.split(r"[,\s]+", stated):
            raise LookupError(f"the option {DATABASES!r} names {stated or 'none'}, not {engine!r}")
        config.set_main_option(DATABASES, engine)

    before_env_py(select)


def before_env_py(change: Callable[[Any], None]) -> None:
    """Have Alembic's configuration changed before env.py is run with it."""
    from alembic.runtime.environment import EnvironmentContext

    environment: Any = EnvironmentContext
    initialise = environment.__init__

    def observed(context: Any, config: Any, *args: Any, **options: Any) -> None:
        initialise(context, config, *args, **options)
        change(config)

    environment.__init__ = observed


def write_nothing_to(name: str) -> None:
    """Have what is written to a file of a name go nowhere: env.py would leave its SQL there."""
    import builtins

    plain: Any = builtins.open

    def opened(file: Any, *args: Any, **options: Any) -> Any:
        return io.StringIO() if file == name else plain(file, *args, **options)

    builtins.open = opened


def replace_url(config: Any, section: str, url: str) -> None:
    """Have a section name a URL, with the driver it names itself, if it names one at all.

    Args:
        config: Alembic's.
    """
    stated = config.file_config.get(section, MAIN_URL, raw=True, fallback="")
    if not stated:
        return
    scheme, _, rest = url.partition("://")
    own = stated.partition("://")[0]
    driver = own if own.startswith(POSTGRESQL) else scheme
    config.set_section_option(section, MAIN_URL, f"{driver}://{rest}".replace("%", "%%"))


def _as_tuple(value: Any) -> tuple[str, ...]:
    """Return revisions as a tuple, in whatever form Alembic has them."""
    if not value:
        return ()
    return (value,) if isinstance(value, str) else tuple(map(str, value))


def _database_error(error: BaseException) -> BaseException | None:
    """Return the driver's own error behind an exception, in PostgreSQL's words."""
    found = None
    link: BaseException | None = error
    seen: set[int] = set()
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        found = link if _sqlstate(link) else found
        cause = getattr(link, "orig", None) or link.__cause__
        # What was caught on the way is no cause, unless all that followed failed for it.
        link = cause or (link.__context__ if _sqlstate(link) == AFTERMATH else None)
    return found


def _sqlstate(error: BaseException) -> str | None:
    code = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    return str(code) if code else None


if __name__ == "__main__":
    main()
