"""What was approved is what runs: the SQL of a plan, and the files that it was made from.

The SQL decides where Alembic renders it. The files decide as well: what a revision does may depend
on whether it is rendered or run. Of installed libraries only the SQL tells.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """What is approved of one service's plan beside its place and its revisions.

    Attributes:
        sql: The SQL of each revision in its order; None where that shows only when it runs.
        inputs: The SHA-256 of each file that was read for it, by its path from the root.
    """

    sql: Mapping[str, str | None] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)

    def changed_inputs(self, now: "Approval") -> Iterator[str]:
        """Say which files are no longer those that were approved."""
        for path in sorted({*self.inputs, *now.inputs}):
            if path not in now.inputs:
                yield f"{path} was read for the plan, and is not read now"
            elif path not in self.inputs:
                yield f"{path} is read now, and was not when the plan was made"
            elif self.inputs[path] != now.inputs[path]:
                yield f"{path} has been edited"

    def changed_sql(self, now: "Approval", again: "Approval | None" = None) -> Iterator[str]:
        """Say which revision's SQL is no longer that which was approved.

        Args:
            again: Rendered once more: what differs between the two is never the same, such as the
                time, and tells nothing.
        """
        if list(self.sql) != list(now.sql):
            yield f"the plan has the SQL of {_all(self.sql)}, and {_all(now.sql)} would run"
            return
        for revision, sql in self.sql.items():
            rendered = now.sql[revision]
            if sql is None and rendered is not None:
                yield f"the SQL of revision {revision} can be rendered now, and could not before"
            elif sql is not None and rendered is None:
                yield f"the SQL of revision {revision} cannot be rendered any more"
            elif sql is None or rendered is None:
                continue
            elif line := _changed_line(sql, rendered, again.sql.get(revision) if again else None):
                yield f"the SQL of revision {revision} is not the approved one: {line}"

    def masked(self, redact: Callable[[str], str]) -> "Approval":
        """Return it as it stands in the plan's file, where every password is masked."""
        sql = {name: None if text is None else redact(text) for name, text in self.sql.items()}
        return replace(self, sql=sql)


def _all(revisions: Mapping[str, object]) -> str:
    return ", ".join(revisions) or "no revision"


def _changed_line(planned: str, now: str, again: str | None) -> str:
    """Return the first line that differs, with what it was and is; empty if none does."""
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
