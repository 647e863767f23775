"""Compare two schemas, object by object."""

import hashlib
import json
from collections.abc import Iterable
from difflib import unified_diff

from huleedu_tasks.report import Change, Difference
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
        _difference(
            Change.DIFFERENT, label, expected.objects[label].text, actual.objects[label].text
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
        texts = (text, "") if change is Change.MISSING else ("", text)
        yield _difference(change, top, *texts, parts=tuple(belonging))


def _difference(
    change: Change, label: str, expected: str, actual: str, parts: tuple[str, ...] = ()
) -> Difference:
    # JSON, because a definition may contain any separator.
    whole = json.dumps([str(change), expected, actual])
    return Difference(
        change=change,
        label=label,
        parts=parts,
        diff=_diff(expected, actual),
        digest=hashlib.sha256(whole.encode()).hexdigest(),
    )


def _diff(expected: str, actual: str) -> str:
    lines = unified_diff(_lines(expected), _lines(actual), lineterm="", n=_CONTEXT)
    # Without the names of files; each hunk keeps its `@@`, unless it is the only one.
    found = list(lines)[_HEADER_LINES:]
    hunks = [line for line in found if line.startswith("@@ ")]
    return "\n".join(line for line in found if len(hunks) > 1 or line not in hunks)


def _lines(text: str) -> list[str]:
    r"""Return the lines of a definition, with a visible `\r`."""
    return text.replace("\r", r"\r").split("\n") if text else []


def _order(found: SchemaObject) -> tuple[str, str]:
    return found.name, found.kind
