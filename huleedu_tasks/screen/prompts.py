"""Questions to a person at a terminal; the only user of questionary."""

import sys
from collections.abc import Sequence

from huleedu_tasks.errors import Refused
from huleedu_tasks.screen.control_characters import visible


def has_person() -> bool:
    """Whether somebody can be asked: questions and answers both go through a terminal.

    Piped input, as from `yes`, is not a person.
    """
    streams = (sys.stdin, sys.stdout)
    # Python has none where a file descriptor was closed.
    return all(stream is not None and stream.isatty() for stream in streams)


def type_name(name: str, *, why: str, flag: str) -> None:
    """Have a person type a name, exactly.

    Args:
        name: What must be typed.
        why: What typing it allows, as a question.
        flag: The argument that replaces the prompt, for the error.

    Raises:
        Refused: If something else is typed, or the input is closed.
        KeyboardInterrupt: On Ctrl-C.
    """
    import questionary

    try:
        typed = questionary.text(visible(f"{why} Type {name} to go on:")).unsafe_ask()
    except EOFError:
        typed = ""
    if typed.strip() != name:
        raise Refused(
            f"{name!r} was not typed; nothing was changed.",
            code="not-confirmed",
            hint=f"Without a terminal, pass `{flag}`.",
        )


def agree(question: str) -> bool:
    """Have a person say yes; everything else is a no.

    Raises:
        KeyboardInterrupt: On Ctrl-C.
    """
    import questionary

    try:
        return bool(questionary.confirm(visible(question), default=False).unsafe_ask())
    except EOFError:
        return False


def choose(question: str, choices: Sequence[tuple[str, str]], *, otherwise: str) -> str:
    """Have a person choose one of several.

    Args:
        choices: For each, what is shown and what it stands for.
        otherwise: What to do without an answer, for the error.

    Raises:
        Refused: If the input is closed.
        KeyboardInterrupt: On Ctrl-C.
    """
    import questionary

    options = [questionary.Choice(title=visible(shown), value=value) for shown, value in choices]
    try:
        return str(questionary.select(visible(question), choices=options).unsafe_ask())
    except EOFError:
        raise Refused(
            "Nothing was chosen, and nothing was changed.", code="not-confirmed", hint=otherwise
        ) from None
