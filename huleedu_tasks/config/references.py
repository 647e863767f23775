"""`${NAME}` in a value of `.env`, filled in as Compose does.

`$NAME` without braces is no reference, as for python-dotenv: passwords have dollar signs.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

_START = re.compile(r"\$\{(?P<name>[A-Za-z_]\w*)(?P<operator>:?[-+?])?")


@dataclass(slots=True, kw_only=True)
class References:
    """The references of one value.

    Attributes:
        variables: What they may name.
        unset: The names that are set nowhere and have no default.
    """

    variables: Mapping[str, str]
    unset: list[str] = field(default_factory=list)

    def fill_in(self, text: str) -> str:
        """Return a text with its references replaced."""
        filled, position = [], 0
        while found := _START.search(text, position):
            end = closing_brace(text, found.end())
            # Without an end, or with something odd in it, it is a text like any other.
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
        # With a colon an empty value counts as none.
        is_set = bool(value) if operator and operator.startswith(":") else value is not None
        if operator and operator.endswith("+"):
            return self.fill_in(alternative) if is_set else ""
        if operator and operator.endswith("-") and not is_set:
            return self.fill_in(alternative)
        if not is_set:
            self.unset.append(name)
        return value or ""


def closing_brace(text: str, start: int) -> int:
    """Return where the brace that was opened before is closed; -1 if it is not."""
    depth = 1
    for position in range(start, len(text)):
        if text.startswith("${", position):
            depth += 1
        elif text[position] == "}":
            depth -= 1
        if depth == 0:
            return position
    return -1
