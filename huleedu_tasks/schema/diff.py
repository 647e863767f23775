"""Compare two schemas, object by object."""

from collections.abc import Iterable
from difflib import unified_diff

from huleedu_tasks.report import Change as Change
from huleedu_tasks.report import Difference as Difference
from huleedu_tasks.schema.objects import Schema, SchemaObject

# Lines that show the place of a change.
_CONTEXT = 3
# `---`, `+++`
_HEADER_LINES = 2


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
    # In pg_dump's order: a table, its columns, its constraints.
    for label in (label for label in one.objects if label in only):
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
