"""Writes the tables to a file, or to their places in a page."""

import re
from collections.abc import Mapping
from pathlib import Path

END = "<!-- end of figures -->"


def publish(texts: Mapping[str, str], path: Path) -> None:
    """Replace the tables of each group in a page; write a new page if it has no place for them."""
    page = path.read_text(encoding="utf-8") if path.exists() else ""
    if all(_begin(group) in page for group in texts):
        for group, text in texts.items():
            page = replaced(page, group, text)
    else:
        page = "\n".join(texts.values())
    path.write_text(page, encoding="utf-8")


def replaced(page: str, group: str, text: str) -> str:
    """Return a page with other tables of a group."""
    begin = _begin(group)
    block = f"{begin}\n\n{text}\n{END}"
    pattern = f"{re.escape(begin)}.*?{re.escape(END)}"
    return re.sub(pattern, lambda _: block, page, count=1, flags=re.DOTALL)


def _begin(group: str) -> str:
    return f"<!-- figures: {group} -->"
