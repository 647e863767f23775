"""Each form of a report has every finding, at its place, with hostile names escaped."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest

from huleedu_tasks.config.secret import Redactor, Secret
from huleedu_tasks.errors import ConfigurationError
from huleedu_tasks.report import (
    Change,
    Difference,
    Kind,
    Level,
    Outcome,
    PlannedRevision,
    Problem,
    RehearsedRevision,
    Report,
    State,
    Status,
)
from huleedu_tasks.screen.console import Screen
from huleedu_tasks.screen.formats.contents import Contents
from huleedu_tasks.screen.formats.forms import Form, Outputs, parse_outputs
from huleedu_tasks.screen.formats.items import Item
from huleedu_tasks.screen.formats.markdown import LIMIT, render_markdown
from huleedu_tasks.screen.formats.verdict import Tone, Verdict

Capture = pytest.CaptureFixture[str]
PASSWORD = "hunter2"
PATH = "services/a/alembic/versions/b1.py"
FORMS = [form for form in Form if form not in (Form.TERMINAL, Form.JSON)]
PLACED = Problem(
    level=Level.ERROR,
    cause=f"the downgrade of b1 leaves type state ({PASSWORD})",
    remedy="Drop it.",
    code="downgrade-incomplete",
    statement="DROP TABLE t",
    path=PATH,
    line=7,
)
WARNED = Problem(level=Level.WARNING, cause="nothing is seeded")
GENERAL = Problem(level=Level.ERROR, cause="the fleet has no port", code="no-port")
HOSTILE = (
    "one\ntwo",
    "\r\n::error::injected",
    "a|b",
    "<script>&amp;",
    "]]>",
    "`x` ``y",
    "50%0A,x:y",
    "\x1b[2J\ufffe\u202e\ud800",
    "@everyone",
    "] (x) **b** [l](http://x)",
)


def report(*problems: Problem, service: str = "a") -> Report:
    return Report(
        command="migrations.test",
        environment="development",
        provider="throwaway",
        provider_reason="databases of this command only",
        columns=("head",),
        outcomes=(
            Outcome(
                service=service,
                state=State.FINDINGS,
                detail="1 ERROR",
                facts={"head": "b1"},
                problems=(PLACED, WARNED, *problems),
            ),
            Outcome(
                service="b", status=Status.FAILED, detail="it stopped", hint="Start it.", code="x-y"
            ),
            Outcome(service="c", problems=()),
        ),
        general=(GENERAL,),
        seconds=1.5,
    )


def rendered(capsys: Capture, form: Form, shown: Report) -> str:
    screen = Screen(redact=Redactor([Secret(PASSWORD)]))
    screen.outputs = Outputs(printed=form)
    screen.registry = "backend/services.json"
    screen.show(shown)
    # A page lets the browser wrap a name at its separators.
    return capsys.readouterr().out.replace("<wbr>", "")


def places(form: Form, text: str) -> list[tuple[str, int]]:
    """Return the files and lines in a document that a machine reads."""
    if form is Form.SARIF:
        results = json.loads(text)["runs"][0]["results"]
        found = [result["locations"][0]["physicalLocation"] for result in results]
        return [(unquote(f["artifactLocation"]["uri"]), f["region"]["startLine"]) for f in found]
    if form is Form.GITLAB:
        found = [entry["location"] for entry in json.loads(text)]
        return [(place["path"], place["lines"]["begin"]) for place in found]
    if form is Form.GITHUB:
        pairs = re.findall(r"^::\w+ file=(.*?),line=(\d+)", text, re.MULTILINE)
        return [(path, int(line)) for path, line in pairs]
    if form is Form.JUNIT:
        cases = ElementTree.fromstring(text).iter("testcase")
        return [(c.attrib["file"], int(c.attrib["line"])) for c in cases if "line" in c.attrib]
    if form is Form.HTML:
        pairs = re.findall(r'class="place">(.*?):(\d+)<', text)
        return [(path, int(line)) for path, line in pairs]
    pairs = re.findall(r"^  `(\S+?):(\d+)`", text, re.MULTILINE)
    return [(path, int(line)) for path, line in pairs]


@pytest.mark.parametrize("form", FORMS)
def test_every_finding_is_in_every_form(capsys: Capture, form: Form) -> None:
    text = rendered(capsys, form, report())
    for part in ("downgrade of b1 leaves", "nothing is seeded", "has no port", "it stopped"):
        assert part in text
    for part in ("Drop it.", "Start it.", "x-y", "no-port"):
        assert part in text
    assert (f"backend/{PATH}", 7) in places(form, text)
    assert PASSWORD not in text


def number_of_entries(form: Form, text: str) -> int:
    if form is Form.SARIF:
        return len(json.loads(text)["runs"][0]["results"])
    if form is Form.GITLAB:
        return len(json.loads(text))
    if form is Form.JUNIT:
        return len(list(ElementTree.fromstring(text).iter("testcase")))
    if form is Form.HTML:
        return text.count('<article class="finding')
    if form is Form.GITHUB:
        return len(re.findall(r"^::(?:error|warning|notice)[ :]", text, re.MULTILINE))
    return len(re.findall(r"^- ", text, re.MULTILINE))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_hostile_names_stay_text(capsys: Capture, form: Form, name: str) -> None:
    path = f"{name}.py"
    problem = replace(PLACED, cause=name, remedy=name, statement=name, path=path)
    text = rendered(capsys, form, report(problem, service=name))
    assert "\x1b" not in text
    assert "\u202e" not in text
    # JUnit has a test for the service without findings, and GitHub the summary.
    more = 1 if form in (Form.JUNIT, Form.GITHUB) else 0
    assert number_of_entries(form, text) == 5 + more
    if form is Form.GITHUB:
        assert len(text.splitlines()) == 6
    if form is Form.MARKDOWN:
        table = [line for line in text.splitlines() if line.startswith("|")]
        assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {5}
        prose = re.sub(r"(?s)  (`{3,})\n.*?\n  \1|`+[^`]*`+", "", text)
        assert not re.search(r"(?<!\\)<script|@everyone", prose)


def test_sarif_has_what_its_readers_demand(capsys: Capture) -> None:
    log = json.loads(rendered(capsys, Form.SARIF, report()))
    assert log["version"] == "2.1.0"
    (run,) = log["runs"]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert len(set(rules)) == len(rules)
    results: list[dict[str, Any]] = run["results"]
    assert {result["ruleId"] for result in results} == set(rules)
    assert {result["level"] for result in results} == {"error", "warning"}
    # The registry is the place of a finding without a file.
    uris = [r["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] for r in results]
    assert set(uris) == {f"backend/{PATH}", "backend/services.json"}
    prints = [result["partialFingerprints"]["finding/v1"] for result in results]
    assert len(set(prints)) == len(results)
    for number, rule in enumerate(run["tool"]["driver"]["rules"]):
        # GitHub shows these, and demands them.
        for key in ("shortDescription", "fullDescription", "help"):
            assert rule[key]["text"]
        assert {r["ruleId"] for r in results if r["ruleIndex"] == number} == {rule["id"]}


@pytest.mark.parametrize("form", [Form.SARIF, Form.GITLAB])
def test_findings_that_differ_in_their_lines_only_have_fingerprints_of_their_own(
    capsys: Capture, form: Form
) -> None:
    text = rendered(capsys, form, report(replace(PLACED, line=8), replace(PLACED, line=9)))
    prints = re.findall(r'"(?:finding/v1|fingerprint)": "(\w+)"', text)
    assert len(set(prints)) == len(prints) == 6


def test_junit_counts_failures_and_has_a_test_for_a_service_without_findings(
    capsys: Capture,
) -> None:
    suites = ElementTree.fromstring(rendered(capsys, Form.JUNIT, report()))
    counts = {s.get("name"): (s.get("tests"), s.get("failures")) for s in suites}
    assert counts == {
        "a": ("2", "1"),
        "b": ("1", "1"),
        "c": ("1", "0"),
        "migrations.test": ("1", "1"),
    }
    assert (suites.get("tests"), suites.get("failures")) == ("5", "3")


def test_junit_has_a_test_for_each_tested_revision(capsys: Capture) -> None:
    tested = tuple(
        RehearsedRevision(
            revision=name, message="Add", path=f"services/a/alembic/versions/{name}.py"
        )
        for name in ("b0", "b1", "b2")
    )
    also = replace(PLACED, cause="the second upgrade differs")
    shown = report(also)
    outcomes = (replace(shown.outcomes[0], tested=tested), *shown.outcomes[1:])
    text = rendered(capsys, Form.JUNIT, replace(shown, outcomes=outcomes))
    suite = ElementTree.fromstring(text)[0]
    # The warning is one of no revision.
    assert [case.get("name") for case in suite][:3] == ["b0 Add", "b1 Add", "b2 Add"]
    assert (suite.get("tests"), suite.get("failures")) == ("4", "1")
    failure = suite.find("testcase[@name='b1 Add']/failure")
    assert failure is not None
    assert "leaves type state" in str(failure.text)
    assert "second upgrade differs" in str(failure.text)
    assert {case.get("file") for case in suite[:3]} == {f"backend/{r.path}" for r in tested}


DIFFERENCE = Difference(
    change=Change.DIFFERENT,
    label="column public.note.body",
    parts=(),
    diff="-text\n+varchar",
    digest="0",
)


@pytest.mark.parametrize("form", [form for form in FORMS if form is not Form.GITLAB])
@pytest.mark.parametrize("is_judged", [True, False])
def test_drift_is_a_finding_with_its_diff(capsys: Capture, form: Form, is_judged: bool) -> None:
    cause = f"the schema has drifted from a1: {DIFFERENCE}"
    problem = Problem(level=Level.WARNING, cause=cause, code="schema-drift")
    drifted = Outcome(
        service="a",
        differences=(DIFFERENCE,),
        problems=(problem,) if is_judged else None,
    )
    text = rendered(capsys, form, replace(report(), outcomes=(drifted,), general=None))
    assert "column public.note.body" in text
    assert "+varchar" in text
    assert number_of_entries(form, text) == (2 if form is Form.GITHUB else 1)
    # JUnit and GitLab have no other place for a severity.
    if form is Form.MARKDOWN:
        assert ("WARNING" in text) is is_judged


@pytest.mark.parametrize("form", FORMS)
def test_dangers_of_planned_revisions_are_findings(capsys: Capture, form: Form) -> None:
    danger = Problem(
        level=Level.WARNING,
        cause="drops the table note",
        remedy="1. Stop reading it.\n2. Drop it.",
        kind=Kind.DESTROYS,
        statement="DROP TABLE note",
    )
    revision = PlannedRevision(
        revision="b1", message="Drop", path=PATH, sha256="0", problems=(danger,)
    )
    shown = replace(report(), outcomes=(Outcome(service="a", revisions=(revision,)),), general=None)
    text = rendered(capsys, form, shown)
    assert "b1: drops the table note" in text
    assert f"backend/{PATH}" in text


def test_markdown_fits_a_comment(capsys: Capture) -> None:
    many = [Problem(level=Level.ERROR, cause=f"{number} {'x' * 1000}") for number in range(100)]
    text = rendered(capsys, Form.MARKDOWN, report(*many))
    assert len(text) < LIMIT + 2000
    assert "more findings are not shown." in text


@pytest.mark.parametrize(
    ("printed", "file", "form", "name"),
    [
        ("", "a.md", Form.MARKDOWN, "a.md"),
        ("", "a.sarif", Form.SARIF, "a.sarif"),
        ("", "a.xml", Form.JUNIT, "a.xml"),
        ("", "a.json", Form.JSON, "a.json"),
        ("github", "a.json", Form.JSON, "a.json"),
        ("gitlab", "a.json", Form.GITLAB, "a.json"),
        ("sarif", "a.xml", Form.JUNIT, "a.xml"),
        ("", "gitlab:a.json", Form.GITLAB, "a.json"),
        ("", "markdown:/x/summary", Form.MARKDOWN, "/x/summary"),
        ("", "odd:a.md", Form.MARKDOWN, "odd:a.md"),
        ("", "a.html", Form.HTML, "a.html"),
        ("markdown", "html:page", Form.HTML, "page"),
    ],
)
def test_a_file_has_the_form_of_its_name(printed: str, file: str, form: Form, name: str) -> None:
    start = Path("/start")
    assert parse_outputs(printed, [file], start).files == ((form, start / name),)


@pytest.mark.parametrize("file", ["a.json", "a", "plan.txt", "odd:a.json"])
def test_a_file_that_tells_no_other_form_is_the_plan(file: str) -> None:
    start = Path("/start")
    found = parse_outputs("json", [file, "a.html", "json:b.json"], start, makes_plan=True)
    assert found.plans == (start / file,)
    assert found.files == ((Form.HTML, start / "a.html"), (Form.JSON, start / "b.json"))
    assert found.has_page


@pytest.mark.parametrize(("printed", "file"), [("pdf", "a.md"), ("", "a.txt"), ("", "")])
def test_an_unknown_form_is_an_error(printed: str, file: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_outputs(printed, [file], Path("/start"))
    assert caught.value.code == "argument-invalid"
    assert "markdown" in caught.value.hint


def test_a_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    screen = Screen()
    screen.outputs = parse_outputs("", [str(tmp_path / "new" / "a.md")], tmp_path)
    screen.write(report())
    assert (tmp_path / "new" / "a.md").read_text(encoding="utf-8").startswith("### ")
    screen.outputs = parse_outputs("", ["new/a.md/b.md"], tmp_path)
    with pytest.raises(ConfigurationError) as caught:
        screen.write(report())
    assert caught.value.code == "output-unwritable"


def test_a_command_in_a_remedy_is_code_in_markdown() -> None:
    remedy = "Run `huleedu db.up --yes` and *x*; `` @all ` <b>"
    item = Item(services=(), level=Level.ERROR, code="c", cause="cause", remedy=remedy)
    contents = Contents(
        command="c",
        columns=("a",),
        rows=(),
        items=(item,),
        verdict=Verdict(tone=Tone.BAD, text="1 error", steps=()),
        summary="s",
        fallback="f",
    )
    assert (
        "Run `huleedu db.up --yes` and \\*x\\*; \\`\\` @<!-- -->all \\` \\<b\\>"
        in render_markdown(contents)
    )


# What a reviewer reads first.


def test_markdown_has_the_verdict_what_to_type_next_and_folds_what_is_no_finding(
    capsys: Capture,
) -> None:
    noted = Problem(level=Level.INFO, cause="takes a lock", statement="ALTER TABLE t ADD c int")
    quiet = tuple(Outcome(service=f"quiet-{number}") for number in range(4))
    shown = report(noted)
    shown = replace(
        shown,
        outcomes=(*shown.outcomes[:1], *quiet),
        general=None,
        notes=("Next: run `invoke prod.migrate`.", "A note for $money$."),
    )
    text = rendered(capsys, Form.MARKDOWN, shown)
    verdict, following, *_ = text.splitlines()[2::2]
    assert verdict == "**Stop: 1 error in 1 of 5 services**"
    assert following == "Next: run `invoke prod.migrate`."
    before, services, notes = text.split("<details><summary>")
    assert services.startswith("4 services OK</summary>")
    assert "quiet-" not in before
    assert notes.startswith("1 for information</summary>")
    assert "takes a lock" in notes
    assert "  ```sql\n  ALTER TABLE" in notes
    assert "$money$" not in text
    assert text.count("</details>") == 2


def test_a_schema_file_that_is_out_of_date_is_one_finding_about_the_file(capsys: Capture) -> None:
    stale = Outcome(
        service="a",
        state=State.STALE,
        facts={"head": "b1", "file": "services/a/schema.sql"},
        differences=(DIFFERENCE, replace(DIFFERENCE, label="index public.i")),
        hint="Run `invoke db.schema --service a`, and commit the file.",
    )
    shown = replace(report(), outcomes=(stale,), general=None)
    text = rendered(capsys, Form.SARIF, shown)
    assert places(Form.SARIF, text) == [("backend/services/a/schema.sql", 1)]
    markdown = rendered(capsys, Form.MARKDOWN, shown)
    assert "**Stop: 1 of 1 schema file out of date**" in markdown
    assert "is in the file" in markdown
    assert "  ```diff\n  -text\n  +varchar\n  -text\n" in markdown
    assert "column public.note.body, index public.i" in markdown


def test_a_path_is_not_repeated_in_the_cause(capsys: Capture) -> None:
    shown = report(replace(PLACED, cause=f"{PATH}: is wrong", line=3))
    for form in (Form.GITHUB, Form.MARKDOWN):
        assert f"{PATH}: is wrong" not in rendered(capsys, form, shown)
