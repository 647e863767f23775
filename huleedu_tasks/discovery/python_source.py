"""Reads what one Python file states about a database from its syntax tree; runs nothing."""

import ast
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from huleedu_tasks.config.variable_names import OTHERS, URL_NAME
from huleedu_tasks.discovery.found_urls import UNKNOWN, SeenUrl, see_url
from huleedu_tasks.discovery.syntax import (
    constants,
    dotted,
    env_prefix,
    inner_name,
    last_name,
    plain,
    texts,
)

LOCAL_ADDRESS = re.compile(
    r"(?:localhost|127\.0\.0\.1|0\.0\.0\.0|host\.docker\.internal):(\d{4,5})"
)
URL_SUFFIX = re.compile(r"(URL|URI|DSN|CONN|CONNECTION|CONNECTION_STRING)$")
# The end of a variable name whose beginning is interpolated.
BUILT_NAME = re.compile(rf"^{UNKNOWN}_?(\w+_)?(DATABASE_UR[LI]|DB_UR[LI]|DSN)$")
# The name of a variable that holds one part of a URL.
PART_OF_URL = re.compile(
    r"(USER|USERNAME|PASSWORD|PASS|HOST|HOSTNAME|SERVER|PORT|NAME|ENVIRONMENT|DRIVER|SCHEME|SCHEMA"
    r"|SSLMODE|_DB|_DATABASE)$"
)
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
_DATABASE_WORDS = r"(db|database|postgres|postgresql|pg|sql)"
PORT_NAME = re.compile(rf"(^|_){_DATABASE_WORDS}_?port$|^port_?{_DATABASE_WORDS}$", re.IGNORECASE)
DATABASE_NAME = re.compile(
    r"(^|_)(db|database|postgres|postgresql|pg)_?(name|database|db)$|^database$|^dbname$|_db$",
    re.IGNORECASE,
)
_ASYNC = frozenset({"create_async_engine", "async_engine_from_config", "AsyncEngine"})
_SYNC = frozenset({"create_engine", "engine_from_config"})
# Calls whose argument is the URL of the database.
_TAKES_URL = _ASYNC | _SYNC | {"set_main_option", "make_url", "connect", "create_pool"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """An environment variable that a file reads.

    Attributes:
        line: The line number, from 1.
        quote: The expression that reads it, without the default, which may contain a password.
        is_url: Whether its name or its use shows that it holds the URL of the database.
    """

    name: str
    line: int
    quote: str
    is_url: bool


@dataclass(slots=True, kw_only=True)
class Facts:
    """What a file states, in its order; every fact comes with its line number."""

    reads: list[Read] = field(default_factory=list)
    urls: list[tuple[SeenUrl, int]] = field(default_factory=list)
    ports: list[tuple[int, int]] = field(default_factory=list)
    # Ports of this machine that a database or any other server may use.
    local_ports: list[tuple[int, int]] = field(default_factory=list)
    databases: list[tuple[str, int]] = field(default_factory=list)
    schemes: list[tuple[str, int]] = field(default_factory=list)
    is_async: bool = False
    is_sync: bool = False
    changes_driver: bool = False
    # Whether it builds the name of a variable at run time, for example from the service's name.
    builds_variable: bool = False
    imports: list[tuple[str, int]] = field(default_factory=list)
    # Why the file could not be parsed; empty string if it was.
    problem: str = ""


def read_python(path: Path) -> Facts:
    """Parse a file; return only the `problem` if that fails."""
    try:
        with warnings.catch_warnings():
            # A printed warning would show the line, which may contain a password.
            warnings.simplefilter("ignore")
            tree = ast.parse(path.read_bytes(), filename=str(path))
        reader = _Reader(constants=dict(constants(tree)))
        reader.visit(tree)
    except OSError as error:
        return Facts(problem=f"cannot be read: {error.strerror}")
    except (RecursionError, MemoryError):
        return Facts(problem="is nested too deeply for the parser")
    except SyntaxError as error:
        return Facts(problem=f"is not valid Python: line {error.lineno or 1}: {error.msg}")
    except ValueError:
        return Facts(problem="is not valid Python")
    return reader.facts


class _Reader(ast.NodeVisitor):
    """Collects the facts of a file, with the functions and classes around the current node."""

    def __init__(self, *, constants: Mapping[str, str]) -> None:
        self.facts = Facts()
        self._constants = constants
        # The name that the current value is assigned to, and the names of the enclosing functions.
        self._target = ""
        self._functions: list[str] = []
        self._prefix: str | None = None

    def visit_Expr(self, node: ast.Expr) -> None:
        """Skip docstrings, which may contain an example URL."""
        if not isinstance(node.value, ast.Constant):
            self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        self.facts.imports += [(alias.name, 0) for alias in node.names]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = node.module or ""
        for alias in node.names:
            self.facts.imports.append((f"{base}.{alias.name}".removeprefix("."), node.level))

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._inside(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._inside(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        bases = [last_name(base) for base in node.bases]
        outer = self._prefix
        if any(base.endswith("Settings") for base in bases):
            self._prefix = env_prefix(node)
        self.generic_visit(node)
        self._prefix = outer

    def visit_Assign(self, node: ast.Assign) -> None:
        for target in node.targets:
            self._record_named(last_name(target), node.value, node.lineno)
        self._visit_value(last_name(node.targets[0]), node.value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        name = last_name(node.target)
        if self._prefix is not None and isinstance(node.target, ast.Name):
            self._field(name, node)
        if node.value:
            self._record_named(name, node.value, node.lineno)
            self._visit_value(name, node.value)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if isinstance(node.slice, ast.Constant):
            self._read(node.slice.value, node, (f"{dotted(node.value)}[", "]"))
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        name = last_name(node.func)
        self.facts.is_async |= name in _ASYNC
        self.facts.is_sync |= name in _SYNC
        self.facts.changes_driver |= _changes_driver(node, name)
        if node.args and isinstance(node.args[0], ast.Constant):
            around = (f"{dotted(node.func)}(", ")")
            self._read(node.args[0].value, node, around, default=plain(node))
        self._keywords({k.arg: k.value for k in node.keywords if k.arg}, node.lineno)
        if name in _TAKES_URL:
            outer, self._target = self._target, "database_url"
            self.generic_visit(node)
            self._target = outer
        else:
            self.generic_visit(node)

    def visit_Dict(self, node: ast.Dict) -> None:
        pairs = zip(node.keys, node.values, strict=True)
        stated = {str(k.value).lower(): v for k, v in pairs if isinstance(k, ast.Constant)}
        self._keywords(stated, node.lineno)
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str):
            self._text(node.value, node.lineno)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        text = self._text_of_fstring(node)
        self.facts.builds_variable |= bool(BUILT_NAME.search(text))
        self._text(text, node.lineno)
        for value in node.values:
            if isinstance(value, ast.FormattedValue):
                self.visit(value.value)

    def _inside(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._functions.append(node.name)
        outer, self._target = self._target, ""
        self.generic_visit(node)
        self._target = outer
        self._functions.pop()

    def _visit_value(self, name: str, value: ast.expr) -> None:
        outer, self._target = self._target, name
        self.visit(value)
        self._target = outer

    def _record_named(self, name: str, value: ast.expr, line: int) -> None:
        """Record a port or a database if the name of the variable shows that it is one."""
        text = plain(value)
        if text is None:
            return
        if PORT_NAME.search(name) and text.isdecimal():
            self.facts.ports.append((int(text), line))
        elif DATABASE_NAME.search(name) and names_database(name, text):
            self.facts.databases.append((text, line))

    def _keywords(self, stated: Mapping[str, ast.expr], line: int) -> None:
        port = plain(stated.get("port"))
        database = next(
            (
                text
                for k in ("database", "dbname", "db", "path", "name")
                if (text := plain(stated.get(k)))
            ),
            None,
        )
        scheme = plain(stated.get("drivername")) or plain(stated.get("scheme")) or ""
        if scheme.startswith("postgres"):
            self.facts.schemes.append((scheme, line))
        if port and port.isdecimal() and database:
            self.facts.ports.append((int(port), line))
            self.facts.databases.append((database.removeprefix("/"), line))

    def _read(
        self, name: object, node: ast.expr, around: tuple[str, str], *, default: str | None = None
    ) -> None:
        if not isinstance(name, str) or not _VARIABLE.fullmatch(name) or len(name) < 2:
            return
        before, after = around
        self._note_read(name, node.lineno, f'{before}"{name}"{after}', default)

    def _note_read(self, name: str, line: int, quote: str, default: str | None) -> None:
        direct = bool(URL_NAME.search(self._target))
        around = any(URL_NAME.search(function) for function in self._functions)
        is_url = bool(
            URL_NAME.search(name)
            or direct
            or (around and URL_SUFFIX.search(name))
            or (default and see_url(default))
        ) and not OTHERS.search(name)
        is_part = PART_OF_URL.search(name) and not (default and see_url(default))
        self.facts.reads.append(
            Read(name=name, line=line, quote=quote, is_url=is_url and not is_part)
        )
        if default and PORT_NAME.search(name) and default.isdecimal():
            self.facts.ports.append((int(default), line))
        if default and DATABASE_NAME.search(name) and names_database(name, default):
            self.facts.databases.append((default, line))

    def _field(self, name: str, node: ast.AnnAssign) -> None:
        """Record the environment variables of a field of pydantic settings."""
        stated: dict[str | None, ast.expr] = {}
        if isinstance(node.value, ast.Call):
            stated = {keyword.arg: keyword.value for keyword in node.value.keywords}
        aliases = [
            text
            for key in ("validation_alias", "alias", "env")
            if key in stated
            for text in texts(stated[key])
        ]
        is_url = URL_NAME.search(name) or "PostgresDsn" in ast.unparse(node.annotation)
        outer, self._target = self._target, "database_url" if is_url else name
        for variable in aliases or [f"{self._prefix}{name}".upper()]:
            self._note_read(variable.upper(), node.lineno, f"{name}: {variable.upper()}", None)
        self._target = outer

    def _text(self, text: str, line: int) -> None:
        if url := see_url(text):
            self.facts.urls.append((url, line))
            self.facts.schemes.append((url.scheme, line))
        else:
            self.facts.local_ports += [(int(p), line) for p in LOCAL_ADDRESS.findall(text)]

    def _text_of_fstring(self, node: ast.JoinedStr) -> str:
        parts = []
        for value in node.values:
            if isinstance(value, ast.Constant):
                parts.append(str(value.value))
            elif isinstance(value, ast.FormattedValue):
                parts.append(self._constants.get(inner_name(value.value), UNKNOWN))
        return "".join(parts)


def names_database(variable: str, value: str) -> bool:
    """Whether a variable holds the name of a PostgreSQL database.

    `REDIS_DB=0` does not: its name belongs to another product, and its value is a number.
    """
    is_name = re.fullmatch(r"[\w-]+", value) and not value.isdecimal()
    return bool(is_name) and not OTHERS.search(variable.upper())


def _changes_driver(node: ast.Call, name: str) -> bool:
    """Whether a call replaces the driver of a URL."""
    if name in ("replace", "sub", "removesuffix"):
        return any("asyncpg" in text for argument in node.args for text in texts(argument))
    return name in ("set", "_replace") and any(k.arg == "drivername" for k in node.keywords)
