"""Prompts on the terminal; the only user of questionary."""

import sys
from collections.abc import Sequence

from huleedu_tasks.errors import Refused
from huleedu_tasks.screen.control_characters import visible


def has_person() -> bool:
    """Whether the user can be asked: standard input and standard output are a terminal.

    Piped input, as from `yes`, is not an answer.
    """
    streams = (sys.stdin, sys.stdout)
    # `None` if the file descriptor was closed.
    return all(stream is not None and stream.isatty() for stream in streams)


def type_name(name: str, *, why: str = "", flag: str) -> None:
    """Ask the user to type a name, as a confirmation.

    Args:
        name: The name that must be typed exactly.
        why: The question that typing the name answers with yes; empty if it is already shown.
        flag: The argument that replaces the prompt, for the hint.

    Raises:
        Refused: If the user types something else, or the input is closed.
        KeyboardInterrupt: On Ctrl-C.
    """
    import questionary

    question = visible(f"{why} Type {name} to go on:".strip())
    try:
        typed = input(f"{question} ") if _is_dumb() else questionary.text(question).unsafe_ask()
    except EOFError:
        typed = ""
    if typed.strip() != name:
        raise Refused(
            f"{name!r} was not typed; nothing was changed.",
            code="not-confirmed",
            hint=f"Without a terminal, pass `{flag}`.",
        )


def agree(question: str) -> bool:
    """Ask the user to agree; return False for any answer but yes, and if the input is closed.

    Raises:
        KeyboardInterrupt: On Ctrl-C.
    """
    import questionary

    try:
        if _is_dumb():
            return input(f"{visible(question)} (y/N) ").strip().lower() in ("y", "yes")
        return bool(questionary.confirm(visible(question), default=False).unsafe_ask())
    except EOFError:
        return False


def choose(question: str, choices: Sequence[tuple[str, str]], *, otherwise: str) -> str:
    """Ask the user to choose, and return the value of the choice.

    Args:
        question: The question.
        choices: The label and the value of each choice.
        otherwise: The hint of the error.

    Raises:
        Refused: If the input is closed, or the terminal cannot move the cursor.
        KeyboardInterrupt: On Ctrl-C.
    """
    import questionary

    if _is_dumb():
        raise Refused(
            "TERM=dumb: the terminal cannot show a choice; nothing was changed.",
            code="not-confirmed",
            hint=otherwise,
        )
    options = [questionary.Choice(title=visible(shown), value=value) for shown, value in choices]
    try:
        return str(questionary.select(visible(question), choices=options).unsafe_ask())
    except EOFError:
        raise Refused(
            "No choice was made; nothing was changed.", code="not-confirmed", hint=otherwise
        ) from None


def _is_dumb() -> bool:
    """Whether the terminal cannot move the cursor, as a shell in Emacs."""
    from prompt_toolkit.utils import is_dumb_terminal

    return is_dumb_terminal()
