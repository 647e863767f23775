"""What would run on a database that is not ours to lose."""

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
from huleedu_tasks.migrations.revisions import History, Revision
from huleedu_tasks.migrations.runner import Rendered
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
    """What a run would do to one service's database.

    Attributes:
        identity: Which database it is, until its server is started again.
        revisions: Those that would run, in their order.
        environment tags: Whether the database gets the environment tag of its environment, which it
        does not have yet.
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
        """Whether anything would be done."""
        return bool(self.revisions) or self.tags

    @property
    def place(self) -> tuple[str, str, int]:
        """What tells its database from every other one of the run."""
        return self.pin.server, self.pin.database, self.pin.database_oid

    def as_json(self) -> dict[str, object]:
        """Return what stands in the plan's file."""
        return {
            **self.pin.as_json(),
            "inputs": dict(self.pin.approval.inputs),
            "revisions": [each.as_json() for each in self.revisions],
        }

    def is_done(self, now: PlanEntry) -> bool:
        """Whether the database has come, meanwhile, to exactly where this plan leads."""
        arrived = replace(self.pin, before=self.pin.after, files={})
        return bool(self.revisions) and not stale(arrived, now)


async def plan(validated: Validated, settings: Settings, root: Path) -> Planned:
    """Work out what would run, from the revisions the database has; nothing is changed.

    Args:
        validated: A target whose database could be asked, at revisions that are known here.
        root: The root of the monorepo.

    Raises:
        ServerError: If the database does not answer.
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
    async with reach(target) as asked:
        relations = await read_relations(asked)
    found = await _lint(rendered, pending, settings, root)
    revisions = [
        PlannedRevision(
            revision=each.id,
            message=each.message,
            path=shown(each.path, root),
            sha256=pin.files[each.id],
            sql=rendered.sql.get(each.id),
            problems=(
                *_unrendered(each, rendered),
                *find_hazards(rendered.sql.get(each.id, ""), relations),
                *found.get(each.id, ()),
            ),
        )
        for each in pending
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
    """Return where the SQL that would run, or what it is made from, is not what was approved.

    Args:
        planned: What was approved, of the same database at the same revisions.
        now: What would run at this moment.
        redact: Masks every password, as in the plan's file.

    Raises:
        Refused: If `env.py` connects to another database.
    """
    approved, rendered = (each.approval.masked(redact) for each in (planned, now.pin))
    changes = [*approved.changed_inputs(rendered)]
    again = None
    if not changes and any(approved.changed_sql(rendered)):
        # The time, for one, is another one each time, and was not approved.
        repeated, _ = await approval_of(
            target, settings, root, identity=now.identity, current=now.pin.before
        )
        again = repeated.masked(redact)
    changes += approved.changed_sql(rendered, again)
    return [f"{planned.service}: {change}" for change in changes]


async def pin_now(target: Target, connection: "asyncpg.Connection") -> PlanEntry:
    """Return what a plan would hold fast at this moment, read anew from database and files.

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
        # Larger than what JavaScript takes for a whole number.
        system_identifier=None if number is None else str(number),
        before=current,
        after=history.heads,
        files={
            each.id: hashlib.sha256(each.path.read_bytes()).hexdigest()
            for each in history.between(current, history.heads)
        },
    )


async def _lint(
    rendered: Rendered, pending: Sequence[Revision], settings: Settings, root: Path
) -> dict[str, tuple[Problem, ...]]:
    program = squawk.find_squawk()
    sql = {each.id: rendered.sql[each.id] for each in pending if each.id in rendered.sql}
    if not program or not sql:
        return {}
    return await squawk.lint(program, sql, root=root, environment=settings.child_environment())


def _unrendered(revision: Revision, rendered: Rendered) -> Iterator[Problem]:
    if revision.id in rendered.sql:
        return
    reason = rendered.unrendered.get(revision.id) or rendered.problem or "Alembic wrote none"
    yield Problem(
        level=Level.WARNING,
        cause=f"its SQL shows only when it runs, so what it locks is not known ({reason})",
        remedy=f"Read {revision.path.name}: most likely it asks the database for data.",
    )
