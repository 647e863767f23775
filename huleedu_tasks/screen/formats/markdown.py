"""Markdown for the comment of a pull request, and for a job summary of GitHub."""

import re

from huleedu_tasks.screen.formats.contents import Contents, Item

# The longest comment of GitHub has 65536 characters.
LIMIT = 60_000
# A command in a remedy.
_COMMAND = re.compile(r"((?<!`)`[^`\s][^`]*`(?!`))")
_ACTIVE = re.compile(r"([\\`*_{}\[\]<>#|~&!])")
# An empty comment keeps GitHub from notifying a user of that name.
_MENTION = "@<!-- -->"


def render_markdown(contents: Contents) -> str:
    """Return a heading, the table of services, and a list of the findings."""
    header = [_row(contents.columns), "|---" * len(contents.columns) + "|"]
    table = [*header, *(_row(row) for row in contents.rows)]
    parts = [f"### {_escaped(contents.command)}", "\n".join(table)]
    length = sum(map(len, parts))
    for number, item in enumerate(contents.items):
        entry = _entry(item)
        length += len(entry)
        if length > LIMIT:
            parts.append(f"{len(contents.items) - number} more findings are not shown.")
            break
        parts.append(entry)
    return "\n\n".join([*parts, _escaped(contents.summary)]) + "\n"


def _entry(item: Item) -> str:
    lines = [f"- **{item.level}** {_code(item.code)} {_escaped(item.text)}"]
    if item.path:
        lines.append(_code(f"{item.path}:{item.line}" if item.line else item.path))
    if item.remedy:
        lines += map(_with_commands, item.remedy.splitlines())
    body = "  \n  ".join(lines)
    if not item.statement:
        return body
    fence = "`" * max(3, _longest_run(item.statement) + 1)
    statement = "\n".join(f"  {line}" for line in item.statement.splitlines())
    return f"{body}\n\n  {fence}\n{statement}\n  {fence}"


def _row(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(map(_escaped, cells))} |"


def _escaped(text: str) -> str:
    """Return a string on one line that Markdown shows as it is."""
    return _escaped_part(" ".join(text.split()))


def _escaped_part(text: str) -> str:
    return _ACTIVE.sub(r"\\\1", text).replace("@", _MENTION)


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
