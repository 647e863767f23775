"""The documentation, taken apart: tables and blocks of code."""

import re

from tests.support.monorepo import PROJECT

Rows = list[list[str]]


def page(name: str) -> str:
    """Return the text of a page of `docs/`."""
    return (PROJECT / "docs" / name).read_text(encoding="utf-8")


def rows(text: str, *columns: str) -> Rows:
    """Return the cells of every table with these columns."""
    found: Rows = []
    inside = False
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            inside = False
        elif cells == list(columns):
            inside = True
        elif inside and not set(line) <= set("|-: "):
            found.append(cells)
    return found


def code(cell: str) -> str:
    """Return what stands between backticks in a cell, or nothing."""
    return cell.strip("`") if cell.startswith("`") else ""


def blocks(text: str, language: str) -> list[str]:
    """Return every block of code in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
