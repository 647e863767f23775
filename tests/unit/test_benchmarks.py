"""The arguments, arithmetic and tables of the benchmarks; nothing is measured here."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import parse
from benchmarks.bare import transactions
from benchmarks.drift import OURS, Judged
from benchmarks.drift import table as table_of_drift
from benchmarks.measure import ENOUGH_ROUNDS, Side, Timing, costs_in_turn, in_turn
from benchmarks.publishing import publish
from benchmarks.rows import ROWS, Group
from benchmarks.table import (
    HEADINGS,
    Line,
    at_least,
    at_most,
    document,
    duration,
    markdown,
    ratio,
)
from tests.support.documents import code, page, rows
from tests.support.drift_corpus import MUTATIONS


def timing(median: float) -> Timing:
    """Return a timing without variation."""
    return Timing(median=median, fastest=median, slowest=median)


# Arguments


def test_without_arguments_every_row_is_measured_often_enough() -> None:
    wanted = parse([])
    assert wanted.rows == tuple(ROWS)
    assert wanted.rounds == ENOUGH_ROUNDS == 7
    assert wanted.markdown is None


def test_selected_rows_are_in_the_order_of_the_table() -> None:
    assert parse(["--only", "many", "cold", "warm"]).rows == ("warm", "cold", "many")


def test_a_group_selects_its_rows() -> None:
    assert parse(["--only", "goals"]).rows == tuple(
        name for name, row in ROWS.items() if row.group is Group.GOALS
    )
    assert parse(["--only", "revision", "peers"]).rows[-1] == "revision"


def test_rounds_and_a_file_can_be_passed() -> None:
    wanted = parse(["--rounds", "9", "--markdown", "tables.md"])
    assert wanted.rounds == 9
    assert wanted.markdown == Path("tables.md")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--only", "lukewarm"], "lukewarm"),
        (["--rounds", "0"], "0 rounds measure nothing"),
        (["--rounds", "many"], "many"),
    ],
)
def test_invalid_arguments_are_refused(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refused:
        parse(arguments)
    assert refused.value.code == 2
    assert complaint in capsys.readouterr().err


# Arithmetic


def test_one_outlier_does_not_change_the_median() -> None:
    assert Timing.of([0.3, 9.0, 0.1, 0.2, 0.4]) == Timing(median=0.3, fastest=0.1, slowest=9.0)
    assert Timing.of([1.0, 2.0]).median == 1.5


def test_consecutive_steps_are_added() -> None:
    parts = [
        Timing(median=1.0, fastest=0.5, slowest=2.0),
        Timing(median=2.0, fastest=1.5, slowest=4.0),
    ]
    assert Timing.total(parts) == Timing(median=3.0, fastest=2.0, slowest=6.0)


def test_two_times_are_compared_by_their_medians() -> None:
    assert ratio(timing(3.0), timing(2.0)) == "1.50 times"


def test_a_goal_is_met_or_missed() -> None:
    assert at_most(2.2, 2.2) == "at most 2.2 times: met"
    assert at_most(2.2, 2.21) == "at most 2.2 times: missed"
    assert at_least(25.0, 25.0) == "at least 25 times: met"
    assert at_least(25.0, 24.9) == "at least 25 times: missed"


def test_the_processor_time_of_children_and_servers_is_measured() -> None:
    servers = iter([1.0, 3.0])
    (cost,) = costs_in_turn(
        1,
        Side(
            run=lambda: subprocess.run([sys.executable, "-c", "sum(range(10**6))"], check=True),
            elsewhere=lambda: next(servers),
        ),
        warm_up=False,
    )
    assert cost.processor.median > 2.0
    assert cost.wall.median > 0


def test_sides_alternate_and_the_warm_up_does_not_count() -> None:
    done: list[str] = []
    sides = [
        Side(run=lambda: done.append("run a"), prepare=lambda: done.append("prepare a")),
        Side(run=lambda: done.append("run b")),
    ]
    timings = in_turn(2, *sides)
    assert done == ["prepare a", "run a", "run b"] * 3
    assert len(timings) == len(sides)
    assert all(0 <= timing.fastest <= timing.median <= timing.slowest for timing in timings)


def test_without_a_warm_up_there_is_no_additional_round() -> None:
    done: list[str] = []
    in_turn(2, Side(run=lambda: done.append("run")), warm_up=False)
    assert done == ["run", "run"]


# The migrations as SQL


def test_a_statement_between_transactions_is_sent_separately() -> None:
    sql = (
        "BEGIN;\n\nCREATE TABLE a ();\n\nCREATE TABLE b ();\n\nCOMMIT;\n\n"
        "DROP INDEX CONCURRENTLY i;\n\nCREATE INDEX CONCURRENTLY i ON a (x);\n\n"
        "BEGIN;\n\nDROP TABLE b;\n\nCOMMIT;\n\n"
    )
    assert [part.strip() for part in transactions(sql)] == [
        "BEGIN;\n\nCREATE TABLE a ();\n\nCREATE TABLE b ();\n\nCOMMIT;",
        "DROP INDEX CONCURRENTLY i",
        "CREATE INDEX CONCURRENTLY i ON a (x)",
        "BEGIN;\n\nDROP TABLE b;\n\nCOMMIT;",
    ]


# The tables


def test_every_mutation_is_in_a_group_of_the_table_of_drift() -> None:
    found = {OURS: set(MUTATIONS), "other": {"CHECK changed"}}
    failed = {OURS: set[str](), "other": {"policy"}}
    text = table_of_drift(["other"], Judged(found=found, failed=failed, false_alarms={"other"}))
    whole = f"{len(MUTATIONS)} of {len(MUTATIONS)}"
    assert f"| **all** | {whole} | 1 of {len(MUTATIONS)} (1 failed) |" in text
    assert "| policies, row security | 3 of 3 | 0 of 3 (1 failed) |" in text
    assert "| **false alarm** | no | yes |" in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0004, "0 ms"), (0.1234, "123 ms"), (1.0, "1.00 s"), (83.456, "83.46 s")],
)
def test_a_duration_has_a_suitable_unit(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_table_is_markdown() -> None:
    assert markdown(("a", "b"), [("1", "x | y"), ("2", "two\nlines")]) == (
        "| a | b |\n| --- | --- |\n| 1 | x \\| y |\n| 2 | two lines |\n"
    )


def test_the_document_has_the_machine_and_a_line_for_each_measurement() -> None:
    measured = Line(
        row="warm",
        measured="a reset",
        timing=Timing(median=1.5, fastest=1.25, slowest=2.0),
        beside="the floor",
        beside_timing=timing(0.5),
        compared=ratio(timing(1.5), timing(0.5)),
        goal=at_most(4.0, 3.0),
    )
    left_out = Line(row="warm-docker", measured="left out", notes="no Docker Engine answers")
    text = document({"Python": "3.11.7"}, [measured, left_out], rounds=7)
    assert rows(text, "machine", "") == [["Python", "3.11.7"]]
    assert rows(text, *HEADINGS) == [
        [
            "warm",
            "a reset",
            "1.50 s (1.25 s to 2.00 s)",
            "the floor",
            "500 ms (500 ms to 500 ms)",
            "3.00 times",
            "at most 4 times: met",
            "",
        ],
        ["warm-docker", "left out", "", "", "", "", "", "no Docker Engine answers"],
    ]


def test_the_document_states_what_has_no_figure() -> None:
    left_out = Line(row="warm-docker", measured="left out", notes="no Docker Engine answers")
    failed = Line(row="cold", measured="failed", notes="BenchmarkError: it broke", failed=True)
    text = document({}, [left_out, failed], rounds=1, not_selected=["warm", "list"])
    assert "**Only 1 rounds" in text
    assert "**Not measured in this run:** warm, list" in text
    assert "**Row `warm-docker` has no figure:** no Docker Engine answers" in text
    assert "**Row `cold` failed:** BenchmarkError: it broke" in text


def test_tables_replace_those_in_a_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    old = "<!-- figures: goals -->\nold\n<!-- end of figures -->"
    page.write_text(f"before\n{old}\nbetween\n{old.replace('goals', 'peers')}\nafter\n")
    publish({"goals": "new \\1"}, page)
    text = page.read_text()
    assert text.count("old") == 1
    assert "before\n<!-- figures: goals -->\n\nnew \\1\n<!-- end of figures -->\nbetween" in text


def test_tables_without_a_place_are_the_whole_file(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    publish({"goals": "a\n", "peers": "b\n"}, page)
    assert page.read_text() == "a\n\nb\n"


def test_the_page_has_a_place_for_the_tables_of_each_group() -> None:
    text = page("performance.md")
    assert [group for group in Group if f"<!-- figures: {group} -->" in text] == list(Group)


def test_the_page_explains_every_row() -> None:
    explained = rows(page("performance.md"), "row", "measures", "beside it")
    assert [code(name) for name, _, _ in explained] == list(ROWS)
