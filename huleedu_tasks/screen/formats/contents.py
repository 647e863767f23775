"""What every form of a report has: the services, the findings, and one sentence."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from huleedu_tasks.report import Difference, Kind, Level, Outcome, Problem, Report, State
from huleedu_tasks.screen.formats.items import Item
from huleedu_tasks.screen.formats.verdict import Verdict, verdict_of

DRIFT = "schema-drift"
STALE = "schema-file-stale"
# How a diff is read: of a schema, and of a file with a schema.
_LEGEND = "A line with - is what the revisions create, a line with + is what the database has."
_LEGEND_OF_FILE = "A line with - is in the file, a line with + is what the revisions create."


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A tested revision of a service; its findings have the same path."""

    service: str
    name: str
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """A report, as the forms need it.

    Attributes:
        columns: The headers of the table of services.
        rows: The cells of each service, of which the first is its name.
        quiet: The services about which there is nothing to say but that they are done.
        items: The findings, most severe first, and what destroys data before what locks.
        verdict: The verdict, with what to do next.
        notes: Further sentences about the whole run.
        legend: How the diffs are read; an empty string if there are none.
        summary: The last sentence of the report.
        cases: The tested revisions, with and without findings.
        fallback: The registry: the file for a finding that has none, in forms that demand one.
        seconds: How long the command took.
    """

    command: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    items: tuple[Item, ...]
    summary: str
    fallback: str
    verdict: Verdict
    quiet: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()
    legend: str = ""
    seconds: float = 0.0
    cases: tuple[Case, ...] = ()


def contents_of(
    report: Report, *, shown: Callable[[str], str], summary: str, registry: str
) -> Contents:
    """Return a report as the forms need it.

    Args:
        shown: Masks passwords, and escapes control characters.
        summary: The last sentence of the report.
        registry: The registry, relative to the root of the repository. Paths of findings are
            relative to its directory.
    """
    directory = PurePosixPath(registry).parent
    columns = ("service", "status", *report.columns, "detail")
    rows = tuple(
        (
            outcome.service,
            outcome.word,
            *(str(outcome.facts.get(column, "")) for column in report.columns),
            outcome.detail,
        )
        for outcome in report.outcomes
    )
    items = _numbered(
        _shown_item(item, shown, directory) for item in sorted(_items(report), key=_urgency)
    )
    verdict = verdict_of(report, items)
    is_stale = any(outcome.state is State.STALE for outcome in report.outcomes)
    return Contents(
        command=report.command,
        columns=columns,
        rows=tuple(tuple(shown(cell) for cell in row) for row in rows),
        quiet=frozenset(shown(o.service) for o in report.outcomes if o.is_quiet),
        items=items,
        verdict=replace(verdict, text=shown(verdict.text), steps=tuple(map(shown, verdict.steps))),
        notes=tuple(map(shown, report.notes)),
        legend=(_LEGEND_OF_FILE if is_stale else _LEGEND)
        if any(item.is_diff and item.statement for item in items)
        else "",
        summary=shown(summary),
        fallback=shown(registry),
        seconds=report.seconds,
        cases=tuple(
            Case(
                service=shown(outcome.service),
                name=shown(f"{tested.revision} {tested.message}".rstrip()),
                path=shown(str(directory / tested.path)),
            )
            for outcome in report.outcomes
            for tested in outcome.tested
        ),
    )


def _urgency(item: Item) -> tuple[int, int]:
    """Return the place of a finding: most severe first, what is destroyed before the others."""
    kinds = [*map(str, Kind), ""]
    return list(Level).index(item.level), kinds.index(item.kind)


def _numbered(items: Iterable[Item]) -> tuple[Item, ...]:
    """Return findings, of which no two have the same fingerprint."""
    seen: Counter[str] = Counter()
    numbered = []
    for item in items:
        numbered.append(replace(item, repeated=seen[item.fingerprint]))
        seen[item.fingerprint] += 1
    return tuple(numbered)


def _items(report: Report) -> Iterator[Item]:
    for outcome in report.outcomes:
        if outcome.is_unfinished:
            yield Item(
                services=(outcome.service,),
                level=Level.ERROR,
                code=outcome.code or report.command,
                cause=outcome.detail or outcome.word,
                remedy=outcome.hint,
            )
    diffs = {
        problem: difference.diff
        for outcome in report.outcomes
        for problem, difference in _drift_problems(outcome)
    }
    for problem, services in report.problems.items():
        item = _item(problem, tuple(services), report.command)
        diff = diffs.get(problem, "")
        yield replace(item, statement=item.statement or diff, is_diff=bool(diff))
    for outcome in report.outcomes:
        if outcome.state is State.STALE:
            yield _stale(outcome)
        else:
            yield from _unjudged_drift(outcome)
        yield from _planned(outcome, report.command)


def _drift_problems(outcome: Outcome) -> Iterator[tuple[Problem, Difference]]:
    """Yield the problems that report drift, each with the difference that it names."""
    for problem in outcome.problems or ():
        for difference in outcome.differences or ():
            if problem.code == DRIFT and str(difference) in problem.cause:
                yield problem, difference


def _unjudged_drift(outcome: Outcome) -> Iterator[Item]:
    """Yield the differences of a schema that no problem names."""
    named = [difference for _, difference in _drift_problems(outcome)]
    for difference in outcome.differences or ():
        if difference not in named:
            yield Item(
                services=(outcome.service,),
                level=Level.ERROR,
                code=DRIFT,
                cause=str(difference),
                remedy=outcome.hint,
                statement=difference.diff,
                is_diff=True,
            )


def _stale(outcome: Outcome) -> Item:
    """Return the finding about a schema file, with all that writing it would change."""
    differences = outcome.differences or ()
    changed = ", ".join(difference.label for difference in differences)
    return Item(
        services=(outcome.service,),
        level=Level.ERROR,
        code=STALE,
        cause=outcome.detail or f"the schema file is out of date: {changed}",
        remedy=outcome.hint,
        statement="\n".join(difference.diff for difference in differences),
        path=str(outcome.facts["file"]),
        is_diff=True,
    )


def _planned(outcome: Outcome, command: str) -> Iterator[Item]:
    """Yield the problems of the revisions to apply."""
    for revision in outcome.planned:
        for problem in revision.problems:
            item = _item(problem, (outcome.service,), command)
            cause = f"{revision.revision}: {item.cause}"
            yield replace(item, cause=cause, path=item.path or revision.path)


def _item(problem: Problem, services: tuple[str, ...], command: str) -> Item:
    # Every form shows the file beside the cause.
    cause = problem.cause.removeprefix(f"{problem.path}: ") if problem.path else problem.cause
    return Item(
        services=services,
        level=problem.level,
        code=problem.code or command,
        cause=cause,
        remedy=problem.advice,
        statement=problem.statement,
        path=problem.path,
        line=problem.line,
        kind=str(problem.kind or ""),
    )


def _shown_item(item: Item, shown: Callable[[str], str], directory: PurePosixPath) -> Item:
    return replace(
        item,
        services=tuple(map(shown, item.services)),
        code=shown(item.code),
        cause=shown(item.cause),
        remedy=shown(item.remedy),
        statement=shown(item.statement),
        path=shown(str(directory / item.path)) if item.path else "",
    )
