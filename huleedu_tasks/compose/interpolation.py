"""Interpolates variables in the strings of a compose file, as Compose does."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from huleedu_tasks.config.references import closing_brace

_START = re.compile(r"\$(?:(?P<dollar>\$)|(?P<name>[A-Za-z_]\w*)|\{(?P<braced>[A-Za-z_]\w*))")
_OPERATOR = re.compile(r":?[-?+]")


@dataclass(slots=True, kw_only=True)
class Interpolation:
    """The variables for one compose file.

    Attributes:
        variables: Their values.
        missing: The names of required variables (`${NAME:?}`) that are not set.
    """

    variables: Mapping[str, str]
    missing: set[str] = field(default_factory=set)

    def __call__(self, value: str) -> str:
        """Return a string with its variables interpolated; an unset one is empty."""
        replaced, position = [], 0
        while found := _START.search(value, position):
            replaced.append(value[position : found.start()])
            position = found.end()
            if found["dollar"]:
                replaced.append("$")
            elif found["name"]:
                replaced.append(self.variables.get(found["name"], ""))
            else:
                end = closing_brace(value, position)
                # Without a closing brace, the alternative extends to the end.
                end = len(value) if end < 0 else end
                replaced.append(self._braced(found["braced"], value[position:end]))
                position = end + 1
        return "".join([*replaced, value[position:]])

    def _braced(self, name: str, rest: str) -> str:
        value = self.variables.get(name, "")
        operator = _OPERATOR.match(rest)
        if operator is None:
            return value
        # With a colon, an empty value counts as unset.
        is_set = bool(value) if operator[0].startswith(":") else name in self.variables
        alternative = rest[operator.end() :]
        match operator[0][-1]:
            case "-":
                return value if is_set else self(alternative)
            case "+":
                return self(alternative) if is_set else ""
        if not is_set:
            self.missing.add(name)
        return value
