"""Compare two schemas, object by object."""

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import unified_diff
from enum import StrEnum

from huleedu_tasks.schema.objects import Schema, SchemaObject

# Lines that show the place of a change.
_CONTEXT = 3
# `---`, `+++`
_HEADER_LINES = 2


class Change(StrEnum):
    """How an object of the actual schema differs from the expected one."""

    MISSING = "missing"
    EXTRA = "extra"
    DIFFERENT = "different"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One difference between two schemas.

    Attributes:
        label: The label of the object, for example `column public.note.body`.
        parts: The labels of the objects that belong to it and are missing or extra with it.
        diff: The definitions as a unified diff: `-` is expected, `+` is actual.
    """

    change: Change
    label: str
    parts: tuple[str, ...]
    diff: str

    def __str__(self) -> str:
        count = len(self.parts)
        parts = f", with {count} part{'s' * (count > 1)}" if count else ""
        return f"{self.label}: {self.change}{parts}"

    def as_json(self) -> dict[str, object]:
        """Return the JSON object."""
        return {
            "object": self.label,
            "change": str(self.change),
            "parts": list(self.parts),
            "diff": self.diff,
        }


def compare(expected: Schema, actual: Schema) -> list[Difference]:
    """Return the differences between two schemas, sorted by the names of the objects.

    What belongs to a missing or extra object is a part of that difference.
    """
    missing = _only_in(expected, actual, Change.MISSING)
    extra = _only_in(actual, expected, Change.EXTRA)
    both = expected.objects.keys() & actual.objects.keys()
    different = [
        Difference(
            change=Change.DIFFERENT,
            label=label,
            parts=(),
            diff=_diff(expected.objects[label].text, actual.objects[label].text),
        )
        for label in both
        if expected.objects[label].text != actual.objects[label].text
    ]
    known = {**expected.objects, **actual.objects}
    return sorted([*missing, *extra, *different], key=lambda found: _order(known[found.label]))


def _only_in(one: Schema, other: Schema, change: Change) -> Iterable[Difference]:
    only = one.objects.keys() - other.objects.keys()
    parts: dict[str, list[str]] = {}
    for label in sorted(only, key=lambda label: _order(one.objects[label])):
        top = [ancestor for ancestor in one.lineage(label) if ancestor in only][-1]
        parts.setdefault(top, []).extend([label] if label != top else [])
    for top, belonging in parts.items():
        text = "\n".join(one.objects[label].text for label in (top, *belonging))
        diff = _diff(text, "") if change is Change.MISSING else _diff("", text)
        yield Difference(change=change, label=top, parts=tuple(belonging), diff=diff)


def _diff(expected: str, actual: str) -> str:
    lines = unified_diff(expected.splitlines(), actual.splitlines(), lineterm="", n=_CONTEXT)
    # Without the names of files; each hunk keeps its `@@`, unless it is the only one.
    found = list(lines)[_HEADER_LINES:]
    hunks = [line for line in found if line.startswith("@@ ")]
    return "\n".join(line for line in found if len(hunks) > 1 or line not in hunks)


def _order(found: SchemaObject) -> tuple[str, str]:
    return found.name, found.kind
