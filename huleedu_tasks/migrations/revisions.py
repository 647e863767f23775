"""Reads a service's revisions from its files, without importing them.

This is a fast path, for files as Alembic writes them: finding the head takes milliseconds and no
import of Alembic. Alembic imports each file and uses the final values of its module. If a file or a
configuration may compute these values, Alembic must be asked (`alembic_history.py`).
"""

import ast
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from huleedu_tasks.config.registry import Service
from huleedu_tasks.errors import Finding, MigrationError
from huleedu_tasks.migrations.alembic_config import NotUnderstood, alembic_options, script_directory

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
        wanted = self.applied(after) - self.applied(before)
        parents = {name: self.needs(name) for name in self.revisions if name in wanted}
        order = TopologicalSorter(parents).static_order()
        return tuple(self.revisions[name] for name in order if name in parents)

    def applied(self, current: Sequence[str]) -> set[str]:
        """Return the current revisions and their ancestors; unknown revisions are ignored."""
        return self._ancestors([name for name in current if name in self.revisions])

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


def read_history(
    service: Service,
    *,
    may_branch: bool = False,
    read: Callable[[Path], Revision] | None = None,
) -> History:
    """Read a service's revisions.

    Args:
        may_branch: Whether the history may have several heads.
        read: Reads one file; None for `read_revision`.

    Raises:
        NotUnderstood: If Alembic must be asked instead.
        MigrationError: With all findings: a file that is not valid Python, a missing parent, a
            duplicate id, a cycle, several heads.
    """
    read = read or read_revision
    findings: list[Finding] = []
    revisions: list[Revision] = []
    for path in _revision_files(_plain_version_directory(service)):
        try:
            revisions.append(read(path))
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
    history = history_of(revisions, may_branch=may_branch)
    if unknown := [
        name for r in revisions for name in r.depends_on if name not in history.revisions
    ]:
        # It may be a branch label, or the beginning of an id.
        raise NotUnderstood(f"depends_on names {unknown[0]}, which is not a revision id")
    return history


def history_of(revisions: Sequence[Revision], *, may_branch: bool = False) -> History:
    """Return revisions as one history.

    Args:
        may_branch: Whether the history may have several heads.

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
    findings = findings or [*_gaps(history)] or [*_cycles(history)]
    if not may_branch:
        findings = findings or [*_heads_findings(history)]
    if findings:
        raise MigrationError(
            "The revisions do not form one history; nothing was run.",
            code="history-broken",
            findings=findings,
            hint="Correct the files; merge two heads with `invoke db.revision --service NAME "
            "--merge -m TEXT`.",
        )
    return history


def named(revisions: tuple[str, ...]) -> str:
    """Return revisions for messages; `no revision` if there are none."""
    return ", ".join(revisions) or "no revision"


def _plain_version_directory(service: Service) -> Path:
    """Return the only directory with revision files.

    Raises:
        NotUnderstood: If the configuration may name other directories or files.
        MigrationError: As `script_directory`.
    """
    options = alembic_options(service)
    directory = script_directory(service, options)
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


def read_revision(path: Path) -> Revision:
    """Read a revision file without importing it.

    Raises:
        SyntaxError: If it is not valid Python.
        NotUnderstood: If only an import can evaluate its values.
    """
    return parse_revision(path.read_bytes(), path)


def parse_revision(source: bytes, path: Path) -> Revision:
    """Return the revision that the source of a file defines.

    Args:
        source: The content of the file: Python evaluates the byte order mark and the coding line.
        path: The file, for the revision and for messages.

    Raises:
        SyntaxError: If it is not valid Python.
        NotUnderstood: If only an import can evaluate its values.
    """
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
