"""The arguments of a command, as the user typed them."""

from collections.abc import Sequence
from pathlib import Path

from huleedu_tasks.errors import ConfigurationError

# The flags that take several values.
REPEATABLE = ("service", "confirm", "first", "host", "accept_drift", "out")


def split_names(names: Sequence[str]) -> list[str]:
    """Return the names in `--service a,b`; empty names are kept, and refused later."""
    return [part.strip() for name in names for part in name.split(",")]


def whole_number(flag: str, text: str, *, at_least: int) -> int:
    """Return the value of a flag as an integer; Invoke's own conversion ends in a traceback.

    Args:
        flag: The flag as typed, for example `--jobs`.
        text: The value as typed.
        at_least: The smallest allowed value.

    Raises:
        ConfigurationError: If the value is not an integer, or is too small.
    """
    if text.isdecimal() and int(text) >= at_least:
        return int(text)
    raise ConfigurationError(
        f"{flag} must be an integer of at least {at_least}, not {text!r}.",
        code="argument-invalid",
        hint=f"Leave out {flag} to use the default.",
    )


def require_values(arguments: Sequence[str]) -> None:
    """Refuse a repeatable flag without a value, which Invoke treats as not given.

    `db.reset --service $NAME` with an empty NAME would reset every database.
    """
    flags = [f"--{name.replace('_', '-')}" for name in REPEATABLE]
    for argument, following in zip(arguments, [*arguments[1:], "--"], strict=True):
        if argument in flags and following.startswith("--"):
            raise ConfigurationError(
                f"{argument} needs a value; nothing was done.",
                code="argument-invalid",
                hint=f"Pass `{argument} NAME`, or leave out {argument}.",
            )


def typed_before(name: str, argv: Sequence[str]) -> str:
    """Return what the user typed before the name of a task.

    That is the program, for example `invoke`, and the name of the collection that the user's own
    `tasks.py` added these tasks to, if any.

    Args:
        name: The full name of the task, for example `db.reset`.
        argv: The command line.
    """
    program, *words = argv
    path = Path(program)
    # `python -m invoke` has invoke/__main__.py as its program.
    called = path.parent.name if path.name == "__main__.py" else path.name
    typed = next((word for word in words if f".{word}".endswith(f".{name}")), name)
    return f"{called} {typed.removesuffix(name)}"
