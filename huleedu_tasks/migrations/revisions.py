"""A service's revisions, read from its files without running or importing them.

Only what Alembic itself takes literally is read (`revision`, `down_revision` and so on), so that
asking for a head costs milliseconds and no import of Alembic.
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

_OPTIONS = (
    "script_location",
    "prepend_sys_path",
    "version_locations",
    "recursive_version_locations",
    "path_separator",
    "version_path_separator",
)
_FIELDS = ("revision", "down_revision", "depends_on")


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


def read_history(service: Service) -> History:
    """Read a service's revisions.

    Raises:
        MigrationError: With every finding: a file that is no Python, a parent that is missing,
            an id that stands twice, a circle, two heads.
    """
    findings: list[Finding] = []
    revisions: dict[str, Revision] = {}
    folders = version_folders(service)
    if not any(folder.parent.is_dir() for folder in folders):
        raise MigrationError(
            f"{service.alembic_config} leads to {folders[0].parent}, and there is no such folder.",
            hint="Correct its script_location, or 'directory' in the registry, from which it "
            "starts.",
        )
    for path in (path for folder in folders for path in sorted(folder.glob("*.py"))):
        try:
            revision = _read_revision(path)
        except SyntaxError as error:
            place = f"{path}, line {error.lineno}"
            findings.append(Finding(place=place, problem=f"is not Python: {error.msg}"))
            continue
        except ValueError as error:
            findings.append(Finding(place=str(path), problem=str(error)))
            continue
        if revision is None:
            continue
        if earlier := revisions.get(revision.id):
            problem = f"revision {revision.id} stands in {earlier.path.name} too"
            findings.append(Finding(place=str(path), problem=problem))
        revisions[revision.id] = revision
    if findings:
        raise MigrationError(
            "Its revisions cannot be read.",
            findings=findings,
            hint="Nothing was run. Correct the files.",
        )
    history = History(revisions=revisions)
    # What follows from a finding is no finding of its own.
    findings = [*_gaps(history)] or [*_circles(history)] or [*_heads_findings(history)]
    if findings:
        raise MigrationError(
            "Its revisions do not form one history.",
            findings=findings,
            hint="Nothing was run. Correct the files; `alembic merge heads` joins two heads.",
        )
    return history


def version_folders(service: Service) -> list[Path]:
    """Return the folders a service's revision files lie in, as its Alembic configuration says.

    Raises:
        MigrationError: If the configuration has no script location.
    """
    options = _alembic_options(service)
    location = options.get("script_location")
    if not location:
        raise MigrationError(
            f"{service.alembic_config} names no script_location.",
            hint="Set script_location in its [alembic] section.",
        )
    folders = [
        _absolute(service, path, options) for path in _version_locations(options, str(location))
    ]
    if str(options.get("recursive_version_locations", "")).lower() != "true":
        return folders
    return [path for folder in folders for path in (folder, *_folders_below(folder))]


def _version_locations(options: Mapping[str, object], script_location: str) -> list[str]:
    stated = options.get("version_locations")
    if not stated:
        return [f"{script_location}/versions"]
    if isinstance(stated, list):
        return stated
    separator = options.get("path_separator") or options.get("version_path_separator")
    return _split(str(stated), str(separator or ""))


def _folders_below(folder: Path) -> list[Path]:
    found = (path for path in folder.rglob("*") if path.is_dir())
    return sorted(path for path in found if path.name != "__pycache__")


def _alembic_options(service: Service) -> dict[str, object]:
    """Read the options of alembic.ini, over those of a pyproject.toml beside it."""
    options: dict[str, object] = {}
    pyproject = service.directory / "pyproject.toml"
    here = {"here": str(service.alembic_config.parent)}
    try:
        if pyproject.is_file():
            tool = tomllib.loads(pyproject.read_text(encoding="utf-8")).get("tool", {})
            options |= {
                key: _fill_in(value, {"here": str(service.directory)})
                for key, value in tool.get("alembic", {}).items()
            }
        if service.alembic_config.suffix != ".toml":
            parser = configparser.ConfigParser(here)
            parser.read(service.alembic_config, encoding="utf-8")
            if parser.has_section("alembic"):
                for name in _OPTIONS:
                    if value := parser.get("alembic", name, fallback=""):
                        options[name] = value
    except (OSError, ValueError, configparser.Error) as error:
        raise MigrationError(
            f"The Alembic configuration of {service.directory} cannot be read: {error}"
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
    # `package:folder` is looked for like any import; what is installed is not looked for here.
    relative = f"{package.replace('.', '/')}/{rest}"
    stated = options.get("prepend_sys_path") or []
    paths = stated if isinstance(stated, list) else re.split(rf"[,\s{os.pathsep}]+", str(stated))
    found = (service.directory / path / relative for path in paths)
    # Nobody has made a revision yet where only the folder above is there.
    return next((path for path in found if path.parent.is_dir()), service.directory / relative)


def _split(text: str, separator: str) -> list[str]:
    known = {"os": os.pathsep, "space": " ", "newline": "\n", ":": ":", ";": ";"}
    # Without a stated separator Alembic splits at spaces and commas.
    parts = text.split(known[separator]) if separator in known else re.split(r"[,\s]+", text)
    return [part.strip() for part in parts if part.strip()]


def _read_revision(path: Path) -> Revision | None:
    # Bytes: a byte order mark and a coding line are Python's to understand.
    tree = ast.parse(path.read_bytes(), filename=str(path))
    values = dict(_literals(tree))
    identifier = values.get("revision")
    if identifier is None:
        return None
    if not isinstance(identifier, str):
        raise ValueError("its revision is no text")
    docstring = ast.get_docstring(tree) or ""
    return Revision(
        id=identifier,
        parents=_as_tuple(values.get("down_revision")),
        depends_on=_as_tuple(values.get("depends_on")),
        message=docstring.partition("\n")[0].strip(),
        path=path,
    )


def _literals(tree: ast.Module) -> Iterator[tuple[str, object]]:
    for node in tree.body:
        targets: list[ast.expr]
        if isinstance(node, ast.Assign):
            targets, value = node.targets, node.value
        elif isinstance(node, ast.AnnAssign) and node.value:
            targets, value = [node.target], node.value
        else:
            continue
        for target in targets:
            if isinstance(target, ast.Name) and target.id in _FIELDS:
                try:
                    yield target.id, ast.literal_eval(value)
                except ValueError:
                    raise ValueError(
                        f"its {target.id} is computed in line {node.lineno}; write it literally"
                    ) from None


def _as_tuple(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, str):
        return (value,)
    if isinstance(value, (tuple, list)) and all(isinstance(item, str) for item in value):
        return tuple(value)
    raise ValueError(f"{value!r} is no revision")


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
