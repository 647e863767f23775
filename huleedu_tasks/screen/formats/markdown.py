"""Markdown for the comment of a pull request, and for a job summary of GitHub."""

import re
from collections.abc import Iterator, Sequence

from huleedu_tasks.screen.formats.contents import Contents
from huleedu_tasks.screen.formats.items import Item

# The longest comment of GitHub has 65536 characters.
LIMIT = 60_000
# More services without a finding are folded.
MOST_QUIET = 3
# A command in a remedy.
_COMMAND = re.compile(r"((?<!`)`[^`\s][^`]*`(?!`))")
_ACTIVE = re.compile(r"([\\`*_{}\[\]<>#|~&!])")
# GitHub neither notifies a user of that name, nor shows a formula.
_INERT = {"@": "@<!-- -->", "$": "$<!-- -->"}


def render_markdown(contents: Contents) -> str:
    """Return a heading, the verdict, the table of services, and a list of the findings.

    What is for information only is folded, and so are many services without a finding.
    """
    head = [f"### {_escaped(contents.command)}", f"**{_escaped(str(contents.verdict))}**"]
    parts = [*head, *_lines(contents, is_next=True), *_services(contents)]
    if contents.legend:
        parts.append(_escaped(contents.legend))
    findings = [item for item in contents.items if not item.is_note]
    notes = [item for item in contents.items if item.is_note]
    room = LIMIT - sum(map(len, parts))
    shown, room = _entries(findings, room)
    parts += shown
    if notes:
        shown, _ = _entries(notes, room)
        parts += _folded(f"{len(notes)} for information", shown)
    ending = [*_lines(contents, is_next=False), _escaped(contents.summary)]
    return "\n\n".join([*parts, *ending]) + "\n"


def _lines(contents: Contents, *, is_next: bool) -> Iterator[str]:
    """Yield the notes that say what to type next, or the others."""
    for note in contents.notes:
        if note.startswith("Next: ") is is_next:
            yield _with_commands(note)


def _services(contents: Contents) -> list[str]:
    quiet = [row for row in contents.rows if row[0] in contents.quiet]
    if not contents.rows:
        return []
    if len(quiet) <= MOST_QUIET:
        return [_table(contents.columns, contents.rows)]
    others = [row for row in contents.rows if row[0] not in contents.quiet]
    folded = _folded(f"{len(quiet)} services OK", [_table(contents.columns, quiet)])
    return [*([_table(contents.columns, others)] if others else []), *folded]


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join([_row(columns), f"{'|---' * len(columns)}|", *map(_row, rows)])


def _folded(title: str, parts: Sequence[str]) -> list[str]:
    return [f"<details><summary>{title}</summary>", *parts, "</details>"]


def _entries(items: Sequence[Item], room: int) -> tuple[list[str], int]:
    """Return the entries that fit into a number of characters, and how many of these are left."""
    entries: list[str] = []
    for number, item in enumerate(items):
        entry = _entry(item)
        room -= len(entry)
        if room < 0:
            entries.append(f"{len(items) - number} more findings are not shown.")
            break
        entries.append(entry)
    return entries, max(room, 0)


def _entry(item: Item) -> str:
    kind = f" {item.kind}" if item.kind else ""
    lines = [f"- **{item.level}{kind}** {_code(item.code)} {_with_commands(item.text)}"]
    if item.path:
        lines.append(_code(f"{item.path}:{item.line}" if item.line else item.path))
    if item.remedy:
        lines += map(_with_commands, item.remedy.splitlines())
    body = "  \n  ".join(lines)
    if not item.statement:
        return body
    fence = "`" * max(3, _longest_run(item.statement) + 1)
    language = "diff" if item.is_diff else "sql"
    statement = "\n".join(f"  {line}" for line in item.statement.splitlines())
    return f"{body}\n\n  {fence}{language}\n{statement}\n  {fence}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_escaped, cells))} |"


def _escaped(text: str) -> str:
    """Return a string on one line that Markdown shows as it is."""
    return _escaped_part(" ".join(text.split()))


def _escaped_part(text: str) -> str:
    escaped = _ACTIVE.sub(r"\\\1", text)
    for character, inert in _INERT.items():
        escaped = escaped.replace(character, inert)
    return escaped


def _with_commands(text: str) -> str:
    """Return a line in which strings between backticks are code, and the rest is escaped."""
    parts = _COMMAND.split(" ".join(text.split()))
    return "".join(
        _code(part[1:-1]) if _COMMAND.fullmatch(part) else _escaped_part(part) for part in parts
    )


def _code(text: str) -> str:
    fence = "`" * (_longest_run(text) + 1)
    space = " " if len(fence) > 1 else ""
    return f"{fence}{space}{' '.join(text.split())}{space}{fence}"


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)
