"""Interpolates variables in a string, with Compose's operators: `${NAME:-default}` and others."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

_BRACED = r"\$\{(?P<braced>[A-Za-z_]\w*)(?P<operator>:?[-?+])?"
_IN_ENV_FILE = re.compile(_BRACED)
_IN_COMPOSE_FILE = re.compile(rf"{_BRACED}|\$(?P<dollar>\$)|\$(?P<plain>[A-Za-z_]\w*)")


@dataclass(slots=True, kw_only=True)
class Interpolation:
    """The variables for one file.

    Attributes:
        variables: Their values.
        braces_only: Whether only `${NAME}` is a reference, as in `.env`; in a compose file `$NAME`
            is one too, and `$$` is a dollar sign.
        unset: The names without a default that are not set.
        required: Those of them that are required: `${NAME:?}`.
    """

    variables: Mapping[str, str]
    braces_only: bool = False
    unset: dict[str, None] = field(default_factory=dict)
    required: dict[str, None] = field(default_factory=dict)

    def __call__(self, text: str) -> str:
        """Return a string with its references replaced; an unset variable is empty."""
        start = _IN_ENV_FILE if self.braces_only else _IN_COMPOSE_FILE
        replaced, position = [], 0
        while found := start.search(text, position):
            replaced.append(text[position : found.start()])
            value, position = self._reference(text, found)
            replaced.append(value)
        return "".join([*replaced, text[position:]])

    def _reference(self, text: str, found: re.Match[str]) -> tuple[str, int]:
        """Return the value of a reference, and the index after it."""
        groups = found.groupdict()
        if groups.get("dollar"):
            return "$", found.end()
        if plain := groups.get("plain"):
            return self._value(plain, "", ""), found.end()
        end = _closing_brace(text, found.end())
        # Not closed, or not a valid reference: kept literally.
        if end < 0 or (not found["operator"] and end != found.end()):
            return found[0], found.end()
        alternative = text[found.end() : end]
        return self._value(found["braced"], found["operator"] or "", alternative), end + 1

    def _value(self, name: str, operator: str, alternative: str) -> str:
        value = self.variables.get(name)
        # With a colon an empty value counts as not set.
        is_set = bool(value) if operator.startswith(":") else value is not None
        if operator.endswith("+"):
            return self(alternative) if is_set else ""
        if operator.endswith("-") and not is_set:
            return self(alternative)
        if not is_set:
            self.unset[name] = None
            if operator:
                self.required[name] = None
        return value or ""


def _closing_brace(text: str, start: int) -> int:
    """Return the index of the closing brace; -1 if there is none.

    Args:
        text: A string with `${` in it.
        start: The index after that `${`.
    """
    depth = 1
    for position in range(start, len(text)):
        if text.startswith("${", position):
            depth += 1
        elif text[position] == "}":
            depth -= 1
        if depth == 0:
            return position
    return -1
