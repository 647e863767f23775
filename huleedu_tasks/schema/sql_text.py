"""Split SQL as pg_dump writes it: quoted names and strings may contain anything."""

import re
from collections.abc import Iterator

_TOKEN = re.compile(
    r"""
    "(?:[^"]|"")*"                      # a quoted identifier
    | \b[eE]'(?:[^'\\]|''|\\.)*'        # an escape string
    | '(?:[^']|'')*'                    # a string
    | (\$\w*\$).*?\1                    # a dollar-quoted string
    | \w+ | \s+ | .
    """,
    re.DOTALL | re.VERBOSE,
)
_PLAIN = re.compile(r"[a-z_][a-z0-9_$]*")
_IDENTIFIER = re.compile(r'"((?:[^"]|"")*)"|([^\s".(),;]+)')
_OPENING, _CLOSING = "([", ")]"


def tokens(sql: str) -> Iterator[str]:
    """Yield the words, strings, quoted identifiers, spaces and single characters of SQL."""
    return (found[0] for found in _TOKEN.finditer(sql))


def split(sql: str, separator: str) -> list[str]:
    """Split SQL at a character outside of parentheses and quotes; without empty parts."""
    parts, depth = [""], 0
    for token in tokens(sql):
        depth += (token in _OPENING) - (token in _CLOSING)
        if token == separator and depth == 0:
            parts.append("")
        else:
            parts[-1] += token
    return [part.strip() for part in parts if part.strip()]


def parenthesized(sql: str) -> tuple[str, str, str]:
    """Return what is before, in and behind the first pair of parentheses.

    The second and the third string are empty if there are no parentheses.
    """
    parts, depth = ["", "", ""], 0
    position = 0
    for token in tokens(sql):
        depth -= token == ")"
        if position < 2 and depth == 0 and token in "()":
            position += 1
        else:
            parts[position] += token
        depth += token == "("
    return parts[0], parts[1], parts[2]


def first_identifier(sql: str) -> str:
    """Return the name at the beginning of SQL, without quotes; an empty string if it has none."""
    found = _IDENTIFIER.match(sql)
    if not found:
        return ""
    return found[2] or found[1].replace('""', '"')


def identifiers(sql: str) -> list[str]:
    """Return the names in a qualified name such as `shop."two words"`, without quotes."""
    return [first_identifier(token) for token in tokens(sql) if token != "."]


def shown(*names: str) -> str:
    """Return a qualified name, on one line, quoted where PostgreSQL requires it; skip empty names.

    Words that are reserved in SQL are not quoted.
    """
    return ".".join(_shown(name) for name in names if name)


def _shown(name: str) -> str:
    if _PLAIN.fullmatch(name):
        return name
    quoted = '"' + name.replace('"', '""') + '"'
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in quoted)
