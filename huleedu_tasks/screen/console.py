"""Results on standard output, progress and errors on standard error; the only user of rich.

On a terminal progress is a live table with one line per service; in a pipe it is plain lines,
and tables are not wrapped. Strings are never parsed as markup.
"""

import io
import json
import os
import shutil
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from huleedu_tasks.config.secret import redact_values
from huleedu_tasks.errors import ConfigurationError, ExitCode, HuleEduError
from huleedu_tasks.report import (
    SAFER,
    SCHEMA_VERSION,
    AppliedRevision,
    Discovery,
    Kind,
    Level,
    Listing,
    Outcome,
    PlannedRevision,
    Problem,
    Progress,
    Report,
    Result,
    State,
    Status,
)
from huleedu_tasks.screen.control_characters import visible, visible_json
from huleedu_tasks.screen.formats.forms import Form, Outputs
from huleedu_tasks.screen.tables import (
    INDENT,
    NOTHING,
    align_table,
    fit_table,
    hanging_lines,
    join_and_wrap,
    wrap,
)

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.table import Table
    from rich.text import Text

# Readable on a light and on a dark background, which yellow, cyan and plain green are not.
GOOD = "green4"
CAUTION = "dark_orange3"
BAD = "bold red"
STYLES: Mapping[str, str] = {
    Status.OK: GOOD,
    Status.SKIPPED: CAUTION,
    Status.FAILED: BAD,
    Status.ABORTED: CAUTION,
    State.BEHIND: CAUTION,
    State.EDITED: BAD,
    State.DRIFTED: BAD,
    State.STALE: BAD,
    State.MIGRATING: CAUTION,
    State.UNREACHABLE: CAUTION,
    State.UNKNOWN_REVISION: BAD,
}
DIFF_STYLES = {"-": BAD, "+": GOOD}
LEVEL_STYLES = {Level.ERROR: BAD, Level.WARNING: CAUTION, Level.INFO: "bold"}
HANDLED = {None: "", True: "Handled automatically. ", False: "Action required. "}
REFRESH_PER_SECOND = 10
# Wider than any line: output to a pipe is not wrapped.
PIPE_WIDTH = 100_000
# The width of a terminal that states none, in cells.
DEFAULT_WIDTH = 80
# The height of a console that prints no live display.
ANY_HEIGHT = 24
# The longest statement that is shown beside a danger, in characters.
SHOWN_SQL = 200
TICK = "\N{CHECK MARK}"
Redact = Callable[[str], str]


class Screen:
    """Prints the result, the progress and the errors of one command.

    Args:
        as_json: Whether the result is printed as one JSON document.
        redact: Masks every password in a string.
    """

    def __init__(self, *, as_json: bool = False, redact: Redact = str) -> None:
        self.as_json = as_json
        self.redact = redact
        self.outputs = Outputs()
        # The registry, relative to the root of the Git repository, as CI names files.
        self.registry = "services.json"
        # Facts that only the page shows, and that take time to find.
        self.page_facts: Callable[[Report], Mapping[str, str]] = lambda _: {}
        self._previewed: Mapping[Problem, Sequence[str]] = {}

    def show(self, result: Result) -> None:
        """Print a command's result."""
        if self.as_json:
            self._print_json(result.as_json())
        elif isinstance(result, (Report, Listing)) and self.outputs.printed is not Form.TERMINAL:
            print(self._rendered(self.outputs.printed, result), end="")
        elif isinstance(result, Report):
            self._show_report(result)
        elif isinstance(result, Discovery):
            self._show_discovery(result)
        elif isinstance(result, Listing) and result.shown:
            for line in hanging_lines(result.shown, _width(sys.stdout)):
                print(self._shown(line))
        elif isinstance(result, Listing):
            self._print_table(result.columns, [_cells(row, result.columns) for row in result.rows])
        else:
            print(self._shown(str(result)))

    def write(self, report: Report | Listing) -> None:
        """Write a report, or a listing with a page, to the files of `--out`.

        Raises:
            ConfigurationError: If a file cannot be written.
        """
        for form, path in self.outputs.files:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(self._rendered(form, report), encoding="utf-8")
            except OSError as error:
                raise ConfigurationError(
                    f"--out {path} could not be written: {error.strerror}.",
                    code="output-unwritable",
                    hint="Pass a file in a directory that you can write to.",
                ) from error

    def error(
        self, command: str, error: HuleEduError, *, exit_code: ExitCode | None = None
    ) -> None:
        """Print an error: cause, findings with their places, output, and hint.

        Args:
            command: The full name of the task.
            error: The error.
            exit_code: The exit code of the process; None for that of the error.
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
        self.announce([_with_code(f"{place}{error.message}", error.code)])
        for finding in error.findings:
            self.say(f"  - {_with_code(str(finding), finding.code)}")
        if error.output:
            self.say(error.output.rstrip())
        if error.hint:
            self.announce([f"What to do: {error.hint}"])

    def say(self, text: str) -> None:
        """Print a line on standard error, after flushing standard output."""
        sys.stdout.flush()
        print(self._shown(text), file=sys.stderr, flush=True)

    def announce(self, lines: Sequence[str]) -> None:
        """Print a sentence and its items on standard error, wrapped to a terminal's width."""
        width = _width(sys.stderr)
        sys.stdout.flush()
        for number, line in enumerate(lines):
            # Masked first: a password may contain a space.
            shown = wrap(self._shown(line), width, INDENT if number else "")
            print(shown, file=sys.stderr, flush=True)

    @contextmanager
    def progress(self, services: Sequence[str]) -> Iterator[Progress]:
        """Show progress during a `with` block.

        Args:
            services: The names of the services, in registry order.
        """
        console = _console(sys.stderr) if sys.stderr.isatty() else None
        if console is None or console.is_dumb_terminal:
            yield PlainProgress(self)
            return
        from rich.live import Live

        tick = TICK if (sys.stderr.encoding or "").lower().startswith("utf") else "ok"
        table = LiveProgress(services, self._shown, tick=tick)
        with Live(table, console=console, refresh_per_second=REFRESH_PER_SECOND, transient=True):
            yield table

    def _shown(self, text: str) -> str:
        """Return a string with passwords masked and control characters escaped."""
        return visible(self.redact(text))

    def _print_json(self, document: Mapping[str, object]) -> None:
        print(self._json_text(document))

    def _json_text(self, document: Mapping[str, object]) -> str:
        text = json.dumps(redact_values(document, self.redact), indent=2, ensure_ascii=False)
        return visible_json(text)

    def _rendered(self, form: Form, result: Report | Listing) -> str:
        if form is Form.JSON:
            return f"{self._json_text(result.as_json())}\n"
        report = result if isinstance(result, Report) else result.page
        # `parse_outputs` lets a listing have a page only.
        assert report is not None
        from huleedu_tasks.screen.formats.contents import contents_of
        from huleedu_tasks.screen.formats.rendering import RENDERED

        contents = contents_of(
            report, shown=self._shown, summary=_summary(report), registry=self.registry
        )
        if form is Form.HTML:
            from huleedu_tasks.screen.formats.page import render_page

            facts = self.page_facts(report)
            return render_page(report, contents, shown=self._shown, facts=facts)
        return RENDERED[form](contents)

    def preview(self, report: Report) -> None:
        """Print the plan of a command before it begins."""
        self._print_outcomes(report)
        self._previewed = report.problems

    def _show_report(self, report: Report) -> None:
        self._print_outcomes(report)
        for outcome in report.outcomes:
            if outcome.status is Status.FAILED and outcome.output:
                print(self._shown(f"\n--- {outcome.service}: its own output"), flush=True)
                print(self._shown(outcome.output.rstrip()))
        for hint in dict.fromkeys(o.hint for o in report.outcomes if o.hint):
            self.announce([f"What to do: {hint}"])
        for sentence in (*report.notes, _summary(report)):
            self.announce([sentence])

    def _show_discovery(self, found: Discovery) -> None:
        self.discovered(found)
        for sentence in found.closing:
            self.announce([sentence])

    def discovered(self, found: Discovery) -> None:
        """Print the registry that discovery found, its open questions and remarks."""
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
        # The names of the databases replace the column with the time.
        time_taken = () if report.places else ("time",)
        columns = ("service", "status", *report.columns, *time_taken, "detail")
        rows = [self._row(report, outcome) for outcome in report.outcomes]
        if len(rows) == 1:
            shown = [self._shown(cell) for cell in rows[0]]
            for line in _sentence(columns, shown, _width(sys.stdout)):
                print(line)
        else:
            self._print_table(columns, rows)
        self._print_problems(report.dangers)
        for outcome in report.outcomes:
            self._print_revisions(outcome, sql=report.sql)
            self._print_differences(outcome)
        new = {p: s for p, s in report.problems.items() if self._previewed.get(p) != s}
        self._print_problems(new)

    def _print_differences(self, outcome: Outcome) -> None:
        for difference in outcome.differences or ():
            print(self._shown(f"\n{outcome.service}: {difference}"))
            for line in difference.diff.splitlines():
                self._print(_diff_line(self._shown(f"    {line}")))

    def _print_revisions(self, outcome: Outcome, *, sql: bool) -> None:
        if not outcome.revisions or (outcome.planned and not sql):
            return
        facts = outcome.facts
        place = f"{_cell(facts.get('from'))} -> {_cell(facts.get('to'))}"
        width = _width(sys.stdout)
        print(self._shown(f"\n{outcome.service}: {place}"))
        for revision in outcome.revisions:
            if isinstance(revision, AppliedRevision):
                taken = "" if revision.seconds is None else f"{revision.seconds:.2f} s"
                ran = self._shown(f"{revision.revision}  {taken}  {revision.message}")
                print(_item(ran, width, INDENT))
            else:
                self._print_planned(revision, width)

    def _print_planned(self, revision: PlannedRevision, width: int | None) -> None:
        named = self._shown(f"{revision.revision}  {revision.message}  ({revision.path})")
        print(_item(named, width, INDENT))
        lines = (line for line in (revision.sql or "").splitlines() if line.strip())
        print("".join(self._shown(f"      {line}\n") for line in lines), end="")
        for problem in revision.problems:
            if problem.kind is Kind.STYLE:
                said = _with_code(problem.cause, problem.code)
                cause = self._shown(f"{problem.level}: {said}")
                print(_item(cause, width, INDENT * 2))
                print(wrap(self._shown(problem.remedy), width, INDENT * 3))

    def _row(self, report: Report, outcome: Outcome) -> list[str]:
        return [
            outcome.service,
            outcome.word,
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
        if not problems:
            return
        from rich.text import Text

        width = _width(sys.stdout)
        print()
        for problem, services in problems.items():
            said = _with_code(problem.cause, problem.code)
            cause = ": ".join(filter(None, (", ".join(services), said)))
            handled = "" if problem.level is Level.INFO else HANDLED[problem.handled]
            shown = wrap(self._shown(f"{problem.level}  {cause}"), width, "  ").strip()
            text = Text(shown)
            text.stylize(LEVEL_STYLES[problem.level], 0, len(problem.level))
            if (place := problem.place) and problem.path not in problem.cause:
                text.append(f"\n{wrap(self._shown(place), width, '  ')}", "dim")
            if problem.statement:
                statement = textwrap.shorten(problem.statement, SHOWN_SQL, placeholder=" ...")
                text.append(f"\n{wrap(self._shown(statement), width, '    ')}")
            introduced = "\n".join(filter(None, (problem.remedy, SAFER if problem.steps else "")))
            if remedy := f"{handled}{introduced}".strip():
                text.append(f"\n{wrap(self._shown(remedy), width, '  ')}", "dim")
            for number, step in enumerate(problem.steps, start=1):
                numbered = wrap(self._shown(step), width, "     ").lstrip()
                text.append(f"\n  {number}. {numbered}", "dim")
            self._print(text)

    def _print_table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        shown = [[self._shown(cell) for cell in row] for row in rows]
        width = _width(sys.stdout)
        if width is None:
            for line in align_table(columns, shown):
                print(line)
            return
        layout = fit_table(columns, shown, width)
        if layout.columns:
            self._print(_table(layout.columns, layout.rows))
        for line in layout.lines:
            self._print(_style(line))
        for line in layout.below:
            print(wrap(line, width, ""))

    def _print(self, what: "Table | Text") -> None:
        width = _width(sys.stdout)
        console = _console(sys.stdout if width else io.StringIO(), width or PIPE_WIDTH)
        console.print(what, soft_wrap=True)
        if isinstance(console.file, io.StringIO):
            for line in console.file.getvalue().splitlines():
                print(line.rstrip())


def _sentence(columns: Sequence[str], row: Sequence[str], width: int | None) -> Iterator[str]:
    """Yield the only row of a table as a sentence, and its detail below."""
    service, status, *facts, detail = row
    named = zip(columns[2:-1], facts, strict=True)
    said = [
        value if name == "time" else f"{name} {value}"
        for name, value in named
        if value not in ("", NOTHING)
    ]
    yield join_and_wrap([f"{service}: {status}", *said], width)
    if detail:
        yield wrap(detail, width, INDENT)


class PlainProgress:
    """Prints a line for each step, for a pipe, a log or a terminal without cursor movement."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen

    def step(self, service: str, text: str) -> None:
        """Print that a service has begun a step."""
        self._screen.say(f"{service}: {text}")

    def done(self, outcome: Outcome) -> None:
        """Print a failure immediately; the reason follows in the report."""
        if outcome.status in (Status.FAILED, Status.ABORTED):
            self._screen.say(f"{outcome.service}: {outcome.status}")


@dataclass(slots=True)
class _Line:
    """The progress of one service: its step, when it began, and when its last step ended."""

    text: str = "waiting"
    begun: float | None = None
    ended: float | None = None
    trouble: Status | None = None

    @property
    def is_running(self) -> bool:
        return self.begun is not None and self.ended is None

    @property
    def is_done(self) -> bool:
        return self.ended is not None

    @property
    def seconds(self) -> str:
        if self.begun is None:
            return ""
        return f"{(self.ended or time.monotonic()) - self.begun:.1f} s"


class LiveProgress:
    """A line for each service with its step and its time, and a footer with the totals.

    Args:
        services: The names of the services, in registry order.
        redact: Masks every password in a string.
        tick: Shown before a service whose step is done.
    """

    def __init__(self, services: Sequence[str], redact: Redact, *, tick: str = "ok") -> None:
        self._redact = redact
        self._tick = tick
        self._started = time.monotonic()
        self._lines = {service: _Line() for service in services}

    def step(self, service: str, text: str) -> None:
        """Show that a service has begun a step."""
        line = self._lines[service]
        line.text = text
        line.begun = line.begun or time.monotonic()
        line.ended = None

    def done(self, outcome: Outcome) -> None:
        """Show that the work of a service has ended, and why it failed."""
        line = self._lines[outcome.service]
        line.ended = time.monotonic()
        if line.begun is None:
            line.text = ""
        if not outcome:
            line.trouble = outcome.status
            line.text = outcome.detail

    def __rich_console__(
        self, console: "Console", options: "ConsoleOptions"
    ) -> "Iterator[RenderableType]":
        """Yield the lines that fit the height of the terminal, and the footer."""
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 2, 0, 0))
        for _ in range(3):
            table.add_column(no_wrap=True)
        # Only a column that may wrap is made narrower.
        table.add_column()
        room = max(console.size.height - 3, 1)
        hidden = len(self._lines) - room
        for service, line in self._most_telling(room):
            style = STYLES[line.trouble] if line.trouble else GOOD if line.is_done else "dim"
            text = self._redact(line.text).partition("\n")[0]
            table.add_row(
                Text(self._symbol(line), style=style),
                Text(service),
                line.seconds,
                Text(text, no_wrap=True, overflow="ellipsis"),
            )
        yield table
        if hidden > 0:
            yield Text(f"... and {hidden} more", style="dim")
        yield Text(self._footer(), style="dim", no_wrap=True, overflow="ellipsis")

    def _most_telling(self, room: int) -> list[tuple[str, _Line]]:
        """Return the lines that fit a low terminal: failures first, then running services."""
        lines = list(self._lines.items())
        if len(lines) <= room:
            return lines
        return sorted(lines, key=lambda item: (not item[1].trouble, not item[1].is_running))[:room]

    def _symbol(self, line: _Line) -> str:
        if line.trouble:
            return str(line.trouble)
        return self._tick if line.is_done else "..." if line.is_running else ""

    def _footer(self) -> str:
        """Return how many services a step runs for; a service whose step is done may wait."""
        running = [line.text for line in self._lines.values() if line.is_running]
        elapsed = f"{time.monotonic() - self._started:.1f} s"
        count = f"{len(running)} of {len(self._lines)} running"
        return ", ".join([count, elapsed, *dict.fromkeys(running)])


def _item(text: str, width: int | None, indent: str) -> str:
    """Return a string wrapped with a hanging indent."""
    return f"{indent}{wrap(text, width, f'{indent}{INDENT * 2}').lstrip()}"


def _console(file: TextIO, width: int | None = None) -> "Console":
    """Return a console.

    Args:
        width: Its width in cells; None for that of the terminal, also after a change.
    """
    from rich.console import Console

    # On a dumb terminal, rich uses a width only with a height.
    height = None if width is None else ANY_HEIGHT
    return Console(
        file=file, width=width, height=height, highlight=False, markup=False, soft_wrap=True
    )


def _width(file: TextIO) -> int | None:
    """Return the width of a terminal in cells; None for a pipe.

    rich assumes 80 for a dumb terminal.
    """
    if not file.isatty():
        return None
    own = (0, 0)
    with suppress(OSError):
        own = os.get_terminal_size(file.fileno())
    # COLUMNS takes precedence. Standard output may not be a terminal.
    return shutil.get_terminal_size(own).columns or DEFAULT_WIDTH


def _style(line: str) -> "Text":
    """Return a line with its status in color."""
    from rich.text import Text

    text = Text(line)
    for word, style in STYLES.items():
        text.highlight_regex(rf"(?<=  ){word}(?=  |$)", style)
    return text


def _diff_line(line: str) -> "Text":
    """Return a line of a diff in color."""
    from rich.text import Text

    return Text(line, DIFF_STYLES.get(line.lstrip()[:1], ""))


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        # Wrap, since a truncated revision is useless.
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
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
    """Return a message with its error code appended."""
    return f"{text} [{code}]" if code else text


def _why_pending(report: Report) -> str:
    states = {outcome.state for outcome in report.outcomes if outcome.state}
    if states == {State.EDITED}:
        return "applied revisions were edited"
    if State.DRIFTED in states:
        return "not every schema is that of its revisions"
    if State.STALE in states:
        return "not every schema file is up to date"
    if State.FINDINGS in states:
        return "the findings above must be corrected"
    return "not every database is at head"


def _summary(report: Report) -> str:
    words = Counter(outcome.word for outcome in report.outcomes)
    order = [*Status, *State]
    counts = [f"{words[word]} {word}" for word in sorted(words, key=order.index)]
    behind = f"; {_why_pending(report)}" if report.pending else ""
    if errors := sum(problem.level is Level.ERROR for problem in report.general or ()):
        behind = f"; {errors} ERROR outside the services"
    where = f"{report.environment}; {report.provider}: {report.provider_reason}"
    if report.instance:
        where += "; instance {name}: {reason}".format(**report.instance)
    counted = f"{', '.join(counts)}{behind}"
    return f"{report.command}: {counted} in {report.seconds:.2f} s ({where})"
