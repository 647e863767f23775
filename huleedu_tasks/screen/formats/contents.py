"""What every form of a report has: the services, the findings, and one sentence."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from huleedu_tasks.report import Difference, Level, Outcome, Problem, Report, Status

DRIFT = "schema-drift"


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One finding, without passwords.

    Attributes:
        services: The services that have it; empty if it belongs to none.
        code: The stable code; the name of the command if it has none.
        remedy: What to do about it, and the numbered steps, each on a line.
        path: The file, relative to the root of the repository; an empty string if there is none.
        line: The line in the file, from 1; None if it is not known.
        kind: What the statement of a planned revision does; an empty string for other findings.
    """

    services: tuple[str, ...]
    level: Level
    code: str
    cause: str
    remedy: str = ""
    statement: str = ""
    path: str = ""
    line: int | None = None
    kind: str = ""

    @property
    def is_diff(self) -> bool:
        """Whether the statement is a diff, and no SQL."""
        return self.code == DRIFT

    @property
    def text(self) -> str:
        """The services and the cause."""
        return ": ".join(filter(None, (", ".join(self.services), self.cause)))

    @property
    def fingerprint(self) -> str:
        """A digest that stays the same when lines move."""
        identity = "\0".join((*self.services, self.code, self.path, self.cause))
        return hashlib.sha256(identity.encode(errors="replace")).hexdigest()


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
        items: The findings, most severe first.
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
    return Contents(
        command=report.command,
        columns=columns,
        rows=tuple(tuple(shown(cell) for cell in row) for row in rows),
        items=tuple(
            _shown_item(item, shown, directory)
            for item in sorted(_items(report), key=lambda item: list(Level).index(item.level))
        ),
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


def _items(report: Report) -> Iterator[Item]:
    for outcome in report.outcomes:
        has_errors = any(problem.level is Level.ERROR for problem in outcome.problems or ())
        if outcome.status in (Status.FAILED, Status.ABORTED) and not has_errors:
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
        yield replace(item, statement=item.statement or diffs.get(problem, ""))
    for outcome in report.outcomes:
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
            )


def _planned(outcome: Outcome, command: str) -> Iterator[Item]:
    """Yield the problems of the revisions to apply."""
    for revision in outcome.planned:
        for problem in revision.problems:
            item = _item(problem, (outcome.service,), command)
            cause = f"{revision.revision}: {item.cause}"
            yield replace(item, cause=cause, path=item.path or revision.path)


def _item(problem: Problem, services: tuple[str, ...], command: str) -> Item:
    return Item(
        services=services,
        level=problem.level,
        code=problem.code or command,
        cause=problem.cause,
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
