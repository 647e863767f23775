"""The page of a report: its structure, its graph, and the plan in it."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from huleedu_tasks.errors import ConfigurationError, ExitCode, Refused
from huleedu_tasks.migrations.revision_graph import graph_of_branch, graph_of_database
from huleedu_tasks.migrations.revisions import History, Revision
from huleedu_tasks.prod.plan_file import read_plan
from huleedu_tasks.report import (
    AppliedRevision,
    GraphRevision,
    Level,
    Outcome,
    PastRun,
    Place,
    Problem,
    Report,
    State,
    Status,
)
from huleedu_tasks.screen.formats.contents import contents_of
from huleedu_tasks.screen.formats.graph_rows import LONGEST_RUN, graph_groups
from huleedu_tasks.screen.formats.highlighting import LONGEST, highlighted_sql
from huleedu_tasks.screen.formats.prose import blocks_of
from huleedu_tasks.screen.formats.sealed_page import opened
from huleedu_tasks.screen.formats.verdict import CORRECT, Tone, Verdict, verdict_of
from tests.support.browser import Elements
from tests.support.pages import PASSWORD, line_graph, plan_report, write_page

HOSTILE = (
    "<script>document.title = 'owned'</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "--></style></script><!-- ]]>",
    "{{ 7 * 7 }}{% raw %}",
    "\x1b[2J\u202e\u2028\ufeff\ud800",
    "`<b>` a `b",
    "n" * 5000,
)


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_hostile_names_stay_text(tmp_path: Path, text: str) -> None:
    page = write_page(plan_report([text or "a"], text=text), tmp_path / "a.html")
    elements = Elements(page)
    assert elements.unclosed == []
    assert elements.names.isdisjoint({"img", "b", "iframe", "link", "object", "form"})
    assert [attributes for attributes, _ in elements.of("script")] == [
        {"type": "application/json", "id": "huleedu-plan"}
    ]
    handlers = [a for _, attributes, _ in elements.found for a in attributes if a.startswith("on")]
    assert handlers == []
    assert len(elements.of("style")) == 1
    assert "\x1b" not in page
    assert "\u202e" not in page
    assert json.loads(opened(page))["note"] == text


def test_a_page_asks_for_nothing_and_has_its_headings_in_order(tmp_path: Path) -> None:
    page = write_page(plan_report(["alpha", "beta"], text="x"), tmp_path / "a.html")
    elements = Elements(page)
    addresses = [
        value
        for _, attributes, _ in elements.found
        for name, value in attributes.items()
        if name in ("src", "href") and not value.startswith("#")
    ]
    assert addresses == []
    assert "url(" not in page
    assert "default-src 'none'" in page
    levels = [int(path[-1]) for path, _, _ in elements.found if re.search(r" h[1-6]$", path)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in pairwise(levels))
    ids = [attributes["id"] for _, attributes, _ in elements.found if "id" in attributes]
    assert len(set(ids)) == len(ids)
    links = {attributes["href"][1:] for attributes, _ in elements.of("a")}
    assert links <= set(ids)
    assert {a["scope"] for a, _ in elements.of("th")} <= {"row", "col"}


def test_a_page_leads_with_the_verdict_and_the_dangers(tmp_path: Path) -> None:
    page = write_page(plan_report(["alpha", "beta"], text="x"), tmp_path / "a.html")
    elements = Elements(page)
    ((_, headline),) = elements.of("h1")
    assert headline == "Stop drift in 2 of 2 services: 2 differences"
    ((_, origin),) = elements.of("p", "origin")
    assert "commit" in origin
    assert next(text for _, text in elements.of("li", "card")).startswith("alpha PENDING")
    levels = [attributes["class"] for attributes, _ in elements.of("article", "finding")]
    assert levels == ["finding error"] * 2 + ["finding warning"] * 2 + ["finding info"]
    steps = [text for _, text in elements.of("ol", "steps")]
    assert steps[0].startswith("Stop reading it x.")
    assert (elements.of("ol", "plan")[0][1][5:11], True) == ("Drop x", True)
    assert len(elements.of("ol", "timeline")) == 1


def test_passwords_are_masked_in_every_part_of_a_page(tmp_path: Path) -> None:
    report = replace(plan_report(["alpha"], text=PASSWORD), plan={})
    assert PASSWORD not in write_page(report, tmp_path / "a.html")


# The verdict.


EMPTY = Report(
    command="db.status",
    environment="testing",
    provider="embedded",
    provider_reason="x",
    outcomes=(),
)


def verdict_about(*outcomes: Outcome) -> Verdict:
    report = replace(EMPTY, outcomes=outcomes)
    contents = contents_of(report, shown=str, summary="", registry="services.json")
    return contents.verdict


def steps_of(problems: tuple[Problem, ...]) -> tuple[str, ...]:
    return verdict_about(Outcome(service="a", problems=problems)).steps


def outcome_with(level: Level) -> Outcome:
    return Outcome(service="a", problems=(Problem(level=level, cause="x", remedy="Do it."),))


@pytest.mark.parametrize(
    ("outcome", "tone"),
    [
        (Outcome(service="a"), Tone.GOOD),
        (Outcome(service="a", revisions=()), Tone.GOOD),
        (Outcome(service="a", status=Status.SKIPPED), Tone.CAUTION),
        (outcome_with(Level.WARNING), Tone.CAUTION),
        (outcome_with(Level.ERROR), Tone.BAD),
        (Outcome(service="a", status=Status.FAILED, detail="it stopped"), Tone.FAILED),
    ],
)
def test_a_verdict_is_that_of_the_worst_finding(outcome: Outcome, tone: Tone) -> None:
    assert verdict_about(outcome).tone is tone


def test_several_errors_have_one_next_step() -> None:
    problems = tuple(
        Problem(level=Level.ERROR, cause=cause, remedy=f"Correct {cause}.") for cause in "xy"
    )
    assert steps_of(problems[:1]) == ("Correct x.",)
    assert steps_of(problems) == (CORRECT,)


@pytest.mark.parametrize(
    ("outcomes", "said"),
    [
        ((Status.FAILED, Status.ABORTED, Status.OK), "Failed: 1 of 3 services; 1 aborted"),
        ((Status.ABORTED, Status.OK), "Aborted: 1 of 2 services"),
        ((Status.OK,), "OK: 1 service without a finding"),
    ],
)
def test_the_verdict_of_work_that_was_not_finished_counts_the_services(
    outcomes: tuple[Status, ...], said: str
) -> None:
    made = [Outcome(service=str(n), status=status) for n, status in enumerate(outcomes)]
    assert str(verdict_about(*made)) == said


def test_the_verdict_of_a_migration_counts_what_was_applied() -> None:
    applied = tuple(AppliedRevision(revision=name, message="") for name in ("b2", "c3"))
    said = verdict_about(Outcome(service="a", revisions=applied), Outcome(service="b"))
    assert str(said) == "OK: 2 revisions applied in 1 service"


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        ("DONE", "OK: run r1 ended with DONE"),
        ("RUNNING", "Review: run r1 has not ended"),
        ("USAGE", "Failed: run r1 ended with USAGE"),
    ],
)
def test_the_verdict_about_a_run_is_its_end(outcome: str, said: str) -> None:
    run = PastRun(run="r1", began="", who="", outcome=outcome, migrated=(), detail="")
    assert str(verdict_of(replace(EMPTY, past=(run,)), ())) == said


def test_a_plan_says_what_its_dangers_do_and_what_happens_when_it_runs(tmp_path: Path) -> None:
    report = replace(plan_report(["alpha"]), course=("Type the host: `db`.",))
    (outcome,) = report.outcomes
    report = replace(report, outcomes=(replace(outcome, differences=(), problems=()),))
    page = write_page(report, tmp_path / "a.html")
    elements = Elements(page)
    ((_, headline),) = elements.of("h1")
    assert headline == "Review 1 revision pending in 1 service; 1 danger: 1 destroys data"
    ((_, course),) = elements.of("ul", "course")
    assert course == "Type the host: db."
    ((_, card),) = elements.of("li", "card")
    assert "1 destroys no drift" in card
    assert "problem" not in card


def test_what_all_findings_say_stands_once(tmp_path: Path) -> None:
    outcome = replace(plan_report(["alpha"]).outcomes[0], revisions=None, problems=None)
    differences = outcome.differences or ()
    drifted = replace(
        outcome, state=State.DRIFTED, hint="Undo.", differences=(*differences, *differences)
    )
    page = write_page(replace(EMPTY, outcomes=(drifted,)), tmp_path / "a.html")
    assert page.count("Undo.") == 1
    assert page.count('class="legend"') == 1


# The graph.


def revision(name: str, *parents: str) -> Revision:
    path = Path(f"{name}.py")
    return Revision(id=name, parents=parents, depends_on=(), message=name, path=path)


def history(*revisions: Revision) -> History:
    return History(revisions={found.id: found for found in revisions})


MERGED = history(
    revision("a"),
    revision("b", "a"),
    revision("c", "a"),
    revision("m", "b", "c"),
    revision("d", "m"),
)


def test_the_graph_has_the_database_and_the_heads() -> None:
    graph = {found.revision: found for found in graph_of_database(MERGED, ("b", "gone"))}
    assert {name for name, found in graph.items() if found.place is Place.APPLIED} == {"a", "b"}
    assert (graph["b"].labels, graph["d"].labels) == (("database",), ("head",))


def test_the_graph_has_the_revisions_that_only_the_base_branch_has() -> None:
    base = {"a": revision("a"), "x": revision("x", "a")}
    graph = graph_of_branch(history(revision("a"), revision("b", "a")), base, "origin/main")
    places = {found.revision: (found.place, found.labels) for found in graph}
    assert places == {
        "a": (Place.APPLIED, ()),
        "b": (Place.NEW, ("head",)),
        "x": (Place.OTHER, ("origin/main",)),
    }
    plain = graph_of_branch(MERGED, None, "")
    assert {found.place for found in plain} == {Place.PLAIN}


def joined(graph: tuple[GraphRevision, ...]) -> None:
    """Assert that each row begins with the lines with which the row above it ends."""
    rows = [row for group in graph_groups(graph) for row in group.rows]
    assert [row.revision.revision for row in rows] == [g.revision for g in reversed(graph)]
    open_lanes: set[int] = set()
    for row in rows:
        assert {begin for begin, _ in row.above} == open_lanes
        open_lanes = {end for _, end in row.below}
    assert not open_lanes


def test_lines_of_a_graph_go_through_from_row_to_row() -> None:
    joined(graph_of_database(MERGED, ("m",)))
    joined(graph_of_database(history(revision("a"), revision("b")), ()))
    wide = [revision(f"w{number:02d}", "a") for number in range(30)]
    many = history(revision("a"), *wide, revision("m", *(found.id for found in wide)))
    joined(graph_of_database(many, ("a",)))
    for number in range(5):
        crossing = [revision("a"), revision("b"), revision("c")]
        for step in range(12):
            first, second = crossing[-1].id, crossing[-2 - (step + number) % 2].id
            parents = {first, second} if step % 3 == number % 3 else {second}
            crossing.append(revision(f"n{step:02d}", *sorted(parents)))
        joined(graph_of_database(history(*crossing), ("n03",)))


def test_a_long_history_is_folded_and_notable_revisions_are_not() -> None:
    groups = graph_groups(line_graph(100, 90))
    shown = [row.revision.revision for group in groups if not group.is_folded for row in group.rows]
    assert len(shown) < 2 * LONGEST_RUN
    assert {"r099", "r090", "r000"} <= set(shown)
    folded = [group for group in groups if group.is_folded]
    assert [len(group.rows) for group in folded] == [5, 87]
    assert all(group.through == ((0, 0),) for group in folded)
    assert not any(group.is_folded for group in graph_groups(line_graph(6, 5)))


# Text.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("Drop it.", [("Drop it.",)]),
        ("Do:\n1. a\n2. b\n\nThen c.", [("Do:",), ("a", "b"), ("Then c.",)]),
        ("Either: 1. `a b` 2. `c`", [("Either:",), ("`a b`", "`c`")]),
        ("Do:\n1. only", [("Do:",), ("only",)]),
        ("PostgreSQL 11. It has 1. it", [("PostgreSQL 11. It has 1. it",)]),
    ],
)
def test_numbered_steps_are_a_list(text: str, expected: list[tuple[str, ...]]) -> None:
    assert [block.texts for block in blocks_of(text)] == expected


def test_very_long_sql_is_not_highlighted() -> None:
    assert "<span" in highlighted_sql("SELECT 1")
    assert "<span" not in highlighted_sql("SELECT 1;\n" * LONGEST)


# The plan in a page.


def test_the_plan_in_a_page_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.html"
    write_page(plan_report(["alpha"]), path)
    assert read_plan(path, environment="production") == ()


@pytest.mark.parametrize(
    "edit",
    [
        lambda page: page.replace("drops the table", "adds the table"),
        lambda page: page.replace('"services": []', '"services": [1]'),
        lambda page: page[: len(page) // 2],
        lambda page: page.rpartition("<!--")[0],
        lambda page: page + "<p>",
        lambda page: page.replace("\n", "\r\n"),
    ],
    ids=["text", "plan", "half", "without digest", "longer", "line ends"],
)
def test_a_page_that_is_not_as_it_was_written_is_refused(
    tmp_path: Path, edit: Callable[[str], str]
) -> None:
    path = tmp_path / "a.html"
    path.write_bytes(edit(write_page(plan_report(["alpha"]), path)).encode())
    with pytest.raises(Refused) as caught:
        read_plan(path, environment="production")
    assert (caught.value.code, caught.value.exit_code) == ("plan-page-changed", ExitCode.REFUSED)
    assert "edited or truncated" in caught.value.message
    assert "invoke prod.plan --out html:a.html" in caught.value.hint


def test_a_page_of_another_command_is_no_plan(tmp_path: Path) -> None:
    path = tmp_path / "a.html"
    write_page(replace(plan_report(["alpha"]), plan={}), path)
    with pytest.raises(ConfigurationError) as caught:
        read_plan(path, environment="production")
    assert caught.value.code == "plan-unreadable"
    assert "has no plan in it" in caught.value.message
