"""`${NAME}` in a value of `.env`, substituted as Compose does.

`$NAME` without braces is not substituted, as in python-dotenv: passwords contain dollar signs.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

_START = re.compile(r"\$\{(?P<name>[A-Za-z_]\w*)(?P<operator>:?[-+?])?")


@dataclass(slots=True, kw_only=True)
class References:
    """The references of one value.

    Attributes:
        variables: The variables that may be referenced, by name.
        unset: The referenced names that are not set and have no default.
    """

    variables: Mapping[str, str]
    unset: list[str] = field(default_factory=list)

    def fill_in(self, text: str) -> str:
        """Return a string with its references replaced; unset names are added to `unset`."""
        filled, position = [], 0
        while found := _START.search(text, position):
            end = closing_brace(text, found.end())
            # Not closed, or not a valid reference: kept literally.
            if end < 0 or (not found["operator"] and end != found.end()):
                filled.append(text[position : found.end()])
                position = found.end()
                continue
            filled.append(text[position : found.start()])
            filled.append(self._value(found["name"], found["operator"], text[found.end() : end]))
            position = end + 1
        return "".join([*filled, text[position:]])

    def _value(self, name: str, operator: str | None, alternative: str) -> str:
        value = self.variables.get(name)
        # With a colon an empty value counts as not set.
        is_set = bool(value) if operator and operator.startswith(":") else value is not None
        if operator and operator.endswith("+"):
            return self.fill_in(alternative) if is_set else ""
        if operator and operator.endswith("-") and not is_set:
            return self.fill_in(alternative)
        if not is_set:
            self.unset.append(name)
        return value or ""


def closing_brace(text: str, start: int) -> int:
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
