"""Prompts, answered through a real prompt_toolkit application."""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from huleedu_tasks.errors import ExitCode, Refused
from huleedu_tasks.screen.prompts import agree, has_person, type_name

NAME = "huleedu_orders"
ENTER, CTRL_C, CTRL_D = "\r", "\x03", "\x04"


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")


@contextmanager
def keys(typed: str) -> Iterator[None]:
    """Type at the terminal of a prompt."""
    with (
        create_pipe_input() as pipe,
        create_app_session(input=pipe, output=DummyOutput()),
    ):
        pipe.send_text(typed)
        yield


def ask() -> None:
    type_name(NAME, why="May it be destroyed?", flag=f"--confirm {NAME}")


@pytest.mark.parametrize("typed", [NAME, f" {NAME} "])
def test_the_exact_name_is_accepted(typed: str) -> None:
    with keys(typed + ENTER):
        ask()


@pytest.mark.parametrize(
    "typed",
    ["", "y", "yes", "huleedu_order", NAME.upper(), f"{NAME} {NAME}"],
)
def test_anything_else_is_refused(typed: str) -> None:
    with keys(typed + ENTER), pytest.raises(Refused, match=NAME) as caught:
        ask()
    assert caught.value.exit_code is ExitCode.REFUSED
    assert f"--confirm {NAME}" in caught.value.hint


def test_the_end_of_the_input_is_refused() -> None:
    with keys(CTRL_D), pytest.raises(Refused):
        ask()


def test_ctrl_c_interrupts_even_after_the_right_name() -> None:
    with keys(NAME + CTRL_C), pytest.raises(KeyboardInterrupt):
        ask()


@pytest.mark.parametrize(
    ("stdin", "stdout", "is_asked"),
    [
        ("terminal", "terminal", True),
        ("pipe", "terminal", False),
        ("terminal", "pipe", False),
        ("pipe", "pipe", False),
    ],
)
def test_the_user_is_asked_only_if_input_and_output_are_a_terminal(
    monkeypatch: pytest.MonkeyPatch, stdin: str, stdout: str, is_asked: bool
) -> None:
    master, slave = os.openpty()
    read_end, write_end = os.pipe()
    readers = {"terminal": slave, "pipe": read_end}
    writers = {"terminal": slave, "pipe": write_end}
    try:
        with (
            open(readers[stdin], closefd=False) as source,
            open(writers[stdout], "w", closefd=False) as sink,
            monkeypatch.context() as patch,
        ):
            patch.setattr(sys, "stdin", source)
            patch.setattr(sys, "stdout", sink)
            assert has_person() is is_asked
    finally:
        for descriptor in (master, slave, read_end, write_end):
            os.close(descriptor)


@pytest.mark.parametrize(("typed", "expected"), [("y", True), (" Yes", True), ("", False)])
def test_a_dumb_terminal_gets_a_line_without_control_sequences(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    typed: str,
    expected: bool,
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{typed}\n{NAME}\n"))
    assert agree("Roll it back?") is expected
    ask()
    assert "\x1b" not in capsys.readouterr().out


def test_a_dumb_terminal_whose_input_is_closed_agrees_to_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert not agree("Roll it back?")
    with pytest.raises(Refused):
        ask()
