"""Reads the assignments in `.env` files, without interpolation."""

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from huleedu_tasks.repository import text_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """One assignment of a variable.

    Attributes:
        line: The number of its line, from 1.
        is_literal: Whether the value is in single quotes, so that it is not interpolated.
    """

    name: str
    value: str
    line: int
    is_literal: bool


def assignments(path: Path) -> Iterator[Assignment]:
    """Yield the assignments in a file; none if it does not exist or cannot be read."""
    from dotenv.parser import parse_stream

    for binding in parse_stream(io.StringIO(text_of(path))):
        statement = binding.original.string
        if binding.key is not None:
            yield Assignment(
                name=binding.key,
                value=binding.value or "",
                # The parser counts the empty lines before a statement as part of it.
                line=binding.original.line + statement[: -len(statement.lstrip())].count("\n"),
                is_literal=bool(re.search(r"=\s*'", statement)),
            )
