"""Writes a developer's `.env` from `env.example`, and adds what an existing one lacks."""

import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path

from huleedu_tasks.config.settings import ENV_EXAMPLE, ENV_FILE, read_env_file
from huleedu_tasks.errors import ConfigurationError

PASSWORD_BYTES = 24
ONLY_THE_OWNER = 0o600
EXAMPLES = (ENV_EXAMPLE, ".env.example")
_NEEDS_NO_QUOTES = re.compile(r"[\w./:@%+,=-]*", re.ASCII)


def new_password() -> str:
    """Return a password that nobody has."""
    return secrets.token_urlsafe(PASSWORD_BYTES)


def write_env_file(root: Path, values: Mapping[str, str]) -> Path | None:
    """Write `.env` from the example there is, readable by nobody else.

    Args:
        values: What is filled in, by the variable's name; the example's own value is replaced.

    Returns:
        The file, or None if there was one already: it is left alone.

    Raises:
        ConfigurationError: If it cannot be written; no half file stays behind.
    """
    path = root / ENV_FILE
    try:
        text = with_values(_template(root), values)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, ONLY_THE_OWNER)
    except FileExistsError:
        return None
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be written: {error.strerror}",
            code="env-file-unwritable",
            hint="Correct the directory's owner and permissions.",
        ) from error
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
    except OSError as error:
        path.unlink()
        raise ConfigurationError(
            f"{path} cannot be written: {error.strerror}",
            code="env-file-unwritable",
            hint="Make room on the disk.",
        ) from error
    return path


def add_lines(path: Path, values: Mapping[str, str]) -> None:
    """Append variables to a `.env`; nothing that stands in it is changed.

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
            f"{path} cannot be written: {error}",
            code="env-file-unwritable",
            hint="It must be a writable file in UTF-8.",
        ) from error


def with_values(example: str, values: Mapping[str, str]) -> str:
    """Return the text of an example with variables filled in, in their lines or at its end."""
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
    """Return the values of the example that `.env` would be written from."""
    example = _example(root)
    return read_env_file(example, {})[0] if example else {}


def _line(name: str, value: str) -> str:
    return f"{name}={quoted(value)}"


def quoted(value: str) -> str:
    """Return a value as a line of `.env` must state it, so that it is read back the same."""
    if _NEEDS_NO_QUOTES.fullmatch(value):
        return value
    escaped = value.replace("\\", "\\\\")
    if "\r" in value or "\n" in value:
        escaped = escaped.replace('"', '\\"').replace("\r", "\\r").replace("\n", "\\n")
        # Between double quotes a reference is filled in: here by its own dollar sign.
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
            f"{example} cannot be read: {error}",
            code="env-example-unreadable",
            hint="It must be a readable file in UTF-8.",
        ) from error
