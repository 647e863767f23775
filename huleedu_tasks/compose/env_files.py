"""Files of variables, such as `.env`, read as they stand."""

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from huleedu_tasks.repository import text_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """One line that sets a variable.

    Attributes:
        is_literal: Whether variables in its value are meant as they stand.
    """

    name: str
    value: str
    line: int
    is_literal: bool


def assignments(path: Path) -> Iterator[Assignment]:
    """Read a file; one that is not there, or may not be read, sets nothing."""
    from dotenv.parser import parse_stream

    for binding in parse_stream(io.StringIO(text_of(path))):
        statement = binding.original.string
        if binding.key is not None:
            yield Assignment(
                name=binding.key,
                value=binding.value or "",
                # A statement begins with the empty lines before it.
                line=binding.original.line + statement[: -len(statement.lstrip())].count("\n"),
                is_literal=bool(re.search(r"=\s*'", statement)),
            )
