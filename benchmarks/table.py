"""The results as Markdown."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.measure import ENOUGH_ROUNDS, Timing

HEADINGS = (
    "row",
    "measured",
    "median (range)",
    "beside it",
    "median (range)",
    "compared",
    "goal",
    "notes",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of the table.

    Attributes:
        row: The row it belongs to, as `--only` names it.
        measured: What was measured.
        timing: None if there is no figure; `notes` says why.
        beside: What was measured in turn with it, to compare.
        compared: The two, compared.
        goal: The bound of the comparison, and whether it was met; empty if there is none.
        failed: Whether it could not be measured.
    """

    row: str
    measured: str
    timing: Timing | None = None
    beside: str = ""
    beside_timing: Timing | None = None
    compared: str = ""
    goal: str = ""
    notes: str = ""
    failed: bool = False

    @property
    def cells(self) -> tuple[str, ...]:
        """The cells of the line, in the order of the headings."""
        return (
            self.row,
            self.measured,
            _shown(self.timing),
            self.beside,
            _shown(self.beside_timing),
            self.compared,
            self.goal,
            self.notes,
        )


def document(
    facts: Mapping[str, str],
    lines: Sequence[Line],
    *,
    rounds: int,
    not_selected: Sequence[str] = (),
) -> str:
    """Return a table of the machine, what has no figure, and a table of the results."""
    machine = markdown(("machine", ""), list(facts.items()))
    results = markdown(HEADINGS, [line.cells for line in lines])
    return f"{machine}\n{''.join(_warnings(lines, rounds, not_selected))}{results}"


def markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table as Markdown."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "".join(f"| {' | '.join(map(_cell, line))} |\n" for line in lines)


def duration(seconds: float) -> str:
    """Return a duration with a suitable unit."""
    return f"{seconds * 1000:.0f} ms" if abs(seconds) < 1 else f"{seconds:.2f} s"


def ratio(measured: Timing, beside: Timing) -> str:
    """Return the ratio of two durations, in words."""
    return times(measured.median / beside.median)


def times(factor: float) -> str:
    """Return a factor, in words."""
    return f"{factor:.2f} times"


def at_most(bound: float, factor: float) -> str:
    """Return a goal that a factor must not exceed, and whether it was met."""
    return f"at most {bound:g} times: {_met(factor <= bound)}"


def at_least(bound: float, factor: float) -> str:
    """Return a goal that a factor must reach, and whether it was met."""
    return f"at least {bound:g} times: {_met(factor >= bound)}"


def _met(is_met: bool) -> str:
    return "met" if is_met else "missed"


def _warnings(lines: Sequence[Line], rounds: int, not_selected: Sequence[str]) -> Iterator[str]:
    """Return a paragraph for each fact that keeps the table from being published as it is."""
    if rounds < ENOUGH_ROUNDS:
        yield f"**Only {rounds} rounds: fewer than {ENOUGH_ROUNDS} show that it works.**\n\n"
    if not_selected:
        yield f"**Not measured in this run:** {', '.join(not_selected)}\n\n"
    for line in lines:
        if line.failed or line.timing is None:
            state = "failed" if line.failed else "has no figure"
            yield f"**Row `{line.row}` {state}:** {_cell(line.notes) or 'no reason given'}\n\n"


def _shown(timing: Timing | None) -> str:
    if timing is None:
        return ""
    return f"{duration(timing.median)} ({duration(timing.fastest)} to {duration(timing.slowest)})"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
