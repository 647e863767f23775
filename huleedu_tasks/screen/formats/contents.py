"""What every form of a report has: the services, the findings, and one sentence."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from huleedu_tasks.report import Level, Problem, Report, Status


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One finding, without passwords.

    Attributes:
        services: The services that have it; empty if it belongs to none.
        code: The stable code; the name of the command if it has none.
        remedy: What to do about it, and the numbered steps, each on a line.
        path: The file, relative to the root of the repository; an empty string if there is none.
        line: The line in the file, from 1; None if it is not known.
    """

    services: tuple[str, ...]
    level: Level
    code: str
    cause: str
    remedy: str = ""
    statement: str = ""
    path: str = ""
    line: int | None = None

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
class Contents:
    """A report, as the forms need it.

    Attributes:
        columns: The headers of the table of services.
        rows: The cells of each service, of which the first is its name.
        items: The findings, most severe first.
        summary: The last sentence of the report.
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
        items=tuple(_shown_item(item, shown, directory) for item in _items(report)),
        summary=shown(summary),
        fallback=shown(registry),
        seconds=report.seconds,
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
    for problem, services in report.problems.items():
        yield _item(problem, tuple(services), report.command)


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
