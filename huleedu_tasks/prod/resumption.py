"""How far earlier runs have carried out a plan, and what remains of it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import takewhile

from huleedu_tasks.migrations.edits import KEPT, AppliedFile, is_digest_of
from huleedu_tasks.migrations.revisions import History, named
from huleedu_tasks.prod.plan import Planned, pin_at
from huleedu_tasks.prod.plan_file import PlanEntry, stale
from huleedu_tasks.report import Fact

_RUN_TIME = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumption:
    """The part of a plan entry that was carried out before this run.

    Attributes:
        after: The planned revisions of the database.
        applied: The planned revisions that the database has, in the order of the plan.
        left: The other planned revisions, in the order of the plan; empty if none.
        runs: The runs that applied revisions, in order; empty if the database states none.
        unrecorded: The applied revisions of which the database does not state the run.
        unconfirmed: The last applied revisions, if runs have begun them and none has stated that
            it applied them or a later one; otherwise empty.
    """

    after: tuple[str, ...]
    applied: tuple[str, ...]
    left: tuple[str, ...]
    runs: tuple[str, ...]
    unrecorded: tuple[str, ...]
    unconfirmed: tuple[str, ...]

    @property
    def is_whole(self) -> bool:
        """Whether runs have carried out the whole entry, as the database states."""
        return not self.left and not self.unrecorded and not self.unconfirmed

    @property
    def facts(self) -> dict[str, Fact]:
        """The revisions and the runs that applied them, for a report."""
        return {"already_applied": list(self.applied), "applied_by": list(self.runs)}

    def __str__(self) -> str:
        """Return how much was applied, by which runs, and how much remains."""
        if self.left:
            count = len(self.applied) + len(self.left)
            done = f"{len(self.applied)} of {count} revisions already applied{self._by}"
            return f"{done}; {len(self.left)} {'remains' if len(self.left) == 1 else 'remain'}"
        if self.is_whole:
            return f"already applied{self._by}, nothing to do"
        return f"already at {named(self.after)}, applied{self._by}; nothing to do"

    @property
    def _by(self) -> str:
        """The runs with their times, as a phrase that begins with a space."""
        runs = [f"{run} at {_time_of(run)}" for run in self.runs]
        ways = [f"run {run}" for run in runs]
        ways += ["a run that is not recorded"] if self.unrecorded else []
        return f" by {' and '.join(ways)}" if ways else ""

    def as_json(self) -> dict[str, object]:
        """Return the fields of the record."""
        return {**self.facts, "left": list(self.left)}


def resumption_of(planned: PlanEntry, now: Planned) -> Resumption | None:
    """Return how far an entry was carried out.

    Args:
        planned: The entry of a plan file.
        now: The current plan of the same service.

    Returns:
        `None` if the database is not between the planned start and the planned target, or is at
        its start.
    """
    history, current = now.target.known_history, now.pin.before
    if not _is_on_path(history, planned, current):
        return None
    left = {revision.id for revision in history.between(current, planned.after)}
    applied = tuple(revision for revision in planned.files if revision not in left)
    noted = {name: now.applied[name] for name in applied if name in now.applied}
    runs = dict.fromkeys(file.by for file in noted.values() if _is_run(file.by))
    return Resumption(
        after=planned.after,
        applied=applied,
        left=tuple(revision for revision in planned.files if revision in left),
        runs=tuple(runs),
        # The tag has the newest revisions only.
        unrecorded=tuple(name for name in applied[-KEPT:] if name not in noted),
        unconfirmed=_unconfirmed(applied, noted),
    )


def changes_since_begun(planned: PlanEntry, now: Planned, found: Resumption) -> Iterator[str]:
    """Yield why the rest of an entry is not what was approved, a sentence each.

    Args:
        planned: The entry of a plan file.
        now: The current plan of the same service.
        found: How far the entry was carried out.
    """
    yield from stale(planned, pin_at(now, planned.before))
    for revision in found.applied:
        applied = now.applied.get(revision)
        if applied and not is_digest_of(applied.digest, planned.files[revision]):
            yield (
                f"{planned.service}: the file of revision {revision} was not the approved one "
                f"when run {applied.by} applied it"
            )
    if not found.left and found.unrecorded and now.is_tagged:
        yield (
            f"{planned.service}: is at {named(planned.after)} as planned, but no run of "
            f"prod.migrate has applied {', '.join(found.unrecorded)}: the database was stamped "
            "or migrated in another way"
        )
    elif not found.left and found.unconfirmed:
        yield (
            f"{planned.service}: is at {named(planned.after)} as planned, but run "
            f"{found.runs[-1]} has not recorded that it applied {', '.join(found.unconfirmed)}: "
            "it was killed or is still running, and the database may have been stamped since; "
            "`invoke prod.drift` compares its schema with its revisions"
        )


def _is_on_path(history: History, planned: PlanEntry, current: tuple[str, ...]) -> bool:
    if not set(current) <= set(history.revisions):
        return False
    before, now = history.applied(planned.before), history.applied(current)
    return before < now and now - before <= set(planned.files)


def _unconfirmed(applied: tuple[str, ...], noted: Mapping[str, AppliedFile]) -> tuple[str, ...]:
    last = takewhile(lambda name: name in noted and noted[name].is_begun, reversed(applied))
    return tuple(last)[::-1]


def _is_run(by: str) -> bool:
    return "T" in by


def _time_of(run: str) -> str:
    """Return the start of a run in UTC, which is the first part of its id."""
    try:
        start = datetime.strptime(run.partition("-")[0], _RUN_TIME).replace(tzinfo=UTC)
    except ValueError:
        return "an unknown time"
    return f"{start:%Y-%m-%dT%H:%M:%SZ}"
