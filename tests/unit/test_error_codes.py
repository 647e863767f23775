"""docs/errors.md lists the code of every expected failure."""

import ast
import re

from tests.support.codes import CODE, codes, errors_without_code
from tests.support.documents import code, page, rows
from tests.support.imports import modules

PAGE = page("errors.md")
COLUMNS = ("code", "what happened", "what to do")
LISTED = [code(name) for name, *_ in rows(PAGE, *COLUMNS)]


def test_every_expected_failure_has_a_code() -> None:
    assert errors_without_code() == []


def test_the_page_lists_every_code_of_the_source_and_no_other() -> None:
    assert set(LISTED) == codes()


def test_each_code_is_listed_once_in_alphabetical_order_within_its_area() -> None:
    assert len(LISTED) == len(set(LISTED))
    areas = [rows(area, *COLUMNS) for area in re.split(r"^## ", PAGE, flags=re.MULTILINE)]
    for area in areas:
        names = [code(name) for name, *_ in area]
        assert names == sorted(names)


def test_each_code_has_a_cause_and_a_cure() -> None:
    for name, cause, cure in rows(PAGE, *COLUMNS):
        assert CODE.fullmatch(code(name))
        assert cause.endswith(".")
        assert cure.endswith(".")


def test_no_message_names_a_page_which_an_installed_wheel_does_not_have() -> None:
    assert [
        module.path for module in modules() if re.search(r"docs/\S+\.md", ast.unparse(module.tree))
    ] == []
