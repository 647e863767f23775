"""Tables that fit a terminal: no cell is lost, and no path or revision is broken."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from huleedu_tasks.screen.tables import (
    Layout,
    align_table,
    cells,
    fit_table,
    hanging_lines,
    join_and_wrap,
    wrap,
)

COLUMNS = ("service", "status", "current", "head", "reachable", "time", "detail")
PATH = "/srv/repository/services/orders_service/alembic/versions/0001_initial.py"
ROWS = [
    ("orders", "OK", "b1ad73e168ad", "b1ad73e168ad", "yes", "0.12 s", ""),
    ("payments", "FAILED", "-", "b1ad73ffffff", "yes", "0.30 s", f"{PATH} is broken"),
]
names = st.sampled_from(
    ["orders", "b1ad73e168ad", "no revision", PATH, "", "\N{CJK UNIFIED IDEOGRAPH-6F22}" * 9]
)


def text_of(layout: Layout) -> str:
    cells_shown = [cell for row in layout.rows for cell in row]
    return "\n".join([*layout.columns, *cells_shown, *layout.lines, *layout.below])


def widest(layout: Layout) -> int:
    columns = zip(layout.columns, *layout.rows, strict=True)
    return sum(max(map(cells, column)) + 2 for column in columns) - 2


def test_a_table_in_a_pipe_has_every_cell_at_its_column() -> None:
    rows = [("é漢", "one\ntwo", ""), ("b", "", "x")]
    assert list(align_table(("name", "detail", "end"), rows)) == [
        "name  detail  end",
        "é漢   one",
        "      two",
        "b             x",
    ]


def test_a_sentence_of_all_rows_is_said_once_in_a_pipe() -> None:
    columns = ("service", "status", "seeded", "last_reset", "detail")
    same = ("OK", "changed since", "rebuilt: no template yet", "is not at head, with pending ones")
    assert list(align_table(columns, [("a", *same), ("b", *same)])) == [
        "service  status  seeded         detail",
        "a        OK      changed since  is not at head, with pending ones",
        "b        OK      changed since  is not at head, with pending ones",
        "all 2: last_reset rebuilt: no template yet",
    ]


def test_on_a_wide_terminal_only_empty_columns_are_left_out() -> None:
    assert fit_table(COLUMNS, ROWS, 200) == Layout(columns=COLUMNS, rows=tuple(ROWS))
    without = tuple(row[:-1] for row in ROWS)
    silent = [(*row, "") for row in without]
    assert fit_table(COLUMNS, silent, 200) == Layout(columns=COLUMNS[:-1], rows=without)


def test_at_80_columns_revisions_are_short_and_details_are_below() -> None:
    layout = fit_table(COLUMNS, ROWS, 80)
    assert layout.columns == ("service", "status", "current", "head", "time")
    assert layout.rows == (
        ("orders", "OK", "b1ad73e", "b1ad73e", "0.12 s"),
        ("payments", "FAILED", "-", "b1ad73f", "0.30 s"),
    )
    assert layout.below == ("all 2: reachable yes", f"payments: {PATH} is broken")


def test_at_30_columns_each_row_becomes_lines() -> None:
    assert fit_table(COLUMNS, ROWS, 30).lines == (
        "orders  OK",
        "  current b1ad73e",
        "  head b1ad73e",
        "payments  FAILED",
        "  head b1ad73f",
    )


def test_a_column_without_values_is_left_out_of_a_narrow_table() -> None:
    rows = [("orders", "OK", "-", "b1ad73e168ad"), ("files", "OK", "-", "b1ad73ffffff")]
    layout = fit_table(("service", "status", "last_reset", "current"), rows, 30)
    assert layout.columns == ("service", "status", "current")
    assert layout.below == ()


def test_a_revision_that_a_developer_has_named_is_not_shortened() -> None:
    rows = [("orders", "OK", "0001_initial_schema_of_orders")] * 2
    assert "0001_initial_schema_of_orders" in text_of(fit_table(COLUMNS[:3], rows, 20))


@given(
    rows=st.lists(st.tuples(*[names] * len(COLUMNS)), max_size=4),
    width=st.integers(min_value=10, max_value=200),
)
def test_no_cell_is_lost_and_a_table_is_never_too_wide(
    rows: list[tuple[str, ...]], width: int
) -> None:
    layout = fit_table(COLUMNS, rows, width)
    assert not layout.columns or widest(layout) <= width
    shown = text_of(layout)
    for row in rows:
        for name, cell in zip(COLUMNS, row, strict=True):
            assert cell[:6] in shown or name == "time"
            assert cell != PATH or PATH in shown or name == "time"


@pytest.mark.parametrize("width", [20, 50, 80])
def test_wrapped_text_keeps_paths_unbroken(width: int) -> None:
    lines = wrap(f"The file {PATH} is broken, and nothing was done.", width, "  ").splitlines()
    assert any(PATH in line for line in lines)
    assert all(len(line) <= width or line.lstrip().startswith(PATH) for line in lines)


def test_text_in_a_pipe_is_not_wrapped() -> None:
    assert wrap("word " * 60, None, "  ") == f"  {'word ' * 60}".rstrip()


EVENTS = (("time", "service", "event"), ("21:54", "orders", "the lock was taken by this run"))


def test_the_last_cell_is_wrapped_in_its_column() -> None:
    long = (*EVENTS, ("21:55", "orders", "one two three four five six seven eight nine ten"))
    assert list(hanging_lines(long, 56)) == [
        "time   service  event",
        "21:54  orders   the lock was taken by this run",
        "21:55  orders   one two three four five six seven eight",
        "                nine ten",
    ]


def test_services_with_the_same_detail_share_a_line() -> None:
    rows = [("orders", "OK", "as before"), ("nlp", "FAILED", PATH), ("files", "OK", "as before")]
    layout = fit_table(("service", "status", "detail"), rows, 40)
    assert layout.below == ("orders, files: as before", f"nlp: {PATH}")


def test_commands_in_backticks_and_facts_are_not_broken() -> None:
    assert wrap("Run `invoke db.reset --service nlp` now.", 30, "") == (
        "Run\n`invoke db.reset --service nlp`\nnow."
    )
    assert join_and_wrap(["nlp: OK", "seeded yes", "last_reset copied"], 30) == (
        "nlp: OK, seeded yes,\nlast_reset copied"
    )


def test_in_a_narrow_terminal_the_last_cell_is_below_the_others() -> None:
    assert list(hanging_lines(EVENTS, 30)) == [
        "time   service",
        "  event",
        "21:54  orders",
        "  the lock was taken by this",
        "  run",
    ]


def test_the_last_cell_is_not_wrapped_in_a_pipe() -> None:
    assert list(hanging_lines([*EVENTS, ("", "orders", "  " + "word " * 60)], None))[2] == (
        f"       orders     {'word ' * 60}".rstrip()
    )


def test_from_and_to_stay_columns_if_all_rows_have_the_same() -> None:
    columns = ("service", "status", "from", "to", "pending", "detail")
    rows = [(name, "OK", "a1", "b2", "1", "x" * 60) for name in ("orders", "payments")]
    layout = fit_table(columns, rows, 60)
    assert layout.columns == ("service", "status", "from", "to")
    assert layout.below == (f"all 2: pending 1, {'x' * 60}",)
