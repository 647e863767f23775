"""Reports the revision file that Alembic writes, and what autogenerate compared.

Loaded by its path in the process that runs Alembic, like `worker.py` beside it: the interpreter may
be the service's own, and older than ours.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from typing import Any

# The method of Alembic's ScriptDirectory that writes a file.
WRITE = "_generate_template"


class NewRevision:
    """Observes one command of Alembic that writes a revision file.

    No file is written if autogenerate finds no difference, and none is overwritten: a
    `file_template` without the revision id names several revisions alike.

    Args:
        file: The JSON file that receives the report.
        before: Called with Alembic's configuration before a file is written.
    """

    def __init__(self, file: str, before: Callable[[Any], None]) -> None:
        from alembic.autogenerate.api import RevisionContext
        from alembic.script import ScriptDirectory

        self._file = file
        self._before = before
        self._facts: dict[str, Any] = {"path": "", "agrees": False, "has_metadata": True}
        self._watch_comparison(RevisionContext)
        self._watch_file(ScriptDirectory)

    def _watch_comparison(self, kind: Any) -> None:
        plain_run, plain_scripts = kind.run_autogenerate, kind.generate_scripts

        def run(context: Any, revision: Any, migration: Any) -> None:
            self._update(has_metadata=migration.opts.get("target_metadata") is not None)
            plain_run(context, revision, migration)

        def scripts(context: Any) -> Iterator[Any]:
            if context.command_args["autogenerate"] and _agree(context.generated_revisions):
                self._update(agrees=True)
                return
            yield from plain_scripts(context)

        kind.run_autogenerate, kind.generate_scripts = run, scripts

    def _watch_file(self, kind: Any) -> None:
        plain = getattr(kind, WRITE)

        def generate(directory: Any, template: Any, path: Any, **values: Any) -> None:
            place = os.path.abspath(path)
            if os.path.exists(place):
                raise FileExistsError(f"{place} exists already")
            # Before the file exists, so that an interrupted run can remove it.
            self._update(path=place)
            self._before(values["config"])
            plain(directory, template, path, **values)

        setattr(kind, WRITE, generate)

    def _update(self, **facts: object) -> None:
        self._facts.update(facts)
        partial = f"{self._file}.partial"
        with open(partial, "w", encoding="utf-8") as written:
            json.dump(self._facts, written)
        os.rename(partial, self._file)


def _agree(scripts: Any) -> bool:
    """Whether no revision has an operation; a hook of env.py may also have removed them all."""
    return all(ops.is_empty() for script in scripts for ops in script.upgrade_ops_list)
