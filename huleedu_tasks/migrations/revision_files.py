"""Caches what revision files state, by their content: parsing takes most of a reading."""

import hashlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huleedu_tasks.migrations.cache_files import read_cache, write_cache
from huleedu_tasks.migrations.revisions import Revision, parse_revision

# The rules of `parse_revision`; files that were parsed by others are parsed again.
RULES = 1
_KIND = "revision-files.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class RevisionFiles:
    """What the revision files of one service stated when they were last read.

    Attributes:
        known: The stated values by the SHA-256 of the file.
        read: Those of the files that were read now.
    """

    known: Mapping[str, Any]
    read: dict[str, Any] = field(default_factory=dict)

    def revision(self, path: Path) -> Revision:
        """Read a revision file without importing it, as `revisions.read_revision` does.

        Raises:
            SyntaxError: If it is not valid Python.
            NotUnderstood: If only an import can evaluate its values.
        """
        source = path.read_bytes()
        digest = hashlib.sha256(source).hexdigest()
        found = _revision(self.known.get(digest), path) or parse_revision(source, path)
        self.read[digest] = [found.id, found.parents, found.depends_on, found.message]
        return found


@contextmanager
def revision_files(state: Path | None, service: str) -> Iterator[RevisionFiles]:
    """Read a service's revision files in a `with` block, at whose end new ones are cached.

    Args:
        state: The state directory; None for no cache.
        service: The name of the service.
    """
    # What is valid Python depends on its version.
    rules = [RULES, *sys.version_info[:2]]
    name = f"{service}.{_KIND}"
    document = read_cache(state, name)
    known = document.get("files") if document.get("rules") == rules else None
    files = RevisionFiles(known=known if isinstance(known, dict) else {})
    try:
        yield files
    finally:
        # A command that only reads does not create the state directory.
        if state and state.is_dir() and not files.read.keys() <= files.known.keys():
            write_cache(state, name, {"rules": rules, "files": files.read})


def _revision(stated: Any, path: Path) -> Revision | None:
    """Return a cached revision; None if it is missing, or was not written by this module."""
    match stated:
        case [str() as identifier, list() as parents, list() as depends_on, str() as message]:
            return Revision(
                id=identifier,
                parents=tuple(parents),
                depends_on=tuple(depends_on),
                message=message,
                path=path,
            )
    return None
