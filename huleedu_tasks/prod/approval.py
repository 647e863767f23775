"""Compare the approved SQL and input files of a plan with the current ones.

Both are compared, because a revision may do something else when it runs than when it is rendered.
Files of installed libraries are not inputs; a change of them shows only in the rendered SQL.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """The approved SQL and input files of one service's plan.

    Attributes:
        sql: The SQL by revision, in the order of the run; `None` if it cannot be rendered.
        inputs: The SHA-256 of each file that the rendering read, by its path from the root.
    """

    sql: Mapping[str, str | None] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)

    def changed_inputs(self, now: "Approval") -> Iterator[str]:
        """Yield a description of each input file that differs from the approved one."""
        for path in sorted({*self.inputs, *now.inputs}):
            if path not in now.inputs:
                yield f"{path} was read for the plan, and is no longer read"
            elif path not in self.inputs:
                yield f"{path} is read now, and was not read for the plan"
            elif self.inputs[path] != now.inputs[path]:
                yield f"{path} has been edited"

    def changed_sql(self, now: "Approval", again: "Approval | None" = None) -> Iterator[str]:
        """Yield a description of each revision whose SQL differs from the approved SQL.

        Args:
            now: The current SQL.
            again: A second rendering. A line that differs between both renderings, such as one
                with the time, is ignored. `None` to compare every line.
        """
        if list(self.sql) != list(now.sql):
            yield f"the plan contains the SQL of {_all(self.sql)}, but {_all(now.sql)} would run"
            return
        for revision, sql in self.sql.items():
            rendered = now.sql[revision]
            if sql is None and rendered is not None:
                yield (
                    f"the SQL of revision {revision} can be rendered now, and could not be "
                    "rendered for the plan"
                )
            elif sql is not None and rendered is None:
                yield f"the SQL of revision {revision} can no longer be rendered"
            elif sql is None or rendered is None:
                continue
            elif line := _changed_line(sql, rendered, again.sql.get(revision) if again else None):
                yield f"the SQL of revision {revision} differs from the approved SQL: {line}"

    def part(self, revisions: Iterable[str]) -> "Approval":
        """Return the approval of some of the revisions, with all input files."""
        return replace(self, sql={name: self.sql[name] for name in revisions if name in self.sql})

    def masked(self, redact: Callable[[str], str]) -> "Approval":
        """Return a copy with every password masked, as in the plan file."""
        sql = {name: None if text is None else redact(text) for name, text in self.sql.items()}
        return replace(self, sql=sql)


def _all(revisions: Mapping[str, object]) -> str:
    return ", ".join(revisions) or "no revision"


def _changed_line(planned: str, now: str, again: str | None) -> str:
    """Describe the first line that differs; return an empty string if none does."""
    before, after = planned.splitlines(), now.splitlines()
    repeated = after if again is None else again.splitlines()
    if len(after) != len(repeated):
        return ""
    lines = range(max(len(before), len(after)))
    for number in lines:
        was, is_now = _line(before, number), _line(after, number)
        if was != is_now and is_now == _line(repeated, number):
            return f"line {number + 1} was {was!r}, and is {is_now!r} now"
    return ""


def _line(lines: list[str], number: int) -> str:
    return lines[number] if number < len(lines) else ""
