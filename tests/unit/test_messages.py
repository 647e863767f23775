"""`tests/golden/messages.txt` holds the words of every message.

After a change of words, or for a new message: `python -m tests.support.messages`. Then read the
difference as the user who gets it.
"""

import difflib

import pytest

from tests.support.codes import codes
from tests.support.messages import GOLDEN, WITHOUT_CODE, golden, messages


def test_the_golden_file_has_the_words_of_every_message() -> None:
    held, said = GOLDEN.read_text(encoding="utf-8"), golden()
    changed = "\n".join(
        difflib.unified_diff(
            held.splitlines(), said.splitlines(), "tests/golden/messages.txt", "source", lineterm=""
        )
    )
    if changed:
        pytest.fail(f"{changed}\nTo accept: python -m tests.support.messages", pytrace=False)


def test_every_code_has_words() -> None:
    assert {message.code for message in messages() if message.lines} == codes() | {WITHOUT_CODE}
