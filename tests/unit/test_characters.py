"""Control characters in strings from outside are escaped before they are printed."""

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from huleedu_tasks.errors import Finding, ServerError
from huleedu_tasks.report import (
    Level,
    Listing,
    Message,
    Outcome,
    PlannedRevision,
    Problem,
    Report,
    Status,
)
from huleedu_tasks.screen.console import Screen
from huleedu_tasks.screen.control_characters import visible, visible_json

HOSTILE = "a\x1b[2K\x1b]0;t\x07\rb\x9b8m\u202etxt.exe\u2066\ud800"
ACTING = ("Cc", "Cf", "Cs", "Zl", "Zp")
READABLE = "åäö 日本語 🐘\u200d💾 100% [b] \\x1b\n\ttab"
ANY_TEXT = st.text(st.characters(exclude_categories=()))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J", "\\x1b[2J"),
        ("bell\x07\x7f", "bell\\x07\\x7f"),
        ("\x9b8m", "\\x9b8m"),
        ("half\rwhole", "half\\rwhole"),
        ("one\r\ntwo\r\n", "one\ntwo\n"),
        ("\u202eabc\u202c", "\\u202eabc\\u202c"),
        ("\u2028\ufeff\xad", "\\u2028\\ufeff\\xad"),
        ("\U000e0041", "\\U000e0041"),
        ("\udcff", "\\udcff"),
        (READABLE, READABLE),
    ],
)
def test_control_characters_are_escaped(text: str, shown: str) -> None:
    assert visible(text) == shown


@given(ANY_TEXT)
def test_only_control_characters_are_replaced(text: str) -> None:
    shown = visible(text)
    left = {unicodedata.category(c) for c in shown if c not in "\n\t\u200c\u200d"}
    assert left.isdisjoint(ACTING)
    if all(unicodedata.category(c) not in ACTING for c in text):
        assert shown == text


@given(ANY_TEXT)
def test_an_escaped_json_document_has_the_same_value(text: str) -> None:
    document = json.dumps({text: [text]}, ensure_ascii=False, indent=2)
    shown = visible_json(document)
    assert json.loads(shown) == {text: [text]}
    assert all(unicodedata.category(c) not in ACTING for c in shown if c not in "\n")


def report() -> Report:
    revision = PlannedRevision(
        revision="a1",
        message=HOSTILE,
        path=HOSTILE,
        sha256="",
        sql=f"DROP TABLE x; -- {HOSTILE}",
        problems=(Problem(level=Level.WARNING, cause=HOSTILE, remedy=HOSTILE),),
    )
    outcome = Outcome(
        service="alpha",
        status=Status.FAILED,
        detail=HOSTILE,
        output=HOSTILE,
        hint=HOSTILE,
        facts={"from": HOSTILE, "to": HOSTILE},
        problems=(Problem(level=Level.ERROR, cause=HOSTILE, remedy=HOSTILE),),
        revisions=(revision,),
    )
    return Report(
        command="prod.plan",
        environment="production",
        provider="external",
        provider_reason=HOSTILE,
        outcomes=(outcome,),
        columns=("from", "to"),
        places={HOSTILE: ["alpha"], "other": ["beta"]},
        notes=(HOSTILE,),
    )


@pytest.mark.parametrize("as_json", [False, True], ids=["text", "JSON"])
@pytest.mark.parametrize(
    "result",
    [
        report(),
        Listing(command="x", key="rows", columns=("a",), rows=({"a": HOSTILE},)),
        Message(command="x", text=HOSTILE),
    ],
    ids=["report", "listing", "message"],
)
def test_no_result_contains_control_characters(
    capsys: pytest.CaptureFixture[str], result: Report | Listing | Message, as_json: bool
) -> None:
    Screen(as_json=as_json).show(result)
    captured = capsys.readouterr()
    said = captured.out + captured.err
    assert "b" in said
    assert not {"\x1b", "\x07", "\r", "\x9b", "\u202e", "\u2066", "\ud800"} & set(said)
    if as_json:
        assert json.dumps(HOSTILE) in json.dumps(json.loads(captured.out))


def test_no_error_and_no_progress_contains_control_characters(
    capsys: pytest.CaptureFixture[str],
) -> None:
    screen = Screen()
    findings = [Finding(place=HOSTILE, problem=HOSTILE)]
    screen.error("x", ServerError(HOSTILE, hint=HOSTILE, findings=findings, output=HOSTILE))
    with screen.progress(["alpha"]) as progress:
        progress.step("alpha", HOSTILE)
    said = capsys.readouterr().err
    assert said.count("\\x1b[2K") == 6
    assert not {"\x1b", "\x07", "\r", "\x9b", "\u202e"} & set(said)
