"""The tables and code blocks of the documentation."""

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
    """Return the string between backticks in a cell; an empty string if there is none."""
    return cell.strip("`") if cell.startswith("`") else ""


def blocks(text: str, language: str) -> list[str]:
    """Return every block of code in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
