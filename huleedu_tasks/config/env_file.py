"""Writes a developer's `.env`, once, from `env.example`."""

import os
import re
import secrets
from pathlib import Path

from huleedu_tasks.config.settings import ENV_EXAMPLE, ENV_FILE, VARIABLES
from huleedu_tasks.errors import ConfigurationError

PASSWORD_VARIABLE = "HULEEDU_DB_PASSWORD"
DEVELOPMENT_USER = "huleedu_user"
PASSWORD_BYTES = 24
ONLY_THE_OWNER = 0o600
_NEEDS_NO_QUOTES = re.compile(r"[\w./:@%+,=-]*", re.ASCII)


def write_env_file(root: Path) -> Path | None:
    """Write `.env` with a generated password, readable by nobody else.

    A monorepo without an `env.example` gets the variables this package needs.

    Returns:
        The file, or None if there was one already: it is left alone.

    Raises:
        ConfigurationError: If it cannot be written; no half file stays behind.
    """
    path = root / ENV_FILE
    try:
        text = with_password(_template(root), secrets.token_urlsafe(PASSWORD_BYTES))
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, ONLY_THE_OWNER)
    except FileExistsError:
        return None
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be written: {error.strerror}",
            hint="Correct the folder's owner and permissions.",
        ) from error
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
    except OSError as error:
        path.unlink()
        raise ConfigurationError(
            f"{path} cannot be written: {error.strerror}", hint="Make room on the disk."
        ) from error
    return path


def with_password(example: str, password: str) -> str:
    """Return the text of `env.example` with the development password filled in."""
    line = f"{PASSWORD_VARIABLE}={quoted(password)}"
    pattern = rf"^[ \t]*(?:export[ \t]+)?{PASSWORD_VARIABLE}[ \t]*=.*$"
    filled, found = re.subn(pattern, lambda _: line, example, count=1, flags=re.MULTILINE)
    return filled if found else f"{example.rstrip()}\n{line}\n"


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


def minimal_example() -> str:
    """Return what `.env` needs where there is no `env.example`."""
    environment = VARIABLES[0]
    return f"{environment.name}={environment.default}\nHULEEDU_DB_USER={DEVELOPMENT_USER}\n"


def _template(root: Path) -> str:
    example = root / ENV_EXAMPLE
    if not example.is_file():
        return minimal_example()
    try:
        return example.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"{example} cannot be read: {error}", hint="It must be a readable file in UTF-8."
        ) from error
