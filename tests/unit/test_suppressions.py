"""Comments in revision files that allow findings."""

from pathlib import Path

import pytest

from huleedu_tasks.migrations.hazard_rules import DROPS_COLUMN, DROPS_TABLE
from huleedu_tasks.migrations.suppressions import suppress
from huleedu_tasks.report import Level, Problem

REASON = "not read since release 41"
ALLOW = f"# huleedu: allow drops-column -- {REASON}"
# The first line of the function is 4.
FILE = """\
revision = "b2"
{top}
def upgrade():
    op.first(){first}
    {above}
    op.drop_column(
        "note",{inside}
        "body",
    )
    op.last()
"""
DROP_LINE, LAST_LINE = 6, 10


def judged(
    path: Path, *lines: int | None, code: str = DROPS_COLUMN.name, **comments: str
) -> list[Problem]:
    """Return what becomes of findings at lines, in a file with comments."""
    places = {name: comments.get(name, "") for name in ("top", "first", "above", "inside")}
    path.write_text(FILE.format(**places))
    found = [Problem(level=Level.ERROR, cause="drops", code=code, line=line) for line in lines]
    return [*suppress(found, path)]


@pytest.mark.parametrize("place", ["top", "above", "inside"])
def test_a_comment_allows_the_finding_of_its_statement(tmp_path: Path, place: str) -> None:
    (problem,) = judged(tmp_path / "b2.py", DROP_LINE, **{place: ALLOW})
    assert (problem.level, problem.cause) == (Level.INFO, f"drops (allowed: {REASON})")


def test_a_comment_behind_the_code_is_for_that_statement(tmp_path: Path) -> None:
    first, drop, unused = judged(
        tmp_path / "b2.py", DROP_LINE, None, first=f"  {ALLOW}".replace("column", "table")
    )
    assert [first.level, drop.level, unused.code] == [
        Level.ERROR,
        Level.ERROR,
        "suppression-unused",
    ]
    (problem,) = judged(tmp_path / "b2.py", 4, first=f"  {ALLOW}")
    assert problem.level is Level.INFO


def test_a_comment_above_a_statement_is_not_for_the_next_ones(tmp_path: Path) -> None:
    drop, last = judged(tmp_path / "b2.py", DROP_LINE, LAST_LINE, above=ALLOW)
    assert (drop.level, last.level) == (Level.INFO, Level.ERROR)


def test_a_comment_that_is_not_indented_is_for_the_file(tmp_path: Path) -> None:
    found = judged(tmp_path / "b2.py", DROP_LINE, LAST_LINE, top=ALLOW)
    assert [problem.level for problem in found] == [Level.INFO, Level.INFO]


def test_a_comment_may_allow_several_rules(tmp_path: Path) -> None:
    both = ALLOW.replace("column", "column, drops-table")
    first, second = judged(tmp_path / "b2.py", DROP_LINE, above=both)
    assert (first.level, second.code) == (Level.INFO, "suppression-unused")
    (table, unused) = judged(tmp_path / "b2.py", DROP_LINE, code=DROPS_TABLE.name, above=both)
    assert (table.level, unused.code) == (Level.INFO, "suppression-unused")


@pytest.mark.parametrize(
    ("comment", "code"),
    [
        ("# huleedu: allow drops-column", "suppression-without-reason"),
        ("# huleedu: allow drops-column --", "suppression-without-reason"),
        ("# huleedu: allow drops-column because", "suppression-without-reason"),
        ("# huleedu: alow drops-column -- why", "suppression-unknown"),
        ("# huleedu: allow", "suppression-unknown"),
        ("# huleedu: allow drop-colunm -- why", "suppression-unknown"),
    ],
)
def test_a_faulty_comment_allows_nothing_and_is_a_finding(
    tmp_path: Path, comment: str, code: str
) -> None:
    drop, *faults = judged(tmp_path / "b2.py", DROP_LINE, above=comment)
    assert drop.level is Level.ERROR
    assert [(fault.code, fault.level, fault.line) for fault in faults] == [(code, Level.WARNING, 5)]


def test_a_finding_of_squawk_can_be_allowed(tmp_path: Path) -> None:
    comment = "# huleedu: allow squawk-ban-char-field -- a code of three letters"
    (problem,) = judged(tmp_path / "b2.py", DROP_LINE, code="squawk-ban-char-field", above=comment)
    assert problem.level is Level.INFO


@pytest.mark.parametrize("text", ['x = "# huleedu: allow a -- b"\n', "def broken(:\n", ""])
def test_other_files_have_no_suppressions(tmp_path: Path, text: str) -> None:
    (tmp_path / "b2.py").write_text(text)
    assert suppress((), tmp_path / "b2.py") == ()


def test_a_comment_in_a_block_is_for_the_next_statement_in_it(tmp_path: Path) -> None:
    path = tmp_path / "b2.py"
    path.write_text(
        "def upgrade():\n    with batch() as b:\n        b.add()\n"
        f"        {ALLOW}\n        b.drop()\n    op.last()\n"
    )
    levels = [
        problem.level
        for line in (3, 5, 6)
        for problem in suppress(
            [Problem(level=Level.ERROR, cause="drops", code="drops-column", line=line)], path
        )[:1]
    ]
    assert levels == [Level.ERROR, Level.INFO, Level.ERROR]


def test_a_suppression_of_a_revision_that_failed_is_not_unused(tmp_path: Path) -> None:
    path = tmp_path / "b2.py"
    path.write_text(f"{ALLOW}\n")
    assert [problem.code for problem in suppress((), path)] == ["suppression-unused"]
    assert suppress((), path, is_complete=False) == ()
