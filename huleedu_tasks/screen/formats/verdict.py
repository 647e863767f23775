"""The verdict of a report: one sentence, and what to do next."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from huleedu_tasks.errors import ExitCode
from huleedu_tasks.report import DANGERS, Kind, Level, Outcome, Report, State, Status
from huleedu_tasks.screen.formats.items import Item

NEXT = "Next: "
CORRECT = "Correct the errors below, the first one first, and run the command again."
RUNNING = "RUNNING"
_MOST_HINTS = 3
# What one statement of a kind does, and several.
_DO = {
    Kind.DESTROYS: ("destroys data", "destroy data"),
    Kind.LOCKS: ("locks a table", "lock tables"),
    Kind.OTHER: ("of another kind", "of another kind"),
}


class Tone(StrEnum):
    """How a verdict reads, beside its colour."""

    GOOD = "OK"
    CAUTION = "Review"
    BAD = "Stop"
    FAILED = "Failed"
    ABORTED = "Aborted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a report comes to.

    Attributes:
        steps: What to do next; empty if nothing.
    """

    tone: Tone
    text: str
    steps: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.tone}: {self.text}"


def verdict_of(report: Report, items: Sequence[Item]) -> Verdict:
    """Return the verdict of a report.

    Args:
        items: Its findings.
    """
    tone, text = _judgement(report, items)
    return Verdict(tone=tone, text=text, steps=_steps(report, items))


def _judgement(report: Report, items: Sequence[Item]) -> tuple[Tone, str]:
    everything = len(report.outcomes)
    if errors := [item for item in items if item.level is Level.ERROR]:
        return _of_errors(report, errors)
    planned = [r for outcome in report.outcomes for r in outcome.planned]
    if planned:
        return _of_plan(report, len(planned))
    states = Counter(outcome.state for outcome in report.outcomes if outcome.state)
    if states:
        named = ", ".join(f"{states[state]} {state}" for state in State if states[state])
        return Tone.CAUTION, f"{named} of {_counted(everything, 'service')}"
    if warnings := [item for item in items if item.level is Level.WARNING]:
        found = f"{_counted(len(warnings), 'warning')} in {_counted(everything, 'service')}"
        return Tone.CAUTION, found
    if applied := {o.service: len(o.applied) for o in report.outcomes if o.applied}:
        revisions = _counted(sum(applied.values()), "revision")
        return Tone.GOOD, f"{revisions} applied in {_counted(len(applied), 'service')}"
    if any(outcome.status is Status.SKIPPED for outcome in report.outcomes):
        return Tone.CAUTION, "Nothing was changed"
    if not report.outcomes:
        return _of_runs(report)
    if all(outcome.revisions == () for outcome in report.outcomes):
        return Tone.GOOD, f"Nothing is pending in {_counted(everything, 'service')}"
    return Tone.GOOD, f"{_counted(everything, 'service')} without a finding"


def _of_errors(report: Report, errors: Sequence[Item]) -> tuple[Tone, str]:
    everything = _counted(len(report.outcomes), "service")
    services = {service for item in errors for service in item.services}
    unfinished = [outcome for outcome in report.outcomes if outcome.is_unfinished]
    if unfinished and services == {outcome.service for outcome in unfinished}:
        return _of_unfinished(unfinished, everything)
    states = {outcome.state for outcome in report.outcomes}
    if all(item.is_diff for item in errors):
        if State.STALE in states:
            files = _counted(len(report.outcomes), "schema file")
            return Tone.BAD, f"{len(services)} of {files} out of date"
        found = _counted(len(errors), "difference")
        return Tone.BAD, f"drift in {len(services)} of {everything}: {found}"
    where = f" in {len(services)} of {everything}" if services else ""
    return Tone.BAD, f"{_counted(len(errors), 'error')}{where}"


def _of_unfinished(unfinished: Sequence[Outcome], everything: str) -> tuple[Tone, str]:
    failed = sum(outcome.status is Status.FAILED for outcome in unfinished)
    aborted = len(unfinished) - failed
    if not failed:
        return Tone.ABORTED, f"{aborted} of {everything}"
    also = f"; {aborted} aborted" if aborted else ""
    return Tone.FAILED, f"{failed} of {everything}{also}"


def _of_runs(report: Report) -> tuple[Tone, str]:
    """Return the verdict of a page of earlier runs, which is that of the latest one."""
    if not report.past:
        return Tone.GOOD, "No run was recorded"
    latest = report.past[0]
    tones = {ExitCode.DONE.name: Tone.GOOD, RUNNING: Tone.CAUTION}
    which = "" if len(report.past) == 1 else f", the latest of {len(report.past)},"
    is_running = latest.outcome == RUNNING
    ended = "has not ended" if is_running else f"ended with {latest.outcome}"
    return tones.get(latest.outcome, Tone.FAILED), f"run {latest.run}{which} {ended}"


def _of_plan(report: Report, pending: int) -> tuple[Tone, str]:
    services = sum(bool(outcome.planned) for outcome in report.outcomes)
    kinds = Counter(
        problem.kind
        for outcome in report.outcomes
        for revision in outcome.planned
        for problem in revision.dangers
        if problem.is_danger
    )
    what = f"{_counted(pending, 'revision')} pending in {_counted(services, 'service')}"
    if not kinds:
        return Tone.GOOD, f"{what}; no statement is known to lock or destroy"
    named = ", ".join(
        f"{kinds[kind]} {_DO[kind][kinds[kind] > 1]}" for kind in DANGERS if kinds[kind]
    )
    return Tone.CAUTION, f"{what}; {_counted(kinds.total(), 'danger')}: {named}"


def _steps(report: Report, items: Sequence[Item]) -> tuple[str, ...]:
    stated = [note.removeprefix(NEXT) for note in report.notes if note.startswith(NEXT)]
    hints = [outcome.hint for outcome in report.outcomes if outcome.hint]
    errors = [item for item in items if item.level is Level.ERROR]
    if len(errors) > 1:
        corrections: list[str] = [CORRECT]
    else:
        corrections = [item.remedy for item in errors if item.remedy]
    return tuple(dict.fromkeys(stated or hints or corrections))[:_MOST_HINTS]


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"
