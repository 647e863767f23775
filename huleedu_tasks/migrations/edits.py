"""Detects revision files that were edited after they were applied.

Two digests of each revision file are stored in the environment tag when the revision is applied:
of its bytes, which is fast to compare, and of its code, which comments and formatting do not
change. The revisions of earlier versions and of `alembic upgrade` have no digests, and are not
compared.
"""

import ast
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from huleedu_tasks.migrations.revisions import History, Revision
from huleedu_tasks.postgres.databases import EnvironmentTag
from huleedu_tasks.repository import shown

# The digests of the newest revisions of a service, so that the tag stays below 30 kB.
KEPT = 450
# Stands for a digest of code that this interpreter cannot parse.
UNPARSED = "-"
# Follows the id of a run that was about to apply a revision, until that run has ended.
_BEGUN = "?"
_LENGTH = 8
_DOCUMENTED = (ast.Module, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
# Fields without an effect on what a revision does. `u"x"` has the kind `u`.
_IGNORED = frozenset({"annotation", "returns", "kind", "type_comment", "type_ignores"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """An applied revision whose file was edited since.

    Attributes:
        applied: The day on which it was applied, as in `2026-11-27`.
    """

    revision: Revision
    applied: str

    def described(self, root: Path) -> str:
        """Return a clause with the revision, the day and the file, relative to the root."""
        return (
            f"revision {self.revision.id} was edited after it was applied on {self.applied}: "
            f"{shown(self.revision.path, root)}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AppliedFile:
    """What the environment tag states about an applied revision.

    Attributes:
        digest: The beginning of the SHA-256 of its file.
        by: The id of the run of `prod.migrate` that applied it, or else the day.
        is_begun: Whether the run was about to apply it, and has not stated that it did.
    """

    digest: str
    by: str
    is_begun: bool = False


def begun(run: str) -> str:
    """Return the note of a run that is about to apply revisions."""
    return f"{run}{_BEGUN}"


def applied_files(tag: EnvironmentTag | None, service: str) -> dict[str, AppliedFile]:
    """Return what the tag states about each revision of a service that a run has applied.

    A revision that a killed run was to apply is included, as begun.
    """
    stored = tag.revisions.get(service, {}) if tag else {}
    parsed = {revision: noted.split(" ") for revision, noted in stored.items()}
    return {
        revision: AppliedFile(
            digest=parts[0],
            by=parts[-1].removesuffix(_BEGUN),
            is_begun=parts[-1].endswith(_BEGUN),
        )
        for revision, parts in parsed.items()
        if len(parts) == 3
    }


def edits_since_applied(
    tag: EnvironmentTag | None, service: str, history: History, current: Sequence[str]
) -> tuple[Edit, ...]:
    """Return the applied revisions of a service whose files were edited since, parents first.

    Args:
        tag: The environment tag of the database; None if it has none.
        current: The current revisions of the database.
    """
    stored = tag.revisions.get(service, {}) if tag else {}
    if not stored:
        return ()
    found = {
        revision: stored[revision]
        for revision in history.applied(current)
        if revision in stored and _is_edited(history.revisions[revision].path, stored[revision])
    }
    return tuple(
        Edit(revision=revision, applied=_day_of(found[revision.id].rpartition(" ")[2]))
        for revision in (history.between((), current) if found else ())
        if revision.id in found
    )


def with_digests(
    tag: EnvironmentTag,
    service: str,
    history: History,
    before: Sequence[str],
    after: Sequence[str],
    *,
    run: str = "",
) -> EnvironmentTag:
    """Return an environment tag with the digests of the revisions that a run has applied.

    Those of revisions that are not applied any more are removed.

    Args:
        before: The revisions of the database before the run.
        after: The revisions of the database now.
        run: The id of the run, or `begun` of it; an empty string to note the current day.
    """
    by = run or f"{datetime.now(UTC):%Y-%m-%d}"
    stored = tag.revisions.get(service, {})
    applied = history.applied(after)
    digests = {revision: noted for revision, noted in stored.items() if revision in applied}
    for revision in history.between(before, after)[-KEPT:]:
        with suppress(OSError):
            digests[revision.id] = _digests(revision.path.read_bytes(), by)
    if len(digests) > KEPT:
        newest = [r.id for r in history.between((), after) if r.id in digests][-KEPT:]
        digests = {revision: digests[revision] for revision in newest}
    if digests == stored:
        return tag
    return replace(tag, revisions=_without_empty({**tag.revisions, service: digests}))


def code_digest(source: bytes) -> str:
    """Return a digest of Python code that is the same for every version of Python.

    Comments, formatting, docstrings, annotations and the order of imports do not change it.

    Returns:
        The digest; `UNPARSED` if this interpreter cannot parse the code.
    """
    try:
        return _digest(repr(_shape(ast.parse(source))).encode())
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return UNPARSED


def is_digest_of(digest: str, sha256: str) -> bool:
    """Whether a digest in the environment tag is the beginning of a SHA-256."""
    return digest == sha256[:_LENGTH]


def _digests(source: bytes, by: str) -> str:
    """Return the digests of a revision file and of its code, and the run or the day."""
    return f"{_digest(source)} {code_digest(source)} {by}"


def _day_of(by: str) -> str:
    """Return a day; the id of a run begins with its own, as in `20261127T`."""
    return f"{by[:4]}-{by[4:6]}-{by[6:8]}" if by[8:9] == "T" else by


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:_LENGTH]


def _is_edited(path: Path, noted: str) -> bool:
    """Whether the code of a revision file is not the one that was applied; False if unknown."""
    try:
        source = path.read_bytes()
        file, code, _ = noted.split(" ")
    except (OSError, ValueError):
        # The file was removed meanwhile, or a newer version wrote the digests.
        return False
    return file != _digest(source) and UNPARSED != code != code_digest(source) != UNPARSED


def _shape(node: object) -> object:
    """Return a syntax tree as nested tuples, without what has no effect.

    `ast.dump` depends on the version of Python.
    """
    if isinstance(node, list):
        return tuple(map(_shape, node))
    if not isinstance(node, ast.AST):
        return node
    fields = [
        (name, _shape(value))
        for name, value in ast.iter_fields(node)
        if name not in _IGNORED and name != "body" and value is not None and value != []
    ]
    body = getattr(node, "body", None)
    return (type(node).__name__, *fields, *([("body", _body(node, body))] if body else ()))


def _body(node: ast.AST, body: object) -> object:
    """Return the shapes of statements, without `pass` and a docstring, and with sorted imports."""
    if not isinstance(body, list):
        return _shape(body)
    if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
        body = body[1:]
    imports = sorted(name for statement in body for name in _imported_names(statement))
    others = [s for s in body if not isinstance(s, (ast.Import, ast.ImportFrom, ast.Pass))]
    return (*imports, *map(_shape, others))


def _imported_names(statement: ast.stmt) -> Iterator[str]:
    """Yield each name that an import binds, with its module."""
    if isinstance(statement, ast.Import):
        yield from (f"{name.name} {name.asname}" for name in statement.names)
    elif isinstance(statement, ast.ImportFrom):
        place = f"{'.' * statement.level}{statement.module or ''}"
        yield from (f"{place} {name.name} {name.asname}" for name in statement.names)


def _without_empty(digests: Mapping[str, Mapping[str, str]]) -> dict[str, Mapping[str, str]]:
    return {service: noted for service, noted in digests.items() if noted}
