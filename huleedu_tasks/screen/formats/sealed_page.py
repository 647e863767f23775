"""A page that carries a document: sealed with its digest, and opened only if it is unchanged."""

import hashlib
import json
import re
from collections.abc import Mapping

PLAN_ID = "huleedu-plan"
_BEGIN = f'<script type="application/json" id="{PLAN_ID}">'
_END = "</script>"
_SEAL = re.compile(r"<!-- huleedu-tasks sha256:([0-9a-f]{64}) -->\n?\Z")


class Unsealed(ValueError):
    """A page is not as it was written."""


def seal(page: str) -> str:
    """Return a page with its digest as the last line."""
    return f"{page}<!-- huleedu-tasks sha256:{_digest(page)} -->\n"


def opened(page: str) -> str:
    """Return the document in a sealed page, as JSON.

    Raises:
        Unsealed: If the page was edited or truncated.
        ValueError: If it carries no document.
    """
    found = _SEAL.search(page)
    if found is None:
        raise Unsealed("it does not end with the digest of a page")
    content = page[: found.start()]
    if _digest(content) != found[1]:
        raise Unsealed("its content does not have the digest in its last line")
    begin = content.find(_BEGIN)
    end = content.find(_END, begin)
    if begin < 0 or end < 0:
        raise ValueError("the page has no plan in it")
    return content[begin + len(_BEGIN) : end]


def element(document: Mapping[str, object]) -> str:
    """Return the element with a document, which nothing in the document can end."""
    text = json.dumps(document, indent=1)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return f"{_BEGIN}\n{text}\n{_END}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
