"""Reads `.env` files: the only parser of their assignments.

In a `.env` of the tasks `${NAME}` is substituted, except in single quotes; a `$` without braces is
literal, because passwords contain dollar signs.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from huleedu_tasks.config.interpolation import Interpolation
from huleedu_tasks.errors import Finding

ENV_FILE = ".env"
_IN_SINGLE_QUOTES = re.compile(r"\s*(?:export\s+)?(?:'[^']*'|[^=#\s]+)\s*=[^\S\r\n]*'")


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """One statement of a `.env` file.

    Attributes:
        name: The variable; an empty string if the statement could not be parsed.
        line: The number of its line, from 1.
        is_literal: Whether the value is in single quotes, so that it is not interpolated.
    """

    name: str
    value: str
    line: int
    is_literal: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvFile:
    """The content of a `.env`.

    Attributes:
        values: The value of each variable.
        lines: The line number of each variable.
        findings: Why the file, or a line of it, could not be read.
        unset: The names that each variable refers to and that are not set, if there are any.
    """

    values: dict[str, str] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    unset: dict[str, list[str]] = field(default_factory=dict)


def read_env_file(path: Path, process: Mapping[str, str]) -> EnvFile:
    """Read a `.env`; one that does not exist has no variables.

    Args:
        process: The process environment, which takes precedence for references in values.
    """
    try:
        # Some editors write a byte order mark, which is not a part of the first name.
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return EnvFile()
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
        return EnvFile(findings=[Finding(place=str(path), problem=problem)])
    except UnicodeDecodeError as error:
        problem = f"is not UTF-8 (byte {error.start}); save it in that encoding"
        return EnvFile(findings=[Finding(place=str(path), problem=problem)])
    return _interpolated(text, process)


def assignments(text: str) -> Iterator[Assignment]:
    """Yield the assignments in the text of a `.env` file, without interpolation."""
    return (statement for statement in _statements(text) if statement.name)


def _interpolated(text: str, process: Mapping[str, str]) -> EnvFile:
    file = EnvFile()
    for statement in _statements(text):
        name, value = statement.name, statement.value
        if not name:
            # The line may contain a password, so the finding does not repeat it.
            place = f"{ENV_FILE} line {statement.line}"
            problem = "is not NAME=value; a value with a quote or a # in it needs quotes around it"
            file.findings.append(Finding(place=place, problem=problem))
            continue
        file.unset.pop(name, None)
        if not statement.is_literal:
            references = Interpolation(variables={**file.values, **process}, braces_only=True)
            value = references(value)
            if references.unset:
                file.unset[name] = list(references.unset)
        file.values[name] = value
        file.lines[name] = statement.line
    return file


def _statements(text: str) -> Iterator[Assignment]:
    import io

    # The parser below `dotenv_values` also returns the line of each value, and the lines that it
    # could not parse.
    from dotenv.parser import parse_stream

    for binding in parse_stream(io.StringIO(text)):
        if binding.key is None and not binding.error:
            continue
        statement = binding.original.string
        # The parser counts the empty lines before a statement as part of it.
        empty = statement[: -len(statement.lstrip())].splitlines()
        yield Assignment(
            name="" if binding.error else binding.key or "",
            value=binding.value or "",
            line=binding.original.line + len(empty),
            is_literal=bool(_IN_SINGLE_QUOTES.match(statement)),
        )
