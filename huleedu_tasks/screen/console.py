"""Results on standard output, progress and errors on standard error; the only user of rich.

On a terminal progress is a live table with one line per service; in a pipe it is plain lines,
and a table is as wide as its words. Text from outside is never read as markup.
"""

import io
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from huleedu_tasks.errors import HuleEduError
from huleedu_tasks.report import (
    SCHEMA_VERSION,
    Listing,
    Outcome,
    Progress,
    Report,
    Result,
    Status,
)

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

STYLES = {
    Status.OK: "green",
    Status.SKIPPED: "yellow",
    Status.FAILED: "bold red",
    Status.ABORTED: "yellow",
}
REFRESH_PER_SECOND = 10
# Wider than any line: a pipe has no edge to wrap at.
PIPE_WIDTH = 100_000
Redact = Callable[[str], str]


class Screen:
    """Where one command shows what it does.

    Args:
        as_json: Whether the result is printed as one JSON document.
        redact: Masks every password in what is shown.
    """

    def __init__(self, *, as_json: bool = False, redact: Redact = str) -> None:
        self.as_json = as_json
        self.redact = redact

    def show(self, result: Result) -> None:
        """Print a command's result."""
        if self.as_json:
            self._print_json(result.as_json())
        elif isinstance(result, Report):
            self._show_report(result)
        elif isinstance(result, Listing):
            self._print_table(result.columns, [_cells(row, result.columns) for row in result.rows])
        else:
            print(self.redact(str(result)))

    def error(self, command: str, error: HuleEduError) -> None:
        """Print why a command did not come to a result: cause, places, and what to do."""
        if self.as_json:
            self._print_json(
                {
                    "schema_version": SCHEMA_VERSION,
                    "command": command,
                    "exit_code": int(error.exit_code),
                    "error": {
                        "message": error.message,
                        "findings": [
                            {"place": finding.place, "problem": finding.problem}
                            for finding in error.findings
                        ],
                        "hint": error.hint,
                    },
                }
            )
            return
        place = "" if error.message.startswith(command) else f"{command}: "
        self.say(f"{place}{error.message}")
        for finding in error.findings:
            self.say(f"  - {finding}")
        if error.output:
            self.say(error.output.rstrip())
        if error.hint:
            self.say(f"What to do: {error.hint}")

    def bug(self, text: str) -> None:
        """Print the traceback of an error nobody foresaw."""
        self.say(text.rstrip())

    def say(self, text: str) -> None:
        """Print a line on standard error."""
        print(self.redact(text), file=sys.stderr, flush=True)

    @contextmanager
    def progress(self, services: Sequence[str]) -> Iterator[Progress]:
        """Show progress while a `with` block runs."""
        if not sys.stderr.isatty():
            yield PlainProgress(self)
            return
        from rich.live import Live

        table = LiveProgress(services, self.redact)
        console = _console(sys.stderr)
        with Live(table, console=console, refresh_per_second=REFRESH_PER_SECOND, transient=True):
            yield table

    def _print_json(self, document: Mapping[str, object]) -> None:
        # Masked in the values, since masking the finished text could break a string in two.
        print(json.dumps(_redacted(document, self.redact), indent=2, ensure_ascii=False))

    def _show_report(self, report: Report) -> None:
        columns = ("service", "status", *report.columns, "time", "detail")
        self._print_table(columns, [self._row(report, outcome) for outcome in report.outcomes])
        for outcome in report.outcomes:
            if outcome.status is Status.FAILED and outcome.output:
                print(f"\n--- {outcome.service}: its own output", flush=True)
                print(self.redact(outcome.output.rstrip()))
        for hint in dict.fromkeys(o.hint for o in report.outcomes if o.hint):
            self.say(f"What to do: {hint}")
        self.say(_summary(report))

    def _row(self, report: Report, outcome: Outcome) -> list[str]:
        return [
            outcome.service,
            str(outcome.status),
            *_cells(outcome.facts, report.columns),
            f"{outcome.seconds:.2f} s",
            self.redact(outcome.detail),
        ]

    def _print_table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        terminal = sys.stdout.isatty()
        console = _console(sys.stdout if terminal else io.StringIO())
        console.print(_table(columns, [[self.redact(cell) for cell in row] for row in rows]))
        if isinstance(console.file, io.StringIO):
            for line in console.file.getvalue().splitlines():
                print(line.rstrip())


class PlainProgress:
    """A line for each step, for a pipe or a log."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen

    def step(self, service: str, text: str) -> None:
        """Say that a service has begun a step."""
        self._screen.say(f"{service}: {text}")

    def done(self, outcome: Outcome) -> None:
        """Say at once what went wrong; the report tells the rest."""
        if outcome.status in (Status.FAILED, Status.ABORTED):
            self._screen.say(f"{outcome.service}: {outcome.status} {outcome.detail}")


class LiveProgress:
    """A line for each service with its step and how long it has taken so far."""

    def __init__(self, services: Sequence[str], redact: Redact) -> None:
        self._redact = redact
        self._steps = dict.fromkeys(services, "waiting")
        self._begun: dict[str, float] = {}
        self._ended: dict[str, float] = {}
        self._status: dict[str, Status] = {}

    def step(self, service: str, text: str) -> None:
        """Show that a service has begun a step."""
        self._steps[service] = text
        self._begun.setdefault(service, time.monotonic())
        self._ended.pop(service, None)
        self._status.pop(service, None)

    def done(self, outcome: Outcome) -> None:
        """Show how a service's work ended."""
        self._ended[outcome.service] = time.monotonic()
        self._status[outcome.service] = outcome.status
        if not outcome:
            self._steps[outcome.service] = outcome.detail

    def __rich__(self) -> "RenderableType":
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 2))
        for service, step in self._steps.items():
            status = self._status.get(service)
            mark = Text(str(status) if status else "...", style=STYLES.get(status, "dim"))  # type: ignore[arg-type]  # None has no style
            seconds = self._seconds(service)
            table.add_row(mark, Text(service), Text(seconds), Text(self._redact(step)))
        return table

    def _seconds(self, service: str) -> str:
        if service not in self._begun:
            return ""
        return f"{self._ended.get(service, time.monotonic()) - self._begun[service]:.1f} s"


def _console(file: TextIO) -> "Console":
    from rich.console import Console

    width = None if file.isatty() else PIPE_WIDTH
    return Console(file=file, width=width, highlight=False, markup=False, soft_wrap=True)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    styles: Mapping[str, str] = {str(status): style for status, style in STYLES.items()}
    for row in rows:
        table.add_row(*(Text(cell, style=styles.get(cell, "")) for cell in row))
    return table


def _cells(facts: Mapping[str, object], columns: Sequence[str]) -> list[str]:
    return [_cell(facts.get(column)) for column in columns]


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)


def _summary(report: Report) -> str:
    counts = [
        f"{count} {status}"
        for status in Status
        if (count := sum(outcome.status is status for outcome in report.outcomes))
    ]
    return (
        f"{report.command}: {', '.join(counts)} in {report.seconds:.2f} s"
        f" ({report.environment}; {report.provider}: {report.provider_reason})"
    )


def _redacted(value: object, redact: Redact) -> object:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {key: _redacted(item, redact) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_redacted(item, redact) for item in value]
    return value
