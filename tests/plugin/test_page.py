"""The examples of docs/testing.md, in a copy of this repository."""

from tests.support.db_runs import without_initdb
from tests.support.documents import blocks, page
from tests.support.monorepo import copy_of_this_monorepo
from tests.support.pytest_runs import run_pytest


def test_the_examples_of_the_page_pass() -> None:
    conftest, *tests = blocks(page("testing.md"), "python")
    assert len(conftest.strip().splitlines()) == 3
    with copy_of_this_monorepo() as monorepo:
        without_initdb(monorepo, of_tests=True)
        monorepo.write("tests/conftest.py", conftest)
        for number, text in enumerate(tests):
            monorepo.write(f"tests/test_{number}.py", text)
        ran = run_pytest(monorepo, "-o", "asyncio_mode=auto")
        assert ran.counts == {"passed": 8}, ran.out
        assert "class_management rebuilt" in ran.out
