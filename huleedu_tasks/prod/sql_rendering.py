"""Render the pending revisions as SQL, and record every file that the rendering read."""

import asyncio
import hashlib
import os
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from huleedu_tasks.config.settings import Settings
from huleedu_tasks.errors import MigrationError
from huleedu_tasks.migrations import runner
from huleedu_tasks.migrations.alembic_history import READ_ONLY
from huleedu_tasks.migrations.child.input_tracker import is_installed
from huleedu_tasks.migrations.observation import Observation
from huleedu_tasks.migrations.results import Rendered
from huleedu_tasks.postgres.inspection import Identity
from huleedu_tasks.process import scratch_directory
from huleedu_tasks.prod.approval import Approval
from huleedu_tasks.prod.target import Target
from huleedu_tasks.repository import VIRTUAL_ENVIRONMENT, is_file, repository_root

# This package is no input, like any other library: a change of it shows in the rendered SQL.
_PACKAGE = Path(__file__).parents[1]
_ENVIRONMENT_FILE = ".env"
_SOURCE = ".py"
# Written by pip; also in the repository after an editable installation.
_METADATA = (".egg-info", ".dist-info")


async def approval_of(
    target: Target,
    settings: Settings,
    root: Path,
    *,
    identity: Identity,
    current: tuple[str, ...],
) -> tuple[Approval, Rendered]:
    """Render the SQL of the pending revisions, and record the files that were read.

    Args:
        root: The root of the monorepo.
        identity: The identity of the database.
        current: The revisions that the database is at.

    Returns:
        The SQL with the digests of its input files, and the rendering itself.

    Raises:
        Refused: If `env.py` connects to a different database.
    """
    history = target.known_history
    pending = history.between(current, history.heads)
    with scratch_directory() as directory:
        session = Observation(
            events=directory / "events", settings=READ_ONLY, target=identity.place
        )
        alembic = target.histories.alembic(target.service, target.url)
        rendered = await runner.render(alembic, session, current)
    read = {*(rendered.used.files if rendered.used else ()), *(str(r.path) for r in pending)}
    if any(revision.id not in rendered.sql for revision in pending):
        read |= await _read_by_revisions(target, settings)
    approval = Approval(
        sql={revision.id: rendered.sql.get(revision.id) for revision in pending},
        inputs=await asyncio.to_thread(_digests, read, root),
    )
    return approval, rendered


def with_unread(now: Approval, approved: Approval, root: Path) -> Approval:
    """Return an approval with the digests of the approved files that its rendering did not read.

    The rendering of a part of a plan does not read what only the applied revisions have read.
    """
    unread = {name: _content(root / name) for name in approved.inputs if name not in now.inputs}
    digests = {
        name: hashlib.sha256(content).hexdigest()
        for name, content in unread.items()
        if content is not None
    }
    return replace(now, inputs={**digests, **now.inputs})


async def _read_by_revisions(target: Target, settings: Settings) -> set[str]:
    """Return the files that are read when all revisions are loaded; empty if loading fails.

    A rendering that ended early may not have loaded all of them.
    """
    try:
        found = await runner.report_revisions(
            target.service, target.url, settings, workers=target.histories.workers
        )
    except MigrationError:
        return set()
    return set(found.used.files if found.used else ())


def _digests(paths: set[str], root: Path) -> dict[str, str]:
    repository = repository_root(root) or root
    found = {}
    for path in sorted(paths):
        name = _name(path, root)
        inside = _is_inside(path, repository)
        # A file that was removed meanwhile, or a pipe, cannot be compared.
        if _is_input(path, name, inside=inside) and (content := _content(Path(path))) is not None:
            found[name if inside else path] = hashlib.sha256(content).hexdigest()
    return found


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes() if path.is_file() else None
    except OSError:
        return None


def _is_input(path: str, name: str, *, inside: bool) -> bool:
    """Whether a file belongs to the repository, and is not an `.env` file with secrets."""
    if is_installed(path) or Path(path).is_relative_to(_PACKAGE):
        return False
    if not inside:
        return path.endswith(_SOURCE)
    parts = Path(name).parts
    is_foreign = any(
        (part.startswith(".") and part != "..") or part.endswith(_METADATA) for part in parts
    )
    if is_foreign or parts[-1].endswith(_ENVIRONMENT_FILE):
        return False
    return not any(_is_virtual(str(directory)) for directory in Path(path).parents)


@lru_cache(maxsize=4096)
def _is_virtual(directory: str) -> bool:
    """Whether a directory is a virtual environment."""
    return is_file(Path(directory, VIRTUAL_ENVIRONMENT))


def _name(path: str, root: Path) -> str:
    """Return a path relative to the root; child processes report paths with resolved links."""
    for start in (str(root), os.path.realpath(root)):
        if Path(path).is_relative_to(start):
            return os.path.relpath(path, start)
    return os.path.relpath(path, os.path.realpath(root))


def _is_inside(path: str, repository: Path) -> bool:
    roots = (str(repository), os.path.realpath(repository))
    return any(Path(path).is_relative_to(start) for start in roots)
