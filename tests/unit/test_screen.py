"""The screen: results on standard output, all else on standard error, no passwords."""

import io
import json
import os
import pty
import re
import sys
import termios
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from huleedu_tasks.config.secret import Redactor, Secret, is_ordinary
from huleedu_tasks.errors import ConfigurationError, ExitCode, Finding, HuleEduError
from huleedu_tasks.report import (
    Level,
    Listing,
    Message,
    Outcome,
    Problem,
    Report,
    Result,
    Status,
)
from huleedu_tasks.screen.console import LEVEL_STYLES, STYLES, LiveProgress, Screen

Capture = pytest.CaptureFixture[str]
PASSWORD = "hunter2"
MARKUP = ["[essay]", "[/home/x]", "[bold]x[/bold]", ":smile:", "\\[x]", "[", "100%"]
REDACT = Redactor([Secret(PASSWORD)])

FAILED = Outcome(
    service="orders",
    status=Status.FAILED,
    detail=f"login {PASSWORD} failed",
    hint=f"not {PASSWORD}",
    output=f"Traceback\n{PASSWORD}",
    facts={"to": PASSWORD},
    exit_code=ExitCode.FAILED,
)


def report(*outcomes: Outcome, columns: tuple[str, ...] = ()) -> Report:
    return Report(
        command="db.reset",
        environment="development",
        provider="embedded",
        provider_reason="stated",
        outcomes=outcomes,
        columns=columns,
        seconds=1.5,
    )


def listing(*rows: dict[str, Any]) -> Listing:
    return Listing(command="env.show", key="settings", columns=tuple(rows[0]), rows=rows)


def shown(capsys: Capture, result: Result, *, as_json: bool = False) -> tuple[str, str]:
    Screen(as_json=as_json, redact=REDACT).show(result)
    captured = capsys.readouterr()
    return captured.out, captured.err


def test_a_report_is_a_table_with_a_summary_on_standard_error(capsys: Capture) -> None:
    outcomes = [
        Outcome(service="a", detail="migrated", facts={"to": "x1", "n": 2}, seconds=0.5),
        Outcome(service="long_name", status=Status.SKIPPED, detail="no seeds", facts={"to": None}),
    ]
    out, err = shown(capsys, report(*outcomes, columns=("to", "n")))
    assert out.splitlines() == [
        "service    status   to  n  time    detail",
        "a          OK       x1  2  0.50 s  migrated",
        "long_name  SKIPPED  -   -  0.00 s  no seeds",
    ]
    assert err == "db.reset: 1 OK, 1 SKIPPED in 1.50 s (development; embedded: stated)\n"


def test_a_failure_shows_its_output_below_the_table_and_its_hint_once(capsys: Capture) -> None:
    out, err = shown(capsys, report(FAILED, FAILED))
    assert out.count("--- orders: its own output\nTraceback\n***") == 2
    assert err.splitlines() == [
        "What to do: not ***",
        "db.reset: 2 FAILED in 1.50 s (development; embedded: stated)",
    ]


@pytest.mark.parametrize(
    ("value", "cell"),
    [(True, "yes"), (False, "no"), (None, "-"), (0, "0"), (["a", "b"], "a, b"), ((), "")],
)
def test_values_are_formatted_for_reading(capsys: Capture, value: object, cell: str) -> None:
    out, _ = shown(capsys, listing({"name": "x", "value": value}))
    assert out.splitlines()[1] == f"x     {cell}".rstrip()


@pytest.mark.parametrize("text", MARKUP)
@pytest.mark.parametrize("as_json", [False, True], ids=["table", "JSON"])
def test_strings_from_outside_are_never_markup(capsys: Capture, text: str, as_json: bool) -> None:
    outcome = Outcome(
        service="a", status=Status.FAILED, detail=text, output=text, facts={"to": text}
    )
    out, _ = shown(capsys, report(outcome, columns=("to",)), as_json=as_json)
    printed = json.dumps(text, ensure_ascii=False) if as_json else text
    assert out.count(printed) == 3


@pytest.mark.parametrize("text", MARKUP)
def test_errors_are_never_markup(capsys: Capture, text: str) -> None:
    error = HuleEduError(text, hint=text, findings=[Finding(place=text, problem=text)], output=text)
    Screen().error("db.up", error)
    assert capsys.readouterr().err == (
        f"db.up: {text}\n  - {text}: {text}\n{text}\nWhat to do: {text}\n"
    )


def test_lines_in_a_pipe_are_not_wrapped(capsys: Capture) -> None:
    words = "word " * 200
    out, _ = shown(capsys, listing({"text": words}))
    assert out.splitlines() == ["text", words.rstrip()]


def test_a_message_is_printed_unchanged(capsys: Capture) -> None:
    out, err = shown(capsys, Message(command="db.url", text="postgresql://u:[x]@h/d"))
    assert (out, err) == ("postgresql://u:[x]@h/d\n", "")


@pytest.mark.parametrize("as_json", [False, True], ids=["table", "JSON"])
@pytest.mark.parametrize(
    "result",
    [
        report(FAILED, columns=("to",)),
        listing({"url": PASSWORD, "list": [PASSWORD]}),
        Message(command="db.url", text=PASSWORD, facts={"url": PASSWORD}),
    ],
    ids=lambda result: type(result).__name__,
)
def test_no_result_shows_a_password(capsys: Capture, result: Result, as_json: bool) -> None:
    out, err = shown(capsys, result, as_json=as_json)
    assert "***" in out
    assert PASSWORD not in out + err


@pytest.mark.parametrize("as_json", [False, True], ids=["text", "JSON"])
def test_no_error_shows_a_password(capsys: Capture, as_json: bool) -> None:
    screen = Screen(as_json=as_json, redact=REDACT)
    screen.error(
        "db.up",
        HuleEduError(
            PASSWORD,
            hint=PASSWORD,
            findings=[Finding(place=PASSWORD, problem=PASSWORD)],
            output=PASSWORD,
        ),
    )
    screen.say(PASSWORD)
    with screen.progress(["orders"]) as progress:
        progress.step("orders", PASSWORD)
        progress.done(FAILED)
    captured = capsys.readouterr()
    assert PASSWORD not in captured.out + captured.err


@given(
    password=st.text(st.characters(codec="utf-8", exclude_characters="*"), min_size=3).filter(
        lambda text: not is_ordinary(text)
    )
)
def test_a_document_stays_json_whatever_is_masked(capsys: Capture, password: str) -> None:
    screen = Screen(as_json=True, redact=Redactor([Secret(password)]))
    screen.show(Message(command="x" * 3, text=f"<{password}>"))
    document = json.loads(capsys.readouterr().out)
    assert document["message"].count("***") >= 1
    assert password not in document["message"]


def test_an_error_is_a_document_with_json(capsys: Capture) -> None:
    error = ConfigurationError(
        "It is wrong.",
        code="odd",
        hint="Correct it.",
        findings=[Finding(place="X", problem="is not set")],
    )
    Screen(as_json=True).error("db.up", error)
    captured = capsys.readouterr()
    assert captured.err == ""
    assert json.loads(captured.out) == {
        "schema_version": 1,
        "command": "db.up",
        "exit_code": 2,
        "error": {
            "message": "It is wrong.",
            "code": "odd",
            "findings": [{"place": "X", "problem": "is not set"}],
            "hint": "Correct it.",
            "output": "",
        },
    }


def test_progress_in_a_pipe_is_a_line_for_each_step_and_each_failure(capsys: Capture) -> None:
    screen = Screen(redact=REDACT)
    with screen.progress(["a", "orders"]) as progress:
        progress.step("a", "migrating")
        progress.done(Outcome(service="a"))
        progress.done(FAILED)
        progress.done(Outcome(service="a", status=Status.SKIPPED, detail="no seeds"))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == ["a: migrating", "orders: FAILED"]


@pytest.mark.parametrize("width", [34, 50])
def test_a_narrow_live_view_cuts_the_step_and_no_name(width: int) -> None:
    console = Console(file=io.StringIO(), width=width)
    progress = LiveProgress(["essay_lifecycle", "nlp"], str)
    progress.step("essay_lifecycle", "running its config.py and env.py, and comparing both")
    with console.capture() as shown:
        console.print(progress)
    first, second, footer = shown.get().splitlines()
    assert re.match(r"\.\.\.  essay_lifecycle  \d\.\d s  ru", first)
    assert first.rstrip().endswith("…")
    assert second.split()[0] == "nlp"
    assert re.match(r"1 of 2 running, \d\.\d s, ", footer)


@pytest.mark.parametrize("style", [*STYLES.values(), *LEVEL_STYLES.values()])
def test_a_color_is_readable_on_a_light_and_on_a_dark_background(style: str) -> None:
    assert not {"yellow", "white", "cyan", "black", "blue"} & set(style.split())


@pytest.mark.parametrize("term", ["dumb", "xterm"])
def test_the_width_of_a_terminal_is_its_own(monkeypatch: pytest.MonkeyPatch, term: str) -> None:
    monkeypatch.setenv("TERM", term)
    monkeypatch.delenv("COLUMNS", raising=False)
    controller, terminal = pty.openpty()
    with os.fdopen(controller, "rb"), os.fdopen(terminal, "w") as file:
        termios.tcsetwinsize(terminal, (24, 132))
        monkeypatch.setattr(sys, "stdout", file)
        detail = "x" * 100
        Screen().show(listing({"name": "a", "detail": detail}, {"name": "b", "detail": detail}))
        file.flush()
        assert f"a     {detail}" in os.read(controller, 10_000).decode()


def test_a_problem_of_the_preview_is_not_repeated(capsys: Capture) -> None:
    loss = Problem(level=Level.WARNING, cause="drops the table 'tag' with 2 rows")
    planned = report(Outcome(service="a", detail="would roll back b2", problems=(loss,)))
    screen = Screen()
    screen.preview(planned)
    assert loss.cause in capsys.readouterr().out
    screen.show(planned)
    assert loss.cause not in capsys.readouterr().out
