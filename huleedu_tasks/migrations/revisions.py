"""A service's revisions, read from its files without running or importing them.

This is a fast path, for the files that Alembic itself writes: asking for a head costs milliseconds
and no import of Alembic. Alembic imports each file and takes whatever its module holds in the end;
where a file or a configuration leaves any doubt what that is, Alembic must be asked
(`alembic_history.py`).
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
# What Flask says where `current_app` is used without an application.
NO_APPLICATION = "Working outside of application context"
STATE_FLASK_APP = (
    'state it as `flask --app` takes it in the registry, such as "flask_app": "wsgi" or '
    '"flask_app": "package:create_app".'
)
# The option in which Alembic's template multidb has the names of its databases.
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
# Options that have Alembic look elsewhere, or for other files.
_UNUSUAL = ("version_locations", "recursive_version_locations", "sourceless")
# As Alembic names what it passes over (alembic/script/base.py).
_PASSED_OVER = (".#", "__init__")
# What may bind a name without a statement of the module itself that does.
_INDIRECT = re.compile(
    rb"globals|locals\(|vars\(|exec\(|setattr|__dict__|sys\.modules|import_module"
    rb"|\bglobal\b[^\n]*\b(revision|down_revision|depends_on|branch_labels)\b"
)


class NotUnderstood(MigrationError):
    """Only Alembic itself can tell what a file or a configuration comes to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """One revision file.

    Attributes:
        parents: The revisions it follows; two for a merge, none for a base.
        depends_on: Revisions of other branches that must be applied before it.
        message: The first line of its docstring.
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
        """The revisions nothing follows, sorted."""
        followed = {parent for r in self.revisions.values() for parent in r.parents}
        return tuple(sorted(set(self.revisions) - followed))

    def least_advanced(self, by_table: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
        """Return the revisions of the version table that has most before it.

        One that is at a revision unknown here comes before all others; no table has no revision.
        """

        def left(current: tuple[str, ...]) -> float:
            pending = self.pending(current)
            return float("inf") if pending is None else pending

        return max(by_table.values(), key=left, default=())

    def pending(self, current: Sequence[str]) -> int | None:
        """Return how many revisions lead from the current ones to the head.

        None if a current revision is unknown here.
        """
        known = set(current) <= set(self.revisions)
        return len(self.between(current, self.heads)) if known else None

    def between(self, before: Sequence[str], after: Sequence[str]) -> tuple[Revision, ...]:
        """Return the revisions that lead from one place to another, parents first.

        What is unknown here leads nowhere.
        """
        there, here = (
            self._ancestors([name for name in names if name in self.revisions])
            for names in (after, before)
        )
        parents = {name: self.needs(name) for name in self.revisions if name in there - here}
        order = TopologicalSorter(parents).static_order()
        return tuple(self.revisions[name] for name in order if name in parents)

    def is_past(self, current: tuple[str, ...], revision: str) -> bool:
        """Whether a revision was applied on the way to the current ones."""
        known = set(current) <= set(self.revisions)
        return known and revision in self._ancestors(current) - set(current)

    def resolve(self, target: str) -> str | None:
        """Return the full id of a revision given as Alembic allows: whole, or its beginning.

        Returns None for what only Alembic can resolve, such as `head-1` or a branch label.
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
        # `depends_on` may name a branch label, which is no revision of its own.
        depends_on = [other for other in revision.depends_on if other in self.revisions]
        return [*revision.parents, *depends_on]


NO_HISTORY = History(revisions={})


def read_history(service: Service) -> History:
    """Read a service's revisions.

    Raises:
        NotUnderstood: If Alembic must be asked instead.
        MigrationError: With every finding: a file that is not Python, a parent that is missing,
            an id that stands twice, a circle, two heads.
    """
    findings: list[Finding] = []
    revisions: list[Revision] = []
    for path in _revision_files(_plain_version_directory(service)):
        try:
            revisions.append(_read_revision(path))
        except SyntaxError as error:
            place = f"{path}, line {error.lineno}"
            findings.append(Finding(place=place, problem=f"is not Python: {error.msg}"))
    if findings:
        raise MigrationError(
            "Its revisions cannot be read.",
            code="revisions-unreadable",
            findings=findings,
            hint="Nothing was run. Correct the files.",
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
        MigrationError: With every finding: a parent that is missing, an id that stands twice, a
            circle, two heads.
    """
    findings: list[Finding] = []
    by_id: dict[str, Revision] = {}
    for revision in revisions:
        if earlier := by_id.get(revision.id):
            problem = f"revision {revision.id} stands in {earlier.path.name} too"
            findings.append(Finding(place=str(revision.path), problem=problem))
        by_id[revision.id] = revision
    history = History(revisions=by_id)
    # What follows from a finding is no finding of its own.
    findings = findings or [*_gaps(history)] or [*_circles(history)] or [*_heads_findings(history)]
    if findings:
        raise MigrationError(
            "Its revisions do not form one history.",
            code="history-broken",
            findings=findings,
            hint="Nothing was run. Correct the files; `alembic merge heads` joins two heads.",
        )
    return history


def script_directory(service: Service) -> Path:
    """Return the directory of a service's `env.py`, as its Alembic configuration states it.

    Raises:
        NotUnderstood: If only Alembic can tell.
        MigrationError: If the configuration names no script location, or there is no such
            directory.
    """
    options = _alembic_options(service)
    location = str(options.get("script_location") or "")
    if not location:
        raise MigrationError(
            f"{service.alembic_config} names no script_location.",
            code="script-location-missing",
            hint=_location_hint(service),
        )
    if ":" in location or not location.isascii() or _is_in_pyproject(options):
        raise NotUnderstood(f"script_location {location!r} is for Alembic to find")
    directory = service.directory / location
    if not directory.is_dir():
        raise MigrationError(
            f"{service.alembic_config} names the script_location {directory}, which is not a "
            "directory.",
            code="script-location-missing",
            hint="Correct its script_location, or 'directory' in the registry, from which it "
            "starts.",
        )
    return directory


def version_directories(service: Service) -> list[Path]:
    """Return the directories a service's revision files lie in, as its Alembic configuration says.

    Raises:
        MigrationError: If the configuration has no script location.
    """
    options = _alembic_options(service)
    location = options.get("script_location")
    if not location:
        raise MigrationError(
            f"{service.alembic_config} names no script_location.",
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
        return f"`flask db` passes it from the application: {STATE_FLASK_APP}"
    return f"Set script_location in its [{service.alembic_section}] section."


def option_hint(service: Service, error: str) -> str:
    """Return which field of the registry an `env.py` needs that failed, or connected elsewhere.

    Args:
        error: The error, as Python shows it; an empty string if there is none.

    Returns:
        The hint; an empty string if no field helps.
    """
    if NO_APPLICATION in error and not service.flask_app:
        return f"Its env.py needs its Flask application: {STATE_FLASK_APP}"
    return engines_hint(service)


def engines_hint(service: Service) -> str:
    """Return how to state several databases that one Alembic configuration names.

    Returns:
        The hint; an empty string if it names none, or the service is one of them already.
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
        NotUnderstood: If the configuration may name others, or other files.
        MigrationError: As `script_directory`.
    """
    directory = script_directory(service)
    options = _alembic_options(service)
    if unusual := [name for name in _UNUSUAL if options.get(name)]:
        raise NotUnderstood(f"{unusual[0]} is for Alembic to read")
    return directory / "versions"


def _revision_files(directory: Path) -> list[Path]:
    """Return the files of a directory that Alembic loads.

    Raises:
        NotUnderstood: If one is not an ordinary file: Alembic looks at what a link names.
    """
    try:
        entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
    except FileNotFoundError:
        return []
    files = [each for each in entries if not each.name.startswith(_PASSED_OVER)]
    if links := [each.name for each in files if each.is_symlink()]:
        raise NotUnderstood(f"{links[0]} is a symbolic link")
    return [Path(each.path) for each in files if each.name.endswith(".py") and not each.is_dir()]


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
    """Read the options of alembic.ini, over those of a pyproject.toml beside it."""
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
            # As Flask-Migrate tells Alembic.
            options.setdefault("script_location", str(service.alembic_config.parent))
    except (OSError, ValueError, configparser.Error) as error:
        raise MigrationError(
            f"The Alembic configuration of {service.directory} cannot be read: {error}",
            code="alembic-config-unreadable",
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
    # `package:directory` is looked for like any import; what is installed is not looked for here.
    relative = f"{package.replace('.', '/')}/{rest}"
    stated = options.get("prepend_sys_path") or []
    paths = stated if isinstance(stated, list) else re.split(rf"[,\s{os.pathsep}]+", str(stated))
    found = (service.directory / path / relative for path in paths)
    # Nobody has made a revision yet where only the directory above is there.
    return next((path for path in found if path.parent.is_dir()), service.directory / relative)


def _split(text: str, separator: str) -> list[str]:
    known = {"os": os.pathsep, "space": " ", "newline": "\n", ":": ":", ";": ";"}
    # Without a stated separator Alembic splits at spaces and commas.
    parts = text.split(known[separator]) if separator in known else re.split(r"[,\s]+", text)
    return [part.strip() for part in parts if part.strip()]


def _read_revision(path: Path) -> Revision:
    """Read a file that Alembic would import.

    Raises:
        SyntaxError: If it is not Python.
        NotUnderstood: If only an import tells what its module holds.
    """
    # Bytes: a byte order mark and a coding line are Python's to understand.
    text = path.read_bytes()
    try:
        tree = ast.parse(text, filename=str(path))
    except ValueError as error:
        raise NotUnderstood(f"{path.name}: {error}") from None
    if _INDIRECT.search(text):
        raise NotUnderstood(f"{path.name} may bind names indirectly")
    values = _literals(tree, path)
    identifier = values.get("revision")
    if not isinstance(identifier, str) or "down_revision" not in values:
        raise NotUnderstood(f"{path.name} states no revision and down_revision as strings")
    docstring = ast.get_docstring(tree) or ""
    return Revision(
        id=identifier,
        parents=_as_tuple(values["down_revision"], path),
        depends_on=_as_tuple(values.get("depends_on"), path),
        message=docstring.partition("\n")[0].strip(),
        path=path,
    )


def _literals(tree: ast.Module, path: Path) -> dict[str, object]:
    """Return the values of the names Alembic looks for.

    Raises:
        NotUnderstood: If one is bound by anything but the assignment of a literal.
    """
    values: dict[str, object] = {}
    for node in tree.body:
        bound = _bound_by(node)
        if "*" in bound:
            raise NotUnderstood(f"{path.name} imports names it does not list")
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
    """Return the names a statement of a module may bind there; `*` for names it does not list.

    The bodies of functions and classes have names of their own.
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
        # Functions, classes, exceptions that are caught, and what a pattern captures.
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
                problem = f"follows revision {parent}, which no file has"
                yield Finding(place=str(revision.path), problem=problem)


def _circles(history: History) -> Iterator[Finding]:
    try:
        TopologicalSorter({name: history.needs(name) for name in history.revisions}).prepare()
    except CycleError as error:
        first, *_ = circle = error.args[1]
        problem = f"revisions follow one another in a circle: {', '.join(circle)}"
        yield Finding(place=str(history.revisions[first].path), problem=problem)


def _heads_findings(history: History) -> Iterator[Finding]:
    if len(history.heads) < 2:
        return
    for head in history.heads:
        path = history.revisions[head].path
        yield Finding(place=str(path), problem=f"revision {head} is one of several heads")
