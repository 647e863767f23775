"""Plan the changes of one database of staging or production."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from huleedu_tasks.config.hosts import host_of
from huleedu_tasks.config.settings import Settings
from huleedu_tasks.errors import HuleEduError
from huleedu_tasks.migrations import squawk
from huleedu_tasks.migrations.hazards import find_hazards
from huleedu_tasks.migrations.results import Rendered
from huleedu_tasks.migrations.revisions import History, Revision
from huleedu_tasks.postgres.databases import parse_tag
from huleedu_tasks.postgres.inspection import (
    Identity,
    identify,
    read_relations,
)
from huleedu_tasks.prod.plan_file import PlanEntry, stale
from huleedu_tasks.prod.rendering import approval_of
from huleedu_tasks.prod.validate import Target, Validated, reach
from huleedu_tasks.report import Level, PlannedRevision, Problem
from huleedu_tasks.repository import shown

if TYPE_CHECKING:
    import asyncpg


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """The planned changes of one service's database.

    Attributes:
        pin: The plan entry.
        identity: The identity of the database, valid until its server is restarted.
        revisions: The pending revisions, in the order of the run; empty if none.
        tags: Whether the run sets the environment tag, which the database does not have yet.
    """

    pin: PlanEntry
    identity: Identity
    revisions: tuple[PlannedRevision, ...]
    tags: bool

    @property
    def host(self) -> str:
        """The host of its server, in lower case, without the port."""
        return host_of(self.pin.server).lower()

    @property
    def changes(self) -> bool:
        """Whether the run would change the database."""
        return bool(self.revisions) or self.tags

    @property
    def place(self) -> tuple[str, str, int]:
        """The address, name and OID of the database, unique within a run."""
        return self.pin.server, self.pin.database, self.pin.database_oid

    def as_json(self) -> dict[str, object]:
        """Return the entry of the plan file."""
        return {
            **self.pin.as_json(),
            "inputs": dict(self.pin.approval.inputs),
            "revisions": [revision.as_json() for revision in self.revisions],
        }

    def is_done(self, now: PlanEntry) -> bool:
        """Whether the database is already at exactly the planned revisions.

        Args:
            now: The current plan entry of the same service.
        """
        arrived = replace(self.pin, before=self.pin.after, files={})
        return bool(self.revisions) and not stale(arrived, now)


async def plan(validated: Validated, settings: Settings, root: Path) -> Planned:
    """Plan the pending revisions of a database, with their SQL and hazards; read-only.

    Args:
        validated: A target whose facts were read and whose revisions are in the files.
        root: The root of the monorepo.

    Raises:
        ServerError: If the database does not answer.
        HuleEduError: If the history or the revisions could not be read.
    """
    target, facts = validated.target, validated.facts
    assert facts is not None
    history, current = _known(validated)
    pin = _pin(target, facts.identity, current)
    pending = history.between(current, history.heads)
    tags = facts.may_tag and parse_tag(pin.database, facts.comment) is None
    if not pending:
        return Planned(pin=pin, identity=facts.identity, revisions=(), tags=tags)
    approval, rendered = validated.rendering or await approval_of(
        target, settings, root, identity=facts.identity, current=current
    )
    pin = replace(pin, approval=approval)
    async with reach(target) as opened:
        relations = await read_relations(opened)
    found = await _lint(rendered, pending, settings, root)
    revisions = [
        PlannedRevision(
            revision=revision.id,
            message=revision.message,
            path=shown(revision.path, root),
            sha256=pin.files[revision.id],
            sql=rendered.sql.get(revision.id),
            problems=(
                *_unrendered(revision, rendered),
                *find_hazards(rendered.sql.get(revision.id, ""), relations),
                *found.get(revision.id, ()),
            ),
        )
        for revision in pending
    ]
    return Planned(pin=pin, identity=facts.identity, revisions=tuple(revisions), tags=tags)


async def changes_of_work(
    planned: PlanEntry,
    now: Planned,
    target: Target,
    settings: Settings,
    root: Path,
    *,
    redact: Callable[[str], str],
) -> list[str]:
    """Return the differences of the SQL and its input files from the approved ones.

    Args:
        planned: The approved plan entry, for the same database at the same revisions.
        now: The current plan.
        redact: Masks every password in a string, as in the plan file.

    Returns:
        A sentence for each difference; empty list if there is no difference.

    Raises:
        Refused: If `env.py` connects to a different database.
    """
    approved, rendered = (entry.approval.masked(redact) for entry in (planned, now.pin))
    changes = [*approved.changed_inputs(rendered)]
    again = None
    if not changes and any(approved.changed_sql(rendered)):
        # Lines that differ in every rendering, such as one with the time, are ignored.
        repeated, _ = await approval_of(
            target, settings, root, identity=now.identity, current=now.pin.before
        )
        again = repeated.masked(redact)
    changes += approved.changed_sql(rendered, again)
    return [f"{planned.service}: {change}" for change in changes]


async def pin_now(target: Target, connection: "asyncpg.Connection") -> PlanEntry:
    """Return the current plan entry, from the database and the files as they are now.

    Args:
        target: The database of the service.
        connection: A connection to that database.

    Raises:
        HuleEduError: If the database or the files cannot be read.
    """
    now = replace(target, history=await target.read_history())
    identity = await identify(connection)
    return _pin(now, identity, await now.read_revisions(connection))


def _known(validated: Validated) -> tuple[History, tuple[str, ...]]:
    for known in (validated.target.history, validated.revisions):
        if isinstance(known, HuleEduError):
            raise known
    assert isinstance(validated.target.history, History)
    assert isinstance(validated.revisions, tuple)
    return validated.target.history, validated.revisions


def _pin(target: Target, identity: Identity, current: tuple[str, ...]) -> PlanEntry:
    number = identity.system_identifier
    history = target.history
    assert isinstance(history, History)
    return PlanEntry(
        service=target.service.name,
        server=target.url.address,
        database=target.url.database,
        database_oid=identity.database_oid,
        # A string, because JavaScript cannot represent a 64-bit integer exactly.
        system_identifier=None if number is None else str(number),
        before=current,
        after=history.heads,
        files={
            revision.id: hashlib.sha256(revision.path.read_bytes()).hexdigest()
            for revision in history.between(current, history.heads)
        },
    )


async def _lint(
    rendered: Rendered, pending: Sequence[Revision], settings: Settings, root: Path
) -> dict[str, tuple[Problem, ...]]:
    program = squawk.find_squawk()
    sql = {r.id: rendered.sql[r.id] for r in pending if r.id in rendered.sql}
    if not program or not sql:
        return {}
    return await squawk.lint(program, sql, root=root, environment=settings.tool_environment())


def _unrendered(revision: Revision, rendered: Rendered) -> Iterator[Problem]:
    if revision.id in rendered.sql:
        return
    reason = rendered.unrendered.get(revision.id) or rendered.problem or "Alembic rendered no SQL"
    yield Problem(
        level=Level.WARNING,
        cause=f"its SQL cannot be rendered before it runs, so its locks are not known ({reason})",
        remedy=f"Read {revision.path.name}: most likely it queries the database.",
    )
