"""The verdict of a report: one sentence, and what to do next."""

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum

from huleedu_tasks.errors import ExitCode
from huleedu_tasks.report import DANGERS, Level, Report, State, Status
from huleedu_tasks.screen.formats.contents import Item

NEXT = "Next: "
CORRECT = "Correct the errors below, the first one first, and run the command again."
_MOST_HINTS = 3


class Tone(StrEnum):
    """How a verdict reads, beside its colour."""

    GOOD = "OK"
    CAUTION = "Review"
    BAD = "Stop"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a report comes to.

    Attributes:
        steps: What to do next; empty if nothing.
    """

    tone: Tone
    text: str
    steps: tuple[str, ...]


def verdict_of(report: Report, items: tuple[Item, ...]) -> Verdict:
    """Return the verdict of a report.

    Args:
        items: Its findings.
    """
    tone, text = _judgement(report, items)
    return Verdict(tone=tone, text=text, steps=_steps(report, items))


def _judgement(report: Report, items: tuple[Item, ...]) -> tuple[Tone, str]:
    everything = len(report.outcomes)
    errors = [item for item in items if item.level is Level.ERROR]
    if errors:
        services = {service for item in errors for service in item.services}
        where = f" in {len(services)} of {_counted(everything, 'service')}" if services else ""
        return Tone.BAD, f"{_counted(len(errors), 'error')}{where}"
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
    if any(outcome.status is Status.SKIPPED for outcome in report.outcomes):
        return Tone.CAUTION, "Nothing was changed"
    if not report.outcomes:
        return _of_runs(report)
    if all(outcome.revisions == () for outcome in report.outcomes):
        return Tone.GOOD, f"Nothing is pending in {_counted(everything, 'service')}"
    return Tone.GOOD, f"{_counted(everything, 'service')} without a finding"


def _of_runs(report: Report) -> tuple[Tone, str]:
    """Return the verdict of a page of earlier runs, which is that of the latest one."""
    if not report.past:
        return Tone.GOOD, "No run was recorded"
    latest = report.past[0]
    tone = Tone.GOOD if latest.outcome == ExitCode.DONE.name else Tone.BAD
    which = "" if len(report.past) == 1 else " (the latest one)"
    return tone, f"Run {latest.run} ended with {latest.outcome}{which}"


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
    named = ", ".join(f"{kinds[kind]} {kind}" for kind in DANGERS if kinds[kind])
    return Tone.CAUTION, f"{what}; {_counted(kinds.total(), 'danger')}: {named}"


def _steps(report: Report, items: tuple[Item, ...]) -> tuple[str, ...]:
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
