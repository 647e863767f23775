"""Has Alembic write a revision file, in the style of the service's own configuration."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huleedu_tasks import process
from huleedu_tasks.errors import HuleEduError, MigrationError
from huleedu_tasks.migrations.alembic_failures import cause_in, failure_of
from huleedu_tasks.migrations.child_process import Alembic
from huleedu_tasks.migrations.observation import Observation

_TEMPLATE = "script.py.mako"
_NO_TEMPLATE = (
    "Put a script.py.mako beside env.py, from which Alembic writes revisions. `alembic init` "
    "writes one into a new directory."
)
_CORRECT = "Correct what the service's output names, and run the command again."


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What Alembic wrote.

    Attributes:
        path: The revision file; None if autogenerate found no difference.
        output: The output of Alembic and the service's code.
    """

    path: Path | None
    output: str


async def write_revision(
    alembic: Alembic, arguments: Sequence[str], *, session: Observation | None
) -> Written:
    """Run a command of Alembic that writes one revision file, and have Alembic import the file.

    An interrupted run removes the file again.

    Args:
        alembic: The Alembic of the service, with the database that `env.py` connects to.
        arguments: The command and its arguments.
        session: The instructions for `env.py`; None if Alembic does not run it.

    Raises:
        MigrationError: If `env.py` has no metadata, if the file cannot be imported, or if Alembic
            fails otherwise.
        Refused: If `env.py` connects to a different database.
    """
    with process.scratch_directory() as scratch:
        report = scratch / "revision"
        instructions = (
            session.instructions(alembic.url.reveal(), writing=report)
            if session
            else json.dumps({"writing": str(report)})
        )
        try:
            done = await alembic.run(list(arguments), instructions)
        except asyncio.CancelledError:
            if path := _path_in(report):
                path.unlink(missing_ok=True)
            raise
        path = _path_in(report)
        if done.returncode != 0 or (session and session.was_refused):
            raise _failure(alembic, done, session, report)
    return Written(path=path, output=done.output)


def not_importable(written: Written, reason: str) -> MigrationError:
    """Return the error of a revision that was written, and cannot be loaded or run."""
    return MigrationError(
        f"{written.path} was written, and Alembic cannot load it: {reason}",
        code="revision-not-importable",
        hint="Correct the file, or delete it. An import that every revision needs belongs in "
        "script.py.mako.",
        output=written.output,
    )


def _failure(
    alembic: Alembic, done: process.Completed, session: Observation | None, report: Path
) -> HuleEduError:
    """Return the error of a command that failed."""
    service, path = alembic.service, _path_in(report)
    if session and session.was_refused:
        return failure_of(service, alembic.url, done, session, _CORRECT)
    if not _facts_in(report).get("has_metadata", True):
        return MigrationError(
            f"{service.name}: env.py passes no metadata to Alembic (target_metadata is None), so "
            "there are no models to compare with.",
            code="metadata-missing",
            hint="Set target_metadata in env.py to the metadata of the models, such as "
            "Base.metadata, and import every module that defines a model. For a revision without "
            "autogenerate, pass `--empty`.",
            output=done.output,
        )
    if path and path.exists():
        return not_importable(Written(path=path, output=done.output), cause_in(done.output))
    cause = cause_in(done.output)
    return MigrationError(
        f"{service.name}: Alembic wrote no revision: {cause}",
        code="revision-not-written",
        hint=_NO_TEMPLATE if _TEMPLATE in cause else _CORRECT,
        output=done.output,
    )


def _path_in(report: Path) -> Path | None:
    path = _facts_in(report).get("path")
    return Path(str(path)) if path else None


def _facts_in(report: Path) -> dict[str, object]:
    facts: dict[str, object] = json.loads(report.read_bytes()) if report.exists() else {}
    return facts
