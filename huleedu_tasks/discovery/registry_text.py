"""Writes a registry as JSON, and keeps the layout of what does not change."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# The maximum length of a line; a longer entry gets one line per field.
LINE = 100
SERVICES = "services"
_SPACE = " \t\r\n"
_DECODER = json.JSONDecoder()


def registry_text(document: Mapping[str, Any], text: str = "") -> str:
    """Return a registry as a JSON string.

    Args:
        document: The registry to write.
        text: Its current JSON; order and layout of unchanged values are kept. If it is empty, every
            entry that fits is written in one line.
    """
    if text:
        changed = _apply(text, _edits(text, document))
        if json.loads(changed) == document:
            return changed
    return _new_text(document)


def _new_text(document: Mapping[str, Any]) -> str:
    lines = [
        f"  {json.dumps(key)}: {_value_text(value)},"
        for key, value in document.items()
        if key != SERVICES
    ]
    services = ",\n".join(_entry_text(entry) for entry in document[SERVICES])
    return "\n".join(["{", *lines, f'  "{SERVICES}": [\n{services}\n  ]', "}", ""])


def _value_text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _entry_text(entry: Mapping[str, Any]) -> str:
    pairs = [f"{json.dumps(key)}: {_value_text(value)}" for key, value in entry.items()]
    line = f"    {{ {', '.join(pairs)} }}"
    if len(line) <= LINE:
        return line
    inner = ",\n".join(f"      {pair}" for pair in pairs)
    return f"    {{\n{inner}\n    }}"


@dataclass(frozen=True, slots=True)
class _Span:
    """The position of a value; `start` is that of its key, or of the value without a key."""

    start: int
    value_start: int
    end: int
    value: Any


@dataclass(frozen=True, slots=True)
class _Edit:
    """A range of a string, and its replacement."""

    start: int
    end: int
    text: str


def _apply(text: str, edits: Iterator[_Edit]) -> str:
    for edit in sorted(edits, key=lambda edit: edit.start, reverse=True):
        text = text[: edit.start] + edit.text + text[edit.end :]
    return text


def _edits(text: str, document: Mapping[str, Any]) -> Iterator[_Edit]:
    members = _members(text, _after_space(text, 0))
    heading = {key: value for key, value in document.items() if key != SERVICES}
    yield from _of_members(text, members, heading, before=members.get(SERVICES))
    if span := members.get(SERVICES):
        yield from _of_entries(text, span, document[SERVICES])


def _of_members(
    text: str,
    members: dict[str, _Span],
    values: Mapping[str, Any],
    before: _Span | None = None,
) -> Iterator[_Edit]:
    """Replace values that differ, and add missing members."""
    missing = []
    for key, value in values.items():
        if key not in members:
            missing.append(f"{json.dumps(key)}: {_value_text(value)}")
        elif members[key].value != value:
            yield _Edit(members[key].value_start, members[key].end, _value_text(value))
    beside = before or next(reversed(members.values()), None)
    if not missing or beside is None:
        return
    separator = _separator(text, beside.start)
    if before:
        yield _Edit(
            before.start, before.start, "".join(f"{member}{separator}" for member in missing)
        )
    else:
        yield _Edit(beside.end, beside.end, "".join(f"{separator}{member}" for member in missing))


def _of_entries(text: str, span: _Span, entries: Sequence[Mapping[str, Any]]) -> Iterator[_Edit]:
    spans = list(_elements(text, span.value_start))
    if not spans:
        inner = ",\n".join(_entry_text(entry) for entry in entries)
        yield _Edit(span.value_start, span.end, f"[\n{inner}\n  ]")
        return
    for old, entry in zip(spans, entries, strict=False):
        if old.value.keys() <= entry.keys():
            yield from _of_members(text, _members(text, old.start), entry)
        else:
            yield _Edit(old.start, old.end, _laid_out(text, old.start, entry))
    last = spans[-1]
    separator = _separator(text, last.start)
    added = [_laid_out(text, last.start, entry) for entry in entries[len(spans) :]]
    yield _Edit(last.end, last.end, "".join(f"{separator}{entry}" for entry in added))


def _laid_out(text: str, position: int, entry: Mapping[str, Any]) -> str:
    """Return an entry as JSON, indented like the value at a position."""
    lines = _entry_text(entry).splitlines()
    return f"{_line_end(text)}{_indent(text, position) or ''}".join(
        line.removeprefix("    ") for line in lines
    )


def _separator(text: str, position: int) -> str:
    """Return a comma with the white space that separates the value at a position from the next."""
    indent = _indent(text, position)
    return ", " if indent is None else f",{_line_end(text)}{indent}"


def _indent(text: str, position: int) -> str | None:
    """Return the indentation at a position; `None` if other characters precede it in its line."""
    line = text[text.rfind("\n", 0, position) + 1 : position]
    return line if not line.strip() and "\n" in text[:position] else None


def _line_end(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"


def _members(text: str, start: int) -> dict[str, _Span]:
    """Return the members of the object at a position, by key."""
    found = {}
    position = _after_space(text, start + 1)
    while text[position] != "}":
        key, end = _DECODER.raw_decode(text, position)
        value_start = _after_space(text, _after_space(text, end) + 1)
        value, value_end = _DECODER.raw_decode(text, value_start)
        found[key] = _Span(position, value_start, value_end, value)
        position = _next(text, value_end)
    return found


def _elements(text: str, start: int) -> Iterator[_Span]:
    position = _after_space(text, start + 1)
    while text[position] != "]":
        value, end = _DECODER.raw_decode(text, position)
        yield _Span(position, position, end, value)
        position = _next(text, end)


def _next(text: str, position: int) -> int:
    """Return the position of the next value, or of the closing bracket."""
    position = _after_space(text, position)
    return _after_space(text, position + 1) if text[position] == "," else position


def _after_space(text: str, position: int) -> int:
    while text[position] in _SPACE:
        position += 1
    return position
