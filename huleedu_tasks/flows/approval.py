"""What was approved is what runs: the SQL of a plan, and the files that it was made from.

The SQL decides where Alembic renders it. The files decide as well: what a revision does may depend
on whether it is rendered or run. Of installed libraries only the SQL tells.
"""

import asyncio
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from huleedu_tasks.config.settings import Settings
from huleedu_tasks.errors import MigrationError
from huleedu_tasks.flows.validation import Target
from huleedu_tasks.migrations import runner
from huleedu_tasks.migrations.alembic_answers import READ_ONLY
from huleedu_tasks.migrations.revisions import History
from huleedu_tasks.migrations.runner import Observation, Rendered
from huleedu_tasks.migrations.tracking import is_installed
from huleedu_tasks.postgres.inspection import Identity
from huleedu_tasks.process import scratch_folder
from huleedu_tasks.survey.files import repository_root

# Ours; another version of it renders the same SQL or other SQL, as any library.
_PACKAGE = Path(__file__).parents[1]
_ENVIRONMENT_FILE = ".env"
_SOURCE = ".py"


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """What is approved of one service's plan beside its place and its revisions.

    Attributes:
        sql: The SQL of each revision in its order; None where that shows only when it runs.
        inputs: The SHA-256 of each file that was read for it, by its path from the root.
    """

    sql: Mapping[str, str | None] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)

    def changed_inputs(self, now: "Approval") -> Iterator[str]:
        """Say which files are no longer those that were approved."""
        for path in sorted({*self.inputs, *now.inputs}):
            if path not in now.inputs:
                yield f"{path} was read for the plan, and is not read now"
            elif path not in self.inputs:
                yield f"{path} is read now, and was not when the plan was made"
            elif self.inputs[path] != now.inputs[path]:
                yield f"{path} has been edited"

    def changed_sql(self, now: "Approval", again: "Approval | None" = None) -> Iterator[str]:
        """Say which revision's SQL is no longer that which was approved.

        Args:
            again: Rendered once more: what differs between the two is never the same, such as the
                time, and tells nothing.
        """
        for revision, sql in self.sql.items():
            if revision not in now.sql:
                continue
            rendered = now.sql[revision]
            if sql is None and rendered is not None:
                yield f"the SQL of revision {revision} can be rendered now, and could not before"
            elif sql is not None and rendered is None:
                yield f"the SQL of revision {revision} cannot be rendered any more"
            elif sql is None or rendered is None:
                continue
            elif line := _changed_line(sql, rendered, again.sql.get(revision) if again else None):
                yield f"the SQL of revision {revision} is not the approved one: {line}"

    def masked(self, redact: Callable[[str], str]) -> "Approval":
        """Return it as it stands in the plan's file, where every password is masked."""
        sql = {name: None if text is None else redact(text) for name, text in self.sql.items()}
        return replace(self, sql=sql)


async def approval_of(
    target: Target,
    settings: Settings,
    root: Path,
    *,
    identity: Identity,
    current: tuple[str, ...],
) -> tuple[Approval, Rendered]:
    """Render the SQL from the revisions that a database is at, and note what was read for it.

    Args:
        root: The root of the monorepo.

    Raises:
        Refused: If `env.py` connects to another database.
    """
    assert isinstance(target.history, History)
    pending = target.history.between(current, target.history.heads)
    with scratch_folder() as folder:
        session = Observation(events=folder / "events", settings=READ_ONLY, target=identity.place)
        rendered = await runner.render(target.service, target.url, settings, session, current)
    read = {*(rendered.used.files if rendered.used else ()), *(str(r.path) for r in pending)}
    if any(revision.id not in rendered.sql for revision in pending):
        read |= await _read_by_revisions(target, settings)
    approval = Approval(
        sql={revision.id: rendered.sql.get(revision.id) for revision in pending},
        inputs=await asyncio.to_thread(_digests, read, root),
    )
    return approval, rendered


async def _read_by_revisions(target: Target, settings: Settings) -> set[str]:
    """Return what is read where all revisions are loaded; a rendering may have ended before."""
    try:
        found = await runner.report_revisions(
            target.service, target.url, settings, workers=target.answers.workers
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
        # What is gone by now, or a pipe, is no input that could be compared.
        if _is_input(path, name, inside=inside) and (content := _content(Path(path))) is not None:
            found[name if inside else path] = hashlib.sha256(content).hexdigest()
    return found


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes() if path.is_file() else None
    except OSError:
        return None


def _is_input(path: str, name: str, *, inside: bool) -> bool:
    """Whether a file is one of the repository's, and holds no secrets."""
    if is_installed(path) or Path(path).is_relative_to(_PACKAGE):
        return False
    if not inside:
        return path.endswith(_SOURCE)
    parts = Path(name).parts
    is_hidden = any(part.startswith(".") and part != ".." for part in parts)
    return not is_hidden and not parts[-1].endswith(_ENVIRONMENT_FILE)


def _name(path: str, root: Path) -> str:
    """Return a path from the root; the working directory of a child is told without links."""
    for start in (str(root), os.path.realpath(root)):
        if Path(path).is_relative_to(start):
            return os.path.relpath(path, start)
    return os.path.relpath(path, os.path.realpath(root))


def _is_inside(path: str, repository: Path) -> bool:
    roots = (str(repository), os.path.realpath(repository))
    return any(Path(path).is_relative_to(start) for start in roots)


def _changed_line(planned: str, now: str, again: str | None) -> str:
    """Return the first line that differs, with what it was and is; empty if none does."""
    before, after = planned.splitlines(), now.splitlines()
    repeated = after if again is None else again.splitlines()
    if len(after) != len(repeated):
        return ""
    lines = range(max(len(before), len(after)))
    for number in lines:
        was, is_now = _line(before, number), _line(after, number)
        if was != is_now and is_now == _line(repeated, number):
            return f"line {number + 1} was {was!r}, and is {is_now!r} now"
    return ""


def _line(lines: list[str], number: int) -> str:
    return lines[number] if number < len(lines) else ""
