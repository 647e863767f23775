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
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from huleedu_tasks.config.secret import redacted
from huleedu_tasks.errors import ExitCode, HuleEduError
from huleedu_tasks.report import (
    SCHEMA_VERSION,
    AppliedRevision,
    Discovery,
    Level,
    Listing,
    Outcome,
    PlannedRevision,
    Problem,
    Progress,
    Report,
    Result,
    Status,
)
from huleedu_tasks.screen.characters import visible, visible_json

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

STYLES = {
    Status.OK: "green",
    Status.SKIPPED: "yellow",
    Status.FAILED: "bold red",
    Status.ABORTED: "yellow",
}
LEVEL_STYLES = {Level.ERROR: "bold red", Level.WARNING: "yellow", Level.INFO: "cyan"}
COPES = {None: "", True: "Handled automatically. ", False: "Action required. "}
REFRESH_PER_SECOND = 10
# Wider than any line: a pipe has no edge to wrap at.
PIPE_WIDTH = 100_000
# What stands for a value that is not there.
NOTHING = "-"
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
        elif isinstance(result, Discovery):
            self._show_discovery(result)
        elif isinstance(result, Listing):
            self._print_table(result.columns, [_cells(row, result.columns) for row in result.rows])
        else:
            print(self._shown(str(result)))

    def error(
        self, command: str, error: HuleEduError, *, exit_code: ExitCode | None = None
    ) -> None:
        """Print why a command did not come to a result: cause, places, and what to do.

        Args:
            exit_code: What the process ends with, if it is not the error's own.
        """
        if self.as_json:
            self._print_json(
                {
                    "schema_version": SCHEMA_VERSION,
                    "command": command,
                    "exit_code": int(exit_code or error.exit_code),
                    "error": {
                        "message": error.message,
                        "code": error.code,
                        "findings": [
                            {"place": finding.place, "problem": finding.problem}
                            | ({"code": finding.code} if finding.code else {})
                            for finding in error.findings
                        ],
                        "hint": error.hint,
                        "output": error.output,
                    },
                }
            )
            return
        place = "" if error.message.startswith(command) else f"{command}: "
        self.say(_with_code(f"{place}{error.message}", error.code))
        for finding in error.findings:
            self.say(f"  - {_with_code(str(finding), finding.code)}")
        if error.output:
            self.say(error.output.rstrip())
        if error.hint:
            self.say(f"What to do: {error.hint}")

    def say(self, text: str) -> None:
        """Print a line on standard error, behind what is on standard output already."""
        sys.stdout.flush()
        print(self._shown(text), file=sys.stderr, flush=True)

    @contextmanager
    def progress(self, services: Sequence[str]) -> Iterator[Progress]:
        """Show progress while a `with` block runs."""
        if not sys.stderr.isatty():
            yield PlainProgress(self)
            return
        from rich.live import Live

        table = LiveProgress(services, self._shown)
        console = _console(sys.stderr)
        with Live(table, console=console, refresh_per_second=REFRESH_PER_SECOND, transient=True):
            yield table

    def _shown(self, text: str) -> str:
        """Return a text as it may stand on a terminal, whoever wrote it."""
        return visible(self.redact(text))

    def _print_json(self, document: Mapping[str, object]) -> None:
        text = json.dumps(redacted(document, self.redact), indent=2, ensure_ascii=False)
        print(visible_json(text))

    def preview(self, report: Report) -> None:
        """Print what is about to be done, before the result there will be of it."""
        self._print_outcomes(report)

    def _show_report(self, report: Report) -> None:
        self._print_outcomes(report)
        for outcome in report.outcomes:
            if outcome.status is Status.FAILED and outcome.output:
                print(self._shown(f"\n--- {outcome.service}: its own output"), flush=True)
                print(self._shown(outcome.output.rstrip()))
        for hint in dict.fromkeys(o.hint for o in report.outcomes if o.hint):
            self.say(f"What to do: {hint}")
        for note in report.notes:
            self.say(note)
        self.say(_summary(report))

    def _show_discovery(self, found: Discovery) -> None:
        self.discovered(found)
        for sentence in found.closing:
            self.say(sentence)

    def discovered(self, found: Discovery) -> None:
        """Print what was found, before it is known what becomes of it."""
        columns = ("service", "field", "value", "evidence")
        if found.fields:
            self._print_table(columns, [_cells(row, columns) for row in found.fields])
        if found.shown:
            print(f"\n{self._shown(found.shown.rstrip())}\n", flush=True)
        for row in found.unsettled:
            place = ": ".join(str(row[name]) for name in ("service", "field") if row[name])
            self.say(f"Not settled: {place}: {row['question']}")
        for remark in found.remarks:
            self.say(f"  - {remark}")

    def _print_outcomes(self, report: Report) -> None:
        self._print_places(report)
        # What the databases are called takes the room of how long each was asked.
        time_taken = () if report.places else ("time",)
        columns = ("service", "status", *report.columns, *time_taken, "detail")
        rows = [self._row(report, outcome) for outcome in report.outcomes]
        if len(rows) == 1:
            print(self._shown(_sentence(columns, rows[0])))
        else:
            self._print_table(columns, rows)
        for outcome in report.outcomes:
            self._print_revisions(outcome)
        self._print_problems(report.problems)

    def _print_revisions(self, outcome: Outcome) -> None:
        if not outcome.revisions:
            return
        facts = outcome.facts
        place = f"{_cell(facts.get('from'))} -> {_cell(facts.get('to'))}"
        print(self._shown(f"\n{outcome.service}: {place}"))
        for revision in outcome.revisions:
            if isinstance(revision, AppliedRevision):
                taken = "" if revision.seconds is None else f"{revision.seconds:.2f} s"
                print(self._shown(f"  {revision.revision}  {taken}  {revision.message}"))
            else:
                self._print_planned(revision)

    def _print_planned(self, revision: PlannedRevision) -> None:
        print(self._shown(f"  {revision.revision}  {revision.message}  ({revision.path})"))
        lines = (line for line in (revision.sql or "").splitlines() if line.strip())
        print("".join(self._shown(f"      {line}\n") for line in lines), end="")
        for problem in revision.problems:
            said = _with_code(problem.cause, problem.code)
            print(self._shown(f"    {problem.level}: {said}"))
            if problem.remedy:
                print(self._shown(f"      {problem.remedy}"))

    def _row(self, report: Report, outcome: Outcome) -> list[str]:
        return [
            outcome.service,
            str(outcome.status),
            *_cells(outcome.facts, report.columns),
            *(() if report.places else (f"{outcome.seconds:.2f} s",)),
            self._shown(_with_code(outcome.detail, outcome.code)),
        ]

    def _print_places(self, report: Report) -> None:
        if not report.places:
            return
        print(self._shown(f"{report.environment.upper()}: {report.provider_reason}"))
        if len(report.places) > 1:
            for server, services in report.places.items():
                print(self._shown(f"  {server}: {', '.join(services)}"))
        print()

    def _print_problems(self, problems: Mapping[Problem, Sequence[str]]) -> None:
        from rich.table import Table
        from rich.text import Text

        if not problems:
            return
        grid = Table.grid(padding=(0, 2, 0, 0))
        for problem, services in problems.items():
            said = _with_code(problem.cause, problem.code)
            cause = self._shown(": ".join(filter(None, (", ".join(services), said))))
            copes = "" if problem.level is Level.INFO else COPES[problem.copes]
            remedy = f"{copes}{problem.remedy}".strip()
            text = Text(cause).append(self._shown(f"\n{remedy}".rstrip()), style="dim")
            grid.add_row(Text(problem.level, style=LEVEL_STYLES[problem.level]), text)
        print()
        self._print(grid, soft_wrap=False)

    def _print_table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        self._print(_table(columns, [[self._shown(cell) for cell in row] for row in rows]))

    def _print(self, table: "Table", *, soft_wrap: bool = True) -> None:
        terminal = sys.stdout.isatty()
        console = _console(sys.stdout if terminal else io.StringIO())
        console.print(table, soft_wrap=soft_wrap)
        if isinstance(console.file, io.StringIO):
            for line in console.file.getvalue().splitlines():
                print(line.rstrip())


def _sentence(columns: Sequence[str], row: Sequence[str]) -> str:
    """Return a row as a line, and its detail as another: a table of one row is none."""
    service, status, *facts, detail = row
    named = zip(columns[2:-1], facts, strict=True)
    said = [
        value if name == "time" else f"{name} {value}"
        for name, value in named
        if value not in ("", NOTHING)
    ]
    line = ", ".join([f"{service}: {status}", *said])
    return f"{line}\n  {detail}" if detail else line


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
            said = _with_code(outcome.detail, outcome.code)
            self._screen.say(f"{outcome.service}: {outcome.status} {said}")


@dataclass(slots=True)
class _Line:
    """What is known of one service: its step, and when it began and last ended one."""

    text: str = "waiting"
    begun: float | None = None
    ended: float | None = None
    trouble: Status | None = None

    @property
    def mark(self) -> str:
        """A step that went well is no success yet: others may follow."""
        running = self.begun is not None and self.ended is None
        return str(self.trouble) if self.trouble else "..." if running else ""

    @property
    def seconds(self) -> str:
        if self.begun is None:
            return ""
        return f"{(self.ended or time.monotonic()) - self.begun:.1f} s"


class LiveProgress:
    """A line for each service with its step and how long it has taken so far."""

    def __init__(self, services: Sequence[str], redact: Redact) -> None:
        self._redact = redact
        self._lines = {service: _Line() for service in services}

    def step(self, service: str, text: str) -> None:
        """Show that a service has begun a step."""
        line = self._lines[service]
        line.text = text
        line.begun = line.begun or time.monotonic()
        line.ended = None

    def done(self, outcome: Outcome) -> None:
        """Show that a step has ended, and what went wrong with it."""
        line = self._lines[outcome.service]
        line.ended = time.monotonic()
        if not outcome:
            line.trouble = outcome.status
            line.text = outcome.detail

    def __rich__(self) -> "RenderableType":
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 2))
        for service, line in self._lines.items():
            mark = Text(line.mark, style=STYLES[line.trouble] if line.trouble else "dim")
            table.add_row(mark, Text(service), Text(line.seconds), Text(self._redact(line.text)))
        return table


def _console(file: TextIO) -> "Console":
    from rich.console import Console

    width = None if file.isatty() else PIPE_WIDTH
    return Console(file=file, width=width, highlight=False, markup=False, soft_wrap=True)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        # Nothing is cut: half a revision is worse than two lines.
        table.add_column(column, overflow="fold")
    styles: Mapping[str, str] = {str(status): style for status, style in STYLES.items()}
    for row in rows:
        table.add_row(*(Text(cell, style=styles.get(cell, "")) for cell in row))
    return table


def _cells(facts: Mapping[str, object], columns: Sequence[str]) -> list[str]:
    return [_cell(facts.get(column)) for column in columns]


def _cell(value: object) -> str:
    if value is None:
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)


def _with_code(text: str, code: str) -> str:
    """Return a message with the stable code of its kind behind it."""
    return f"{text} [{code}]" if code else text


def _summary(report: Report) -> str:
    counts = [
        f"{count} {status}"
        for status in Status
        if (count := sum(outcome.status is status for outcome in report.outcomes))
    ]
    behind = "; not every database is at head" if report.pending else ""
    if errors := sum(problem.level is Level.ERROR for problem in report.general or ()):
        behind = f"; {errors} ERROR that {'is' if errors == 1 else 'are'} no service's"
    return (
        f"{report.command}: {', '.join(counts)}{behind} in {report.seconds:.2f} s"
        f" ({report.environment}; {report.provider}: {report.provider_reason})"
    )
