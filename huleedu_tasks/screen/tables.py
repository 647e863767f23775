"""Fit tables to the width of a terminal, without truncating cells or breaking paths."""

import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest

Rows = tuple[tuple[str, ...], ...]

DETAIL = "detail"
# Columns with sentences, which are moved below the table.
DETAILS = (DETAIL, "missing")
TIME = "time"
# Shown for a value that is None.
NOTHING = "-"
GAP = "  "
INDENT = "  "
# Columns that are read together, and stay together.
KEPT = ("from", "to")
# Below this width, the terminal itself wraps lines.
NARROWEST = 20
# A revision that Alembic generated; revisions that a developer named are not shortened.
_GENERATED_REVISION = re.compile(r"[0-9a-f]{12,}")
_SHORTEST_REVISION = 6
# The length of the shortest value that is a sentence.
_SENTENCE = 20
_COMMAND = re.compile(r"`[^`]+`")
# A space at which a line does not end.
_NO_BREAK = "\N{NO-BREAK SPACE}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The layout of a table.

    Attributes:
        columns: The headers; empty if each row is printed as separate lines.
        rows: The cells, one tuple per row.
        lines: The rows as lines; empty if there are columns.
        below: Lines printed below the table, which are to be wrapped.
    """

    columns: tuple[str, ...] = ()
    rows: Rows = ()
    lines: tuple[str, ...] = ()
    below: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Table:
    columns: tuple[str, ...]
    rows: Rows
    below: tuple[str, ...] = field(default=())

    def without(self, dropped: set[str]) -> "_Table":
        kept = [index for index, name in enumerate(self.columns) if name not in dropped]
        return replace(
            self,
            columns=tuple(self.columns[index] for index in kept),
            rows=tuple(tuple(row[index] for index in kept) for row in self.rows),
        )


def fit_table(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> Layout:
    """Return the layout of a table that fits a terminal.

    These steps are applied until it fits: drop empty columns, shorten generated revisions to a
    unique length, move a column with one value in all rows to a line below the table, move the
    details to lines below the table, drop times, and print each row as separate lines.

    Args:
        columns: The headers.
        rows: The cells.
        width: The width of the terminal in cells.
    """
    table = _Table(tuple(columns), tuple(map(tuple, rows)))
    for step in (_drop_empty, _shorten_revisions, _drop_constant, _move_details, _drop_time):
        table = step(table)
        if _width(table) <= width:
            return Layout(columns=table.columns, rows=table.rows, below=table.below)
    return Layout(lines=tuple(_records(table, width)), below=table.below)


def align_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table for a pipe, which are not wrapped.

    A sentence that all rows have in one column other than the details is below the table.

    Args:
        columns: The headers.
        rows: The cells.
    """
    table = _Table(tuple(columns), tuple(map(tuple, rows)))
    table = _drop_constant(table, kept=(*KEPT, DETAIL), shortest=_SENTENCE)
    shown = (table.columns, *table.rows)
    widths = [
        max(map(cells, "\n".join(column).splitlines())) for column in zip(*shown, strict=True)
    ]
    for row in shown:
        for parts in zip_longest(*(cell.splitlines() for cell in row), fillvalue=""):
            filled = (
                f"{part}{' ' * (n - cells(part))}" for part, n in zip(parts, widths, strict=True)
            )
            yield GAP.join(filled).rstrip()
    yield from table.below


def wrap(text: str, width: int | None, indent: str) -> str:
    """Wrap each line of a string, with an indent.

    Words, paths and commands in backticks are never broken, so that they can be copied.

    Args:
        text: The string.
        width: The width of the terminal in cells; None for a pipe, where lines are not wrapped.
        indent: The prefix of each line.
    """
    if width is None or width < NARROWEST:
        return "\n".join(f"{indent}{line}".rstrip() for line in text.splitlines())
    return "\n".join(
        textwrap.fill(
            _COMMAND.sub(lambda command: command[0].replace(" ", _NO_BREAK), line),
            width,
            initial_indent=indent,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        ).replace(_NO_BREAK, " ")
        for line in text.splitlines()
    )


def join_and_wrap(parts: Sequence[str], width: int | None) -> str:
    """Join parts with commas, and wrap the line between them only.

    Args:
        parts: The parts.
        width: The width of the terminal in cells; None for a pipe, where the line is not wrapped.
    """
    return wrap(", ".join(part.replace(" ", _NO_BREAK) for part in parts), width, "").replace(
        _NO_BREAK, " "
    )


def hanging_lines(rows: Sequence[Sequence[str]], width: int | None) -> Iterator[str]:
    """Yield lines in which the last cell of a row is wrapped in its column.

    In a narrow terminal it is wrapped on lines of its own, below the others.

    Args:
        rows: The headers and the cells; each row has the same number of cells.
        width: The width of the terminal in cells; None for a pipe, where lines are not wrapped.
    """
    widths = [max(map(cells, column)) for column in list(zip(*rows, strict=True))[:-1]]
    begin = sum(widths) + len(GAP) * len(widths)
    beside = width is None or width - begin >= NARROWEST * 2
    for *others, last in rows:
        filled = (
            f"{cell}{' ' * (n - cells(cell))}" for cell, n in zip(others, widths, strict=True)
        )
        left = GAP.join(filled) + GAP
        inner = INDENT if last.startswith(" ") else ""
        indent = f"{' ' * begin if beside else INDENT}{inner}"
        text = wrap(last.strip(), width, indent)
        shown = f"{left}{text[begin:]}" if beside else f"{left.rstrip()}\n{text}"
        yield from (line.rstrip() for line in shown.splitlines() if line.strip())


def _drop_empty(table: _Table) -> _Table:
    return table.without({name for name, values in _columns(table) if not any(values)})


def _shorten_revisions(table: _Table) -> _Table:
    found = {
        revision
        for row in table.rows
        for cell in row
        for revision in cell.split(", ")
        if _GENERATED_REVISION.fullmatch(revision)
    }
    length = _unique_length(found)

    def short(cell: str) -> str:
        return ", ".join(part[:length] if part in found else part for part in cell.split(", "))

    return replace(table, rows=tuple(tuple(map(short, row)) for row in table.rows))


def _drop_constant(table: _Table, *, kept: Sequence[str] = KEPT, shortest: int = 0) -> _Table:
    """Replace columns with one value in all rows by a line; keep the first two.

    Args:
        kept: The names of other columns to keep.
        shortest: The length of the shortest value that is replaced.
    """
    constant = {
        name: values[0]
        for name, values in list(_columns(table))[2:]
        if len(table.rows) > 1 and len(set(values)) == 1 and name not in kept
        if len(values[0]) >= shortest
    }
    if not constant:
        return table
    said = ", ".join(
        value if name == DETAIL else f"{name} {value}"
        for name, value in constant.items()
        if value != NOTHING
    )
    below = (f"all {len(table.rows)}: {said}",) if said else ()
    return replace(table.without(set(constant)), below=(*table.below, *below))


def _move_details(table: _Table) -> _Table:
    name = next((column for column in table.columns if column in DETAILS), None)
    if name is None:
        return table
    index = table.columns.index(name)
    services: dict[str, list[str]] = {}
    for row in table.rows:
        services.setdefault(row[index], []).append(row[0])
    below = tuple(f"{', '.join(names)}: {said}" for said, names in services.items() if said)
    return replace(table.without({name}), below=(*table.below, *below))


def _drop_time(table: _Table) -> _Table:
    return table.without({TIME})


def _records(table: _Table, width: int) -> Iterator[str]:
    """Yield each row as lines: the first two cells, then the others with their names."""
    for row in table.rows:
        yield GAP.join(row[:2])
        named = [
            f"{name} {cell}"
            for name, cell in list(zip(table.columns, row, strict=True))[2:]
            if cell not in ("", NOTHING)
        ]
        yield from _packed(named, width)


def _packed(pairs: Sequence[str], width: int) -> Iterator[str]:
    """Yield lines, each with as many of the strings as fit the width."""
    line = ""
    for pair in pairs:
        longer = f"{line}{GAP}{pair}" if line else f"{INDENT}{pair}"
        if line and cells(longer) > width:
            yield line
            longer = f"{INDENT}{pair}"
        line = longer
    if line:
        yield line


def _columns(table: _Table) -> Iterator[tuple[str, list[str]]]:
    for index, name in enumerate(table.columns):
        yield name, [row[index] for row in table.rows]


def _width(table: _Table) -> int:
    widths = [max(map(cells, (name, *values))) for name, values in _columns(table)]
    return sum(widths) + len(GAP) * max(len(widths) - 1, 0)


def _unique_length(revisions: set[str]) -> int:
    for length in range(_SHORTEST_REVISION, 12):
        if len({revision[:length] for revision in revisions}) == len(revisions):
            return length
    return max(map(len, revisions), default=_SHORTEST_REVISION)


def cells(text: str) -> int:
    """Return the width of a string in terminal cells."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)
