"""Reads a service's revisions from its files, without importing them.

This is a fast path, for files as Alembic writes them: finding the head takes milliseconds and no
import of Alembic. Alembic imports each file and uses the final values of its module. If a file or a
configuration may compute these values, Alembic must be asked (`alembic_history.py`).
"""

import ast
import configparser
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from huleedu_tasks.config.registry import Service
from huleedu_tasks.errors import Finding, MigrationError

PYPROJECT = "pyproject.toml"
# Flask's error if `current_app` is used without an application.
NO_APPLICATION = "Working outside of application context"
STATE_FLASK_APP = (
    'state it as `flask --app` takes it in the registry, such as "flask_app": "wsgi" or '
    '"flask_app": "package:create_app".'
)
# The option with the names of databases, in Alembic's template multidb.
DATABASES = "databases"
_OPTIONS = (
    "script_location",
    "databases",
    "prepend_sys_path",
    "version_locations",
    "recursive_version_locations",
    "sourceless",
    "path_separator",
    "version_path_separator",
)
_FIELDS = frozenset({"revision", "down_revision", "depends_on", "branch_labels"})
# Options with other directories or other kinds of files.
_UNUSUAL = ("version_locations", "recursive_version_locations", "sourceless")
# Prefixes of file names that Alembic ignores (alembic/script/base.py).
_IGNORED = (".#", "__init__")
# Code that may bind a name of the module without an assignment.
_INDIRECT = re.compile(
    rb"globals|locals\(|vars\(|exec\(|setattr|__dict__|sys\.modules|import_module"
    rb"|\bglobal\b[^\n]*\b(revision|down_revision|depends_on|branch_labels)\b"
)


class NotUnderstood(MigrationError):
    """A file or a configuration that only Alembic itself can evaluate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """One revision file.

    Attributes:
        id: Its revision id.
        parents: Its down_revisions; two for a merge, empty for a base.
        depends_on: Revisions of other branches that must be applied before it.
        message: The first line of its docstring; an empty string if it has none.
        path: The revision file.
    """

    id: str
    parents: tuple[str, ...]
    depends_on: tuple[str, ...]
    message: str
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """All revisions of a service."""

    revisions: Mapping[str, Revision]

    @property
    def heads(self) -> tuple[str, ...]:
        """The revisions that are not the parent of another one, sorted."""
        followed = {parent for r in self.revisions.values() for parent in r.parents}
        return tuple(sorted(set(self.revisions) - followed))

    def least_advanced(self, by_table: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
        """Return the revisions of the version table with the most pending revisions.

        A table with an unknown revision counts as the least advanced one.

        Args:
            by_table: The current revisions by version table.

        Returns:
            The revisions; an empty tuple if there is no table.
        """

        def left(current: tuple[str, ...]) -> float:
            pending = self.pending(current)
            return float("inf") if pending is None else pending

        return max(by_table.values(), key=left, default=())

    def pending(self, current: Sequence[str]) -> int | None:
        """Return the number of pending revisions.

        None if a current revision is not in this history.
        """
        known = set(current) <= set(self.revisions)
        return len(self.between(current, self.heads)) if known else None

    def between(self, before: Sequence[str], after: Sequence[str]) -> tuple[Revision, ...]:
        """Return the revisions that an upgrade applies, parents first.

        Unknown revisions are ignored.

        Args:
            before: The current revisions.
            after: The revisions after the upgrade.
        """
        there, here = (
            self._ancestors([name for name in names if name in self.revisions])
            for names in (after, before)
        )
        parents = {name: self.needs(name) for name in self.revisions if name in there - here}
        order = TopologicalSorter(parents).static_order()
        return tuple(self.revisions[name] for name in order if name in parents)

    def is_past(self, current: tuple[str, ...], revision: str) -> bool:
        """Whether a revision is an ancestor of the current ones."""
        known = set(current) <= set(self.revisions)
        return known and revision in self._ancestors(current) - set(current)

    def resolve(self, target: str) -> str | None:
        """Resolve the id of a revision, or a unique beginning of it, to the full id.

        Returns None if only Alembic can resolve it, such as `head-1` or a branch label.
        """
        if target == "head" and len(self.heads) == 1:
            return self.heads[0]
        found = [known for known in self.revisions if known.startswith(target)]
        return target if target in self.revisions else found[0] if len(found) == 1 else None

    def _ancestors(self, ids: Sequence[str]) -> set[str]:
        seen: set[str] = set()
        todo = list(ids)
        while todo:
            name = todo.pop()
            if name not in seen:
                seen.add(name)
                todo += self.needs(name)
        return seen

    def needs(self, name: str) -> list[str]:
        """Return the revisions that must be applied before one."""
        revision = self.revisions[name]
        # `depends_on` may name a branch label instead of a revision.
        depends_on = [other for other in revision.depends_on if other in self.revisions]
        return [*revision.parents, *depends_on]


NO_HISTORY = History(revisions={})


def read_history(service: Service) -> History:
    """Read a service's revisions.

    Raises:
        NotUnderstood: If Alembic must be asked instead.
        MigrationError: With all findings: a file that is not valid Python, a missing parent, a
            duplicate id, a cycle, several heads.
    """
    findings: list[Finding] = []
    revisions: list[Revision] = []
    for path in _revision_files(_plain_version_directory(service)):
        try:
            revisions.append(_read_revision(path))
        except SyntaxError as error:
            place = f"{path}, line {error.lineno}"
            findings.append(Finding(place=place, problem=f"is not valid Python: {error.msg}"))
    if findings:
        raise MigrationError(
            "The revisions could not be read; nothing was run.",
            code="revisions-unreadable",
            findings=findings,
            hint="Correct the files.",
        )
    history = history_of(revisions)
    if unknown := [
        name for r in revisions for name in r.depends_on if name not in history.revisions
    ]:
        # It may be a branch label, or the beginning of an id.
        raise NotUnderstood(f"depends_on names {unknown[0]}, which is not a revision id")
    return history


def history_of(revisions: Sequence[Revision]) -> History:
    """Return revisions as one history.

    Raises:
        MigrationError: With all findings: a missing parent, a duplicate id, a cycle, several heads.
    """
    findings: list[Finding] = []
    by_id: dict[str, Revision] = {}
    for revision in revisions:
        if earlier := by_id.get(revision.id):
            problem = f"revision {revision.id} is also defined in {earlier.path.name}"
            findings.append(Finding(place=str(revision.path), problem=problem))
        by_id[revision.id] = revision
    history = History(revisions=by_id)
    # Each kind of finding may cause findings of the following kinds.
    findings = findings or [*_gaps(history)] or [*_cycles(history)] or [*_heads_findings(history)]
    if findings:
        raise MigrationError(
            "The revisions do not form one history; nothing was run.",
            code="history-broken",
            findings=findings,
            hint="Correct the files; merge two heads with `alembic merge heads`.",
        )
    return history


def script_directory(service: Service) -> Path:
    """Return the directory of a service's `env.py`: script_location of its Alembic configuration.

    Raises:
        NotUnderstood: If only Alembic can resolve it.
        MigrationError: If script_location is missing, or is not a directory.
    """
    options = _alembic_options(service)
    location = str(options.get("script_location") or "")
    if not location:
        raise MigrationError(
            f"{service.alembic_config} has no script_location.",
            code="script-location-missing",
            hint=_location_hint(service),
        )
    if ":" in location or not location.isascii() or _is_in_pyproject(options):
        raise NotUnderstood(f"only Alembic can resolve the script_location {location!r}")
    directory = service.directory / location
    if not directory.is_dir():
        raise MigrationError(
            f"{service.alembic_config} has the script_location {directory}, which is not a "
            "directory.",
            code="script-location-missing",
            hint="Correct its script_location, or 'directory' in the registry, to which it is "
            "relative.",
        )
    return directory


def version_directories(service: Service) -> list[Path]:
    """Return the directories of a service's revision files, from its Alembic configuration.

    Raises:
        MigrationError: If the configuration has no script_location.
    """
    options = _alembic_options(service)
    location = options.get("script_location")
    if not location:
        raise MigrationError(
            f"{service.alembic_config} has no script_location.",
            code="script-location-missing",
            hint=_location_hint(service),
        )
    directories = [
        _absolute(service, path, options) for path in _version_locations(options, str(location))
    ]
    if str(options.get("recursive_version_locations", "")).lower() != "true":
        return directories
    return [
        path for directory in directories for path in (directory, *_directories_below(directory))
    ]


def _location_hint(service: Service) -> str:
    if service.alembic_config.with_name("env.py").is_file():
        return f"Flask-Migrate passes it from its application: {STATE_FLASK_APP}"
    return f"Set script_location in its [{service.alembic_section}] section."


def option_hint(service: Service, error: str) -> str:
    """Return which field of the registry a failed or mismatched `env.py` needs.

    Args:
        error: The error, as Python prints it; an empty string if there is none.

    Returns:
        The hint; an empty string if no field helps.
    """
    if NO_APPLICATION in error and not service.flask_app:
        return f"Its env.py needs its Flask application: {STATE_FLASK_APP}"
    return engines_hint(service)


def engines_hint(service: Service) -> str:
    """Return how to register several databases of one Alembic configuration.

    Returns:
        The hint; an empty string if it names no databases, or the service names one of them.
    """
    if service.alembic_engine:
        return ""
    try:
        stated = str(_alembic_options(service).get(DATABASES, ""))
    except MigrationError:
        return ""
    engines = engine_names(stated)
    if not engines:
        return ""
    fields = " and ".join(f'"alembic_engine": "{name}"' for name in engines)
    return (
        f"{service.alembic_config.name} names {len(engines)} databases (Alembic's template "
        f"multidb): write an entry for each in the registry, with the same directory and with "
        f"{fields}."
    )


def engine_names(stated: str) -> list[str]:
    """Return the names in the option `databases` of an Alembic configuration."""
    return [name for name in re.split(r"[,\s]+", stated) if name]


def _plain_version_directory(service: Service) -> Path:
    """Return the only directory with revision files.

    Raises:
        NotUnderstood: If the configuration may name other directories or files.
        MigrationError: As `script_directory`.
    """
    directory = script_directory(service)
    options = _alembic_options(service)
    if unusual := [name for name in _UNUSUAL if options.get(name)]:
        raise NotUnderstood(f"only Alembic can evaluate {unusual[0]}")
    return directory / "versions"


def _revision_files(directory: Path) -> list[Path]:
    """Return the files of a directory that Alembic loads.

    Raises:
        NotUnderstood: If one is a symbolic link, whose target Alembic inspects.
    """
    try:
        entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
    except FileNotFoundError:
        return []
    files = [entry for entry in entries if not entry.name.startswith(_IGNORED)]
    if links := [entry.name for entry in files if entry.is_symlink()]:
        raise NotUnderstood(f"{links[0]} is a symbolic link")
    return [
        Path(entry.path) for entry in files if entry.name.endswith(".py") and not entry.is_dir()
    ]


def _is_in_pyproject(options: Mapping[str, object]) -> bool:
    return PYPROJECT in options


def _version_locations(options: Mapping[str, object], script_location: str) -> list[str]:
    stated = options.get("version_locations")
    if not stated:
        return [f"{script_location}/versions"]
    if isinstance(stated, list):
        return stated
    separator = options.get("path_separator") or options.get("version_path_separator")
    return _split(str(stated), str(separator or ""))


def _directories_below(directory: Path) -> list[Path]:
    found = (path for path in directory.rglob("*") if path.is_dir())
    return sorted(path for path in found if path.name != "__pycache__")


def _alembic_options(service: Service) -> dict[str, object]:
    """Read the options of alembic.ini, which override those of a pyproject.toml beside it."""
    options: dict[str, object] = {}
    pyproject = service.directory / PYPROJECT
    here = {"here": str(service.alembic_config.parent)}
    try:
        if pyproject.is_file():
            tool = tomllib.loads(pyproject.read_text(encoding="utf-8")).get("tool", {})
            options |= {
                key: _fill_in(value, {"here": str(service.directory)})
                for key, value in tool.get("alembic", {}).items()
            }
            if options:
                options[PYPROJECT] = True
        if service.alembic_config.suffix != ".toml":
            parser = configparser.ConfigParser(here)
            parser.read(service.alembic_config, encoding="utf-8")
            if parser.has_section(service.alembic_section):
                for name in _OPTIONS:
                    if value := parser.get(service.alembic_section, name, fallback=""):
                        options[name] = value
        if service.flask_app:
            # The default that Flask-Migrate passes to Alembic.
            options.setdefault("script_location", str(service.alembic_config.parent))
    except (OSError, ValueError, configparser.Error) as error:
        raise MigrationError(
            f"The Alembic configuration of {service.directory} could not be read: {error}",
            code="alembic-config-unreadable",
            hint="Correct the file, or 'alembic_config' in the registry.",
        ) from error
    return options


def _fill_in(value: object, here: Mapping[str, str]) -> object:
    if isinstance(value, str):
        return value % here if "%(here)s" in value else value
    return [_fill_in(item, here) for item in value] if isinstance(value, list) else value


def _absolute(service: Service, location: str, options: Mapping[str, object]) -> Path:
    package, colon, rest = location.partition(":")
    if not colon or len(package) < 2:
        return service.directory / location
    # `package:directory` is resolved as an import is, except for installed packages.
    relative = f"{package.replace('.', '/')}/{rest}"
    stated = options.get("prepend_sys_path") or []
    paths = stated if isinstance(stated, list) else re.split(rf"[,\s{os.pathsep}]+", str(stated))
    found = (service.directory / path / relative for path in paths)
    # Before the first revision only the parent directory exists.
    return next((path for path in found if path.parent.is_dir()), service.directory / relative)


def _split(value: str, separator: str) -> list[str]:
    known = {"os": os.pathsep, "space": " ", "newline": "\n", ":": ":", ";": ";"}
    # The default separators of Alembic are spaces and commas.
    parts = value.split(known[separator]) if separator in known else re.split(r"[,\s]+", value)
    return [part.strip() for part in parts if part.strip()]


def _read_revision(path: Path) -> Revision:
    """Read a revision file without importing it.

    Raises:
        SyntaxError: If it is not valid Python.
        NotUnderstood: If only an import can evaluate its values.
    """
    # Bytes, because Python evaluates the byte order mark and the coding line.
    source = path.read_bytes()
    try:
        tree = ast.parse(source, filename=str(path))
    except ValueError as error:
        raise NotUnderstood(f"{path.name}: {error}") from None
    if _INDIRECT.search(source):
        raise NotUnderstood(f"{path.name} may bind names indirectly")
    values = _literals(tree, path)
    identifier = values.get("revision")
    if not isinstance(identifier, str) or "down_revision" not in values:
        raise NotUnderstood(f"{path.name} has no literal revision and down_revision")
    docstring = ast.get_docstring(tree) or ""
    return Revision(
        id=identifier,
        parents=_as_tuple(values["down_revision"], path),
        depends_on=_as_tuple(values.get("depends_on"), path),
        message=docstring.partition("\n")[0].strip(),
        path=path,
    )


def _literals(tree: ast.Module, path: Path) -> dict[str, object]:
    """Return the values of the variables that Alembic reads.

    Raises:
        NotUnderstood: If one is not assigned a literal.
    """
    values: dict[str, object] = {}
    for node in tree.body:
        bound = _bound_by(node)
        if "*" in bound:
            raise NotUnderstood(f"{path.name} has an import *")
        for name in bound & _FIELDS:
            values[name] = _literal(node, name, path)
    # A bare annotation binds nothing.
    return {name: value for name, value in values.items() if value is not ...}


def _literal(node: ast.stmt, name: str, path: Path) -> object:
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    is_plain = isinstance(node, (ast.Assign, ast.AnnAssign)) and all(
        isinstance(target, ast.Name) for target in targets
    )
    value = getattr(node, "value", None)
    if is_plain and value is None:
        return ...
    try:
        if is_plain and value is not None:
            return ast.literal_eval(value)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        pass
    raise NotUnderstood(f"{path.name} computes {name} in line {node.lineno}")


def _bound_by(node: ast.stmt) -> set[str]:
    """Return the names that a statement may bind in its module; `*` for an import *.

    Bodies of functions and classes are skipped, because they have their own scope.
    """
    bound: set[str] = set()
    todo: list[ast.AST] = [node]
    while todo:
        part = todo.pop()
        bound.update(_names_bound_at(part))
        if not isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            todo += ast.iter_child_nodes(part)
    return bound


def _names_bound_at(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Name) and isinstance(node.ctx, (ast.Store, ast.Del)):
        yield node.id
    elif isinstance(node, ast.alias):
        yield (node.asname or node.name).partition(".")[0]
    elif name := getattr(node, "name", None) or getattr(node, "rest", None):
        # Functions, classes, caught exceptions and captures of a pattern.
        yield str(name)


def _as_tuple(value: object, path: Path) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, str):
        return (value,)
    if isinstance(value, (tuple, list)) and all(isinstance(item, str) for item in value):
        return tuple(value)
    raise NotUnderstood(f"{path.name} names {value!r} as a revision")


def _gaps(history: History) -> Iterator[Finding]:
    for revision in history.revisions.values():
        for parent in revision.parents:
            if parent not in history.revisions:
                problem = f"has the down_revision {parent}, which no file defines"
                yield Finding(place=str(revision.path), problem=problem)


def _cycles(history: History) -> Iterator[Finding]:
    try:
        TopologicalSorter({name: history.needs(name) for name in history.revisions}).prepare()
    except CycleError as error:
        first, *_ = cycle = error.args[1]
        problem = f"revisions form a cycle: {', '.join(cycle)}"
        yield Finding(place=str(history.revisions[first].path), problem=problem)


def _heads_findings(history: History) -> Iterator[Finding]:
    if len(history.heads) < 2:
        return
    for head in history.heads:
        path = history.revisions[head].path
        yield Finding(place=str(path), problem=f"revision {head} is one of several heads")
