"""Reports the revisions in Alembic's script directory.

Loaded by its path in the process that runs Alembic, like `worker.py` beside it: the interpreter may
be the service's own, and older than ours.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from typing import Any

# Warnings of Alembic about contradictory files (alembic/script).
CONTRADICTIONS = ("is present more than once", "is not present")


class RevisionsReport:
    """Records the script directory that Alembic creates, and writes its revisions to a file.

    Args:
        file: The JSON file to write.
    """

    def __init__(self, file: str) -> None:
        from alembic.script import ScriptDirectory

        self._file = file
        self._directory: Any = None
        self._contradictions: list[str] = []
        self._keep_directory(ScriptDirectory)
        self._collect_warnings()

    def write(self) -> None:
        """Write every revision to the file, from the heads to the bases."""
        scripts = [] if self._directory is None else self._directory.walk_revisions()
        report = {
            "revisions": [self._facts(script) for script in scripts],
            "contradictions": self._contradictions,
        }
        partial = f"{self._file}.partial"
        with open(partial, "w", encoding="utf-8") as written:
            json.dump(report, written)
        os.rename(partial, self._file)

    def _facts(self, script: Any) -> dict[str, Any]:
        # A branch label or the beginning of an id stands for the revisions it resolves to.
        resolved = [self._directory.get_revisions(name) for name in _tuple(script.dependencies)]
        return {
            "id": str(script.revision),
            "parents": [str(name) for name in _tuple(script.down_revision)],
            "depends_on": [str(needed.revision) for revisions in resolved for needed in revisions],
            "message": str(script.doc or "").partition("\n")[0],
            "path": str(script.path),
        }

    def _keep_directory(self, kind: Any) -> None:
        plain = kind.from_config.__func__

        def from_config(cls: Any, config: Any) -> Any:
            self._directory = plain(cls, config)
            return self._directory

        kind.from_config = classmethod(from_config)

    def _collect_warnings(self) -> None:
        plain: Any = warnings.showwarning

        def collect(message: Any, *args: Any, **options: Any) -> None:
            if any(words in str(message) for words in CONTRADICTIONS):
                self._contradictions.append(str(message))
            plain(message, *args, **options)

        warnings.simplefilter("always", UserWarning)
        setattr(sys.modules["warnings"], "showwarning", collect)  # noqa: B010  # not a method here


def _tuple(value: Any) -> tuple[Any, ...]:
    if value is None:
        return ()
    return tuple(value) if isinstance(value, (tuple, list, set, frozenset)) else (value,)
