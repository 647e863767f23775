"""Writes a developer's `.env` from `env.example`, and appends missing variables to one."""

import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path

from huleedu_tasks.config.dotenv import ENV_FILE, read_env_file
from huleedu_tasks.errors import ConfigurationError

PASSWORD_BYTES = 24
ONLY_THE_OWNER = 0o600
EXAMPLES = ("env.example", ".env.example")
_NEEDS_NO_QUOTES = re.compile(r"[\w./:@%+,=-]*", re.ASCII)


def new_password() -> str:
    """Return a random password."""
    return secrets.token_urlsafe(PASSWORD_BYTES)


def write_env_file(root: Path, values: Mapping[str, str]) -> Path | None:
    """Write `.env` from `env.example` or `.env.example`; only its owner may read it.

    Args:
        root: The root of the monorepo.
        values: The values to fill in, by variable name; they replace those of the example.

    Returns:
        The path of the new file; None if `.env` exists, which is not changed.

    Raises:
        ConfigurationError: If it cannot be written; an incomplete file is removed.
    """
    path = root / ENV_FILE
    try:
        text = with_values(_template(root), values)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, ONLY_THE_OWNER)
    except FileExistsError:
        return None
    except OSError as error:
        raise ConfigurationError(
            f"{path} could not be written: {error.strerror}",
            code="env-file-unwritable",
            hint="Correct the directory's owner and permissions.",
        ) from error
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
    except OSError as error:
        path.unlink()
        raise ConfigurationError(
            f"{path} could not be written: {error.strerror}",
            code="env-file-unwritable",
            hint="Free space on the disk, and run `invoke env.init` again.",
        ) from error
    return path


def add_lines(path: Path, values: Mapping[str, str]) -> None:
    """Append variables to a `.env`; its existing lines are not changed.

    Raises:
        ConfigurationError: If it cannot be written.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        start = "" if not text or text.endswith("\n") else "\n"
        with path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(start + "".join(f"{_line(name, values[name])}\n" for name in values))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"{path} could not be written: {error}",
            code="env-file-unwritable",
            hint="Correct its permissions, or convert it to UTF-8.",
        ) from error


def with_values(example: str, values: Mapping[str, str]) -> str:
    """Return an example's content with values filled in, in their lines or at its end."""
    text = example
    for name, value in values.items():
        line = _line(name, value)
        pattern = rf"^[ \t]*(?:export[ \t]+)?{re.escape(name)}[ \t]*=.*$"
        if found := re.search(pattern, text, re.MULTILINE):
            text = f"{text[: found.start()]}{line}{text[found.end() :]}"
        else:
            text = f"{text.rstrip()}\n{line}\n".lstrip()
    return text


def stated_in_example(root: Path) -> dict[str, str]:
    """Return the variables that `env.example` or `.env.example` sets; empty if neither exists."""
    example = _example(root)
    return read_env_file(example, {}).values if example else {}


def _line(name: str, value: str) -> str:
    return f"{name}={quoted(value)}"


def quoted(value: str) -> str:
    """Return a value quoted for `.env`, so that reading the file returns the same value."""
    if _NEEDS_NO_QUOTES.fullmatch(value):
        return value
    escaped = value.replace("\\", "\\\\")
    if "\r" in value or "\n" in value:
        escaped = escaped.replace('"', '\\"').replace("\r", "\\r").replace("\n", "\\n")
        # Double quotes interpolate `${NAME}`: this reference yields the dollar sign.
        return '"' + escaped.replace("${", "${HULEEDU_DOLLAR:-$}{") + '"'
    return "'" + escaped.replace("'", "\\'") + "'"


def _example(root: Path) -> Path | None:
    return next((root / name for name in EXAMPLES if (root / name).is_file()), None)


def _template(root: Path) -> str:
    example = _example(root)
    if example is None:
        return ""
    try:
        return example.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"{example} could not be read: {error}",
            code="env-example-unreadable",
            hint="Correct its permissions, or convert it to UTF-8.",
        ) from error
