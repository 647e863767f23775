"""Every link in the documentation resolves to an existing file and heading."""

import re
from pathlib import Path

import pytest

from tests.support.monorepo import PROJECT

PAGES = [*sorted(PROJECT.glob("*.md")), *sorted((PROJECT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")
BLOCK = re.compile(r"^ *```.*?^ *```", re.DOTALL | re.MULTILINE)
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def text_of(path: Path) -> str:
    """Return a page without its blocks of code."""
    return BLOCK.sub("", path.read_text(encoding="utf-8"))


def anchors(path: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub derives them."""
    headings = (heading.lower() for heading in HEADING.findall(text_of(path)))
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_every_link_of_a_page_resolves(path: Path) -> None:
    for link in LINK.findall(text_of(path)):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        assert target.is_file(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("path", PAGES[len(list(PROJECT.glob("*.md"))) :], ids=lambda p: p.name)
def test_readme_or_another_page_links_to_every_page(path: Path) -> None:
    linking = [page for page in PAGES if page != path]
    assert any(path.name in link for page in linking for link in LINK.findall(text_of(page)))
