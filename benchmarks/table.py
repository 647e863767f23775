"""The results as Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.measure import Timing

HEADINGS = ("row", "measured", "median (range)", "beside it", "median (range)", "compared", "notes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of the table.

    Attributes:
        row: The row it belongs to, as `--only` names it.
        measured: What was measured.
        beside: What was measured in turn with it, to compare.
        compared: The two, compared.
        failed: Whether it could not be measured.
    """

    row: str
    measured: str
    timing: Timing | None = None
    beside: str = ""
    beside_timing: Timing | None = None
    compared: str = ""
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
            self.notes,
        )


def document(facts: Mapping[str, str], lines: Iterable[Line]) -> str:
    """Return a table of the machine and one of the results."""
    machine = markdown(("machine", ""), list(facts.items()))
    return f"{machine}\n{markdown(HEADINGS, [line.cells for line in lines])}"


def markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table as Markdown."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "".join(f"| {' | '.join(map(_cell, line))} |\n" for line in lines)


def duration(seconds: float) -> str:
    """Return a duration with a suitable unit."""
    return f"{seconds * 1000:.0f} ms" if abs(seconds) < 1 else f"{seconds:.2f} s"


def ratio(measured: Timing, beside: Timing) -> str:
    """Return the ratio of two durations, in words."""
    return f"{measured.median / beside.median:.2f} times"


def difference(measured: Timing, beside: Timing) -> str:
    """Return the difference of two durations, in words."""
    return f"{(measured.median - beside.median) * 1000:+.0f} ms"


def _shown(timing: Timing | None) -> str:
    if timing is None:
        return ""
    return f"{duration(timing.median)} ({duration(timing.fastest)} to {duration(timing.slowest)})"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
