"""Records the inputs of a process: files, directories, links, modules, variables, the clock.

Loaded by its path in the process that runs Alembic, like `worker.py` beside it: the interpreter may
be the service's own, and older than ours.
"""

from __future__ import annotations

import _posixsubprocess
import dis
import os
import pathlib
import re
import sys
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache, wraps
from importlib.machinery import PathFinder
from importlib.util import source_from_cache
from types import CodeType
from typing import Any

INSTALLED = ("site-packages", "dist-packages")
# Virtual file systems.
NO_FILES = ("/proc/", "/sys/")
IMPORTING = "<frozen importlib"
# Modules that an interpreter imports when it starts, if they exist.
READ_AT_START = ("sitecustomize", "usercustomize")
# Standard modules that start programs to inspect the machine (`ldconfig`, `uname`).
OF_THE_MACHINE = (os.path.join("ctypes", "util.py"), "platform.py")
# Comments, bodies of functions, and strings other than those with a special time.
NO_STATEMENT = re.compile(
    r"/\*.*?\*/|--[^\n]*|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$"
    r"|'(?!(?:now|today|tomorrow|yesterday)')(?:[^']|'')*'",
    re.DOTALL,
)
WRITES_DATA = re.compile(
    r"\s*(INSERT|UPDATE|DELETE|MERGE|COPY|WITH|SELECT|REFRESH|EXECUTE|CALL"
    r"|CREATE\b[^;(]*\b(TABLE|VIEW)\b[^;(]*\bAS)\b",
    re.IGNORECASE,
)
CLOCK = re.compile(
    r"\b(now|clock_timestamp|statement_timestamp|transaction_timestamp|timeofday|random"
    r"|random_normal|gen_random_uuid|gen_random_bytes|uuid_generate_v[14]\w*|uuidv[47])\s*\("
    r"|\b(current_date|current_time|current_timestamp|localtime|localtimestamp)\b"
    r"|'(now|today|tomorrow|yesterday)'",
    re.IGNORECASE,
)
SHOWN_STATEMENT = 60
RANDOM = "the clock or random values"
# Names that identify the module of a revision or a seed.
SCRIPTS = frozenset({"down_revision", "seed"})
# Functions of the clock, by the name of their owners.
CLOCKS_OF = {
    "now": {"date", "datetime", "dt", "timezone"},
    "today": {"date", "datetime", "dt"},
    "utcnow": {"datetime", "dt"},
}
CLOCKS = frozenset({"ctime", "gmtime", "localtime", "strftime", "time", "time_ns"})
RANDOM_CALLS = frozenset(
    {"token_bytes", "token_hex", "token_urlsafe", "urandom", "uuid1", "uuid4", "SystemRandom"}
)


class Reads:
    """Records inputs from Python's audit events (Python, Audit events table).

    Attributes:
        addresses: Connections: a port and a host, or a path.
        untracked: Inputs that cannot be tracked, each as a clause.
        clocks: Uses of the clock or of random values, each as a clause.
    """

    EVENTS = frozenset(
        {
            "_posixsubprocess.fork_exec",
            "exec",
            "open",
            "os.chdir",
            "os.fork",
            "os.forkpty",
            "os.listdir",
            "os.mkdir",
            "os.posix_spawn",
            "os.scandir",
            "os.system",
            "socket.connect",
            "sqlite3.connect",
            "subprocess.Popen",
        }
    )

    def __init__(self) -> None:
        self.addresses: set[str] = set()
        self.untracked: set[str] = set()
        self.clocks: set[str] = set()
        self._files: set[str] = set()
        self._created: set[str] = set()
        self._directories: set[str] = set()
        self._checked: set[str] = set()
        # The names of modules, by the directories they were searched in and the working directory.
        self._searches: dict[tuple[tuple[str, ...], str], set[str]] = {}
        # The handler of an event takes its arguments; other events need the calling frame.
        self._handlers: dict[str, Callable[..., None]] = {
            "exec": self._handle_script,
            "open": self._handle_open,
            "os.chdir": lambda path: self.record_check(path),
            "os.mkdir": lambda path, *_: self._add(path, self._created),
            "socket.connect": lambda _, address: self.addresses.add(address_of(address)),
            "sqlite3.connect": lambda database: self._handle_sqlite(os.fsdecode(database)),
        }

    def handle_event(self, event: str, arguments: Sequence[Any], *, depth: int = 1) -> None:
        """Handle an audit event.

        Args:
            event: The name of the event.
            arguments: The arguments of the event.
            depth: The number of frames between this one and the caller.
        """
        if event not in self.EVENTS:
            return
        # An exception here would be raised in the service's code.
        with suppress(Exception):
            if event in self._handlers:
                self._handlers[event](*arguments)
            elif event in ("os.listdir", "os.scandir"):
                # Listings by the import system do not count.
                caller = sys._getframe(depth).f_code.co_filename  # noqa: SLF001  # no other API
                if not caller.startswith(IMPORTING):
                    self._add("." if arguments[0] is None else arguments[0], self._directories)
            else:
                self._handle_program(event, *arguments)

    def record_check(self, path: object, directory: int | None = None) -> None:
        """Record that a path was checked, for example with `os.stat` or `os.readlink`.

        Args:
            path: The path.
            directory: The descriptor to which a relative path is relative; None for the working
                directory.
        """
        with suppress(Exception):
            self._add(path, self._checked, directory)

    def record_open(self, path: object, flags: int, directory: int | None) -> None:
        """Record that a file was opened relative to a directory descriptor."""
        # Without a descriptor, the audit event has the path.
        if directory is not None:
            with suppress(Exception):
                self._handle_open(path, None, flags, directory)

    def record_search(self, name: str, path: Sequence[str] | None = None) -> None:
        """Record that a module was searched for.

        Args:
            name: The dotted name of the module.
            path: The directories in which it was searched; None for `sys.path`.
        """
        with suppress(Exception):
            place = tuple(sys.path if path is None else path), os.getcwd()
            self._searches.setdefault(place, set()).add(name.rpartition(".")[2])

    def record_statement(self, statement: str) -> None:
        """Record an SQL statement, and whether it writes the time or random values."""
        for part in NO_STATEMENT.sub(" ", statement).split(";"):
            if WRITES_DATA.match(part) and CLOCK.search(part):
                shown = " ".join(part.split())[:SHOWN_STATEMENT]
                self.clocks.add(f"a statement reads {RANDOM} ({shown})")
        if statement.lstrip()[:2].upper() == "DO" and CLOCK.search(statement):
            self.clocks.add(f"a DO block reads {RANDOM}")

    def _handle_script(self, code: CodeType) -> None:
        is_script = code.co_name == "<module>" and not SCRIPTS.isdisjoint(code.co_names)
        if is_script and any(map(reads_clock, _codes(code))):
            self.clocks.add(f"{os.path.basename(code.co_filename)} reads {RANDOM}")

    def _handle_open(
        self, path: object, mode: object, flags: int, directory: int | None = None
    ) -> None:
        if not flags & os.O_CREAT:
            if not flags & os.O_WRONLY:
                self._add(path, self._files, directory)
        elif flags & (os.O_TRUNC | os.O_EXCL):
            # A file that the process creates itself is not an input.
            self._add(path, self._created, directory)
        elif flags & os.O_RDWR:
            self._add(path, self._files, directory)

    def _handle_sqlite(self, database: str) -> None:
        from urllib.parse import unquote, urlsplit

        path = unquote(urlsplit(database).path) if database.startswith("file:") else database
        if path not in ("", ":memory:"):
            # Recent transactions may only be in the log files.
            for name in (path, f"{path}-wal", f"{path}-journal"):
                self._add(name, self._files)

    def _handle_program(self, event: str, program: Any = "", *others: Any) -> None:
        if event == "subprocess.Popen" and not others:
            return
        name = os.path.basename(os.fsdecode(program).split(" ")[0])
        frame = sys._getframe(2)  # noqa: SLF001  # no other API
        while frame.f_back:
            file = frame.f_code.co_filename
            if file.endswith(OF_THE_MACHINE) and not may_change(file):
                return
            frame = frame.f_back
        self.untracked.add(f"it started {name or 'a process'}, which may read anything")

    @property
    def files(self) -> list[str]:
        """The files that were read, and those of all loaded modules.

        Files of installed libraries, hundreds in each process, are represented by the directory
        that the libraries are installed in.
        """
        modules = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
        # A copy, because another thread may add to the set.
        read = map(source_of, self._files.copy())
        names = {*read, *(name for name in modules if isinstance(name, str))}
        paths = {os.path.abspath(installed_in(name) or name) for name in names}
        return [path for path in sorted(paths) if may_change(path)]

    @property
    def directories(self) -> list[str]:
        """The directories that were listed."""
        return [
            directory for directory in sorted(self._directories.copy()) if may_change(directory)
        ]

    @property
    def statuses(self) -> list[str]:
        """The paths that were only checked. A module was read, also if its bytecode was."""
        read = {*map(source_of, self._files.copy()), *self._directories}
        return [path for path in sorted(self._checked.copy() - read) if may_change(path)]

    @property
    def modules(self) -> dict[str, list[str]]:
        """The names of modules that were searched for, by directory.

        A new module of that name may be found instead of another one, or instead of none.
        """
        for name in READ_AT_START:
            self.record_search(name)
        found: dict[str, set[str]] = {}
        for (path, working_directory), names in self._searches.copy().items():
            for directory in path:
                place = os.path.abspath(os.path.join(working_directory, directory))
                found.setdefault(place, set()).update(names.copy())
        own = (path for path in found if may_change(f"{path}{os.sep}") and not is_installed(path))
        return {directory: sorted(found[directory]) for directory in sorted(own)}

    def _add(self, path: Any, paths: set[str], directory: int | None = None) -> None:
        if isinstance(path, int):
            # An open file was recorded when it was opened.
            if paths is self._directories:
                self._add(self._path_of(path), paths)
            return
        if not isinstance(path, (str, bytes, os.PathLike)):
            return
        found = os.fsdecode(path)
        if directory is not None and not os.path.isabs(found):
            found = os.path.join(self._path_of(directory), found)
        found = os.path.abspath(found)
        if found not in self._created and not self._created.intersection(_parents(found)):
            paths.add(found)

    def _path_of(self, descriptor: int) -> str:
        try:
            return PLAIN_READLINK(f"/proc/self/fd/{descriptor}")
        except OSError:
            self.untracked.add("it used a directory by its descriptor, whose path is not known")
            raise


PLAIN_READLINK = os.readlink
PLAIN_STAT = os.stat


def watch_path_checks(reads: Reads) -> None:
    """Patch the functions that check paths, because they have no audit events."""
    for name in ("stat", "lstat", "access", "readlink"):
        _replace(name, lambda path, *_, dir_fd=None, **__: reads.record_check(path, dir_fd))
    _replace(
        "open", lambda path, flags, *_, dir_fd=None, **__: reads.record_open(path, flags, dir_fd)
    )


def watch_searches(reads: Reads) -> None:
    """Patch the finder of modules in directories, which `import` and `find_spec` use."""
    finder: Any = PathFinder
    plain = finder.find_spec

    def find_spec(cls: Any, name: str, path: Any = None, target: Any = None) -> Any:
        reads.record_search(name, path)
        return plain(name, path, target)

    finder.find_spec = classmethod(find_spec)


def watch_processes(reads: Reads) -> None:
    """Patch the function by which `multiprocessing` starts processes: it has no audit event."""
    starting: Any = _posixsubprocess
    plain = starting.fork_exec

    def fork_exec(arguments: Sequence[Any], *others: Any) -> Any:
        reads.handle_event("_posixsubprocess.fork_exec", arguments[:1])
        return plain(arguments, *others)

    starting.fork_exec = fork_exec


def _replace(name: str, note: Callable[..., None]) -> None:
    plain = getattr(os, name)

    @wraps(plain)
    def ask(*arguments: Any, **named: Any) -> Any:
        with suppress(TypeError):
            note(*arguments, **named)
        return plain(*arguments, **named)

    setattr(os, name, ask)
    for group in (os.supports_dir_fd, os.supports_fd, os.supports_follow_symlinks):
        if plain in group:
            group.add(ask)
    # Before Python 3.11 pathlib keeps references of its own.
    accessor: Any = getattr(pathlib, "_NormalAccessor", None)
    if hasattr(accessor, name):
        setattr(accessor, name, staticmethod(ask))


def watch_asyncpg(reads: Reads) -> None:
    """Patch asyncpg to record its statements, if it is loaded."""
    connection: Any = getattr(sys.modules.get("asyncpg.connection"), "Connection", None)
    for name in ("execute", "_execute", "_executemany", "_prepare"):
        if hasattr(connection, name):
            setattr(connection, name, _noting_statements(getattr(connection, name), reads))


def _noting_statements(plain: Callable[..., Any], reads: Reads) -> Callable[..., Any]:
    @wraps(plain)
    def run(connection: Any, query: str, *arguments: Any, **named: Any) -> Any:
        with suppress(Exception):
            reads.record_statement(query)
        return plain(connection, query, *arguments, **named)

    return run


def reads_clock(code: CodeType) -> bool:
    """Whether code calls functions of the clock or of random values."""
    names = set(code.co_names)
    if names.isdisjoint({*CLOCKS_OF, *CLOCKS, *RANDOM_CALLS, "random", "secrets"}):
        return False
    # A seeded generator is deterministic.
    is_seeded = not names.isdisjoint({"Random", "seed"})
    owner = ""
    for instruction in dis.get_instructions(code):
        name = instruction.argval if instruction.opname.startswith("LOAD_") else ""
        name = name if isinstance(name, str) else ""
        if owner in CLOCKS_OF.get(name, ()) or (owner == "time" and name in CLOCKS):
            return True
        if name in RANDOM_CALLS or (name and owner == "secrets"):
            return True
        if name and owner == "random" and not is_seeded:
            return True
        owner = name
    return False


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for value in code.co_consts:
        if isinstance(value, CodeType):
            yield from _codes(value)


def drop_stale_bytecode() -> None:
    """Patch the import system to delete bytecode that is older than its source.

    Python compares sizes and whole seconds, and misses an edit in the same second.
    """
    from importlib import _bootstrap_external

    loading: Any = _bootstrap_external
    plain = loading.cache_from_source
    # Computed before the patch, because it imports modules itself.
    standard_library()

    def cache_from_source(path: str, *arguments: Any, **named: Any) -> str:
        cached: str = plain(path, *arguments, **named)
        if not is_installed(path) and may_change(path) and _is_older(cached, path):
            try:
                os.unlink(cached)
            except OSError:
                # Python then compiles the source and does not write bytecode.
                raise NotImplementedError from None
        return cached

    loading.cache_from_source = cache_from_source


def _is_older(cached: str, source: str) -> bool:
    with suppress(OSError):
        facts = PLAIN_STAT(source)
        return PLAIN_STAT(cached).st_mtime <= max(facts.st_mtime, facts.st_ctime)
    return False


def address_of(place: Any) -> str:
    """Return the port and the host of a socket's address, or the path of a Unix socket."""
    return f"{place[1]} {place[0]}" if isinstance(place, tuple) else os.fsdecode(place)


def source_of(path: str) -> str:
    """Return the source file of a bytecode file; any other path unchanged."""
    try:
        source = source_from_cache(path) if path.endswith(".pyc") else path
    except ValueError:
        return path
    return source if os.path.exists(source) else path


def may_change(path: str) -> bool:
    """Whether a path is in neither the standard library nor a virtual file system."""
    if path.startswith(NO_FILES):
        return False
    return not path.startswith(standard_library()) or is_installed(path)


@lru_cache(maxsize=None)  # noqa: UP033  # a service's interpreter may be older
def standard_library() -> tuple[str, ...]:
    """Return the directories of the standard library, with a trailing separator."""
    paths = sysconfig.get_paths()
    return paths["stdlib"] + os.sep, paths["platstdlib"] + os.sep


def is_installed(path: str) -> bool:
    """Whether a path belongs to an installed library."""
    return bool(installed_in(path))


def installed_in(path: str) -> str:
    """Return the innermost directory of installed libraries around a path, or an empty string."""
    parts = path.split(os.sep)
    while parts and parts[-1] not in INSTALLED:
        parts.pop()
    return os.sep.join(parts)


def _parents(path: str) -> Iterator[str]:
    while (parent := os.path.dirname(path)) != path:
        yield parent
        path = parent
