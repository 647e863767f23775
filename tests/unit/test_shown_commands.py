"""Every command that the documentation shows exists, with the flags it shows."""

import re
from pathlib import Path

import pytest

from tests.support.commands import problem, shown
from tests.support.monorepo import PROJECT
from tests.support.tasks import TASKS

PAGES = [*sorted(PROJECT.glob("*.md")), *sorted((PROJECT / "docs").glob("*.md"))]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_every_command_of_a_page_is_accepted(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert [found for words in shown(text) if (found := problem(words))] == []


@pytest.mark.parametrize("line", ["invoke db.rest", "invoke db.reset --fast", "huleedu db.up --x"])
def test_a_command_that_does_not_exist_is_found(line: str) -> None:
    (words,) = shown(f"```console\n$ {line}\n```\n")
    assert problem(words)


def test_the_readme_lists_every_task_with_its_line() -> None:
    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^  ([a-z]+\.[a-z_]+) +(\S.*)$", readme, re.MULTILINE)
    described = {name: str(task.__doc__).partition("\n")[0] for name, task in TASKS.items()}
    assert dict(listed) == described


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_a_page_with_screens_says_that_they_are_examples(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    screens = re.findall(r"^ *```console\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)
    lines = [line for screen in screens for line in screen.splitlines()]
    if any(line.strip()[:2] not in ("", "$ ", "..") for line in lines):
        assert re.search(r"[Ss]creens .*are (an )?examples?|[Ee]xample screens", text)
