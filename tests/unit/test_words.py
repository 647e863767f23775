"""The words of the package, its pages and its tests."""

import re
import subprocess
from pathlib import Path

from tests.support.monorepo import PROJECT

# Of a foreign syntax: name the subject, the type or PostgreSQL's noun instead.
AVOIDED = re.compile(
    r"\b(nobody|somebody|whoever|anew|astray|newborn|stillborn|pristine|gravest|the very \w+"
    r"|for ever|holds? fast)\b",
    re.IGNORECASE,
)
SUFFIXES = {".py", ".md", ".example", ".toml", ".json"}
# The suffix of databases on servers of today, and the Unix account.
ALLOWED = {"__pristine", '"nobody"', "`nobody`"}
HERE = Path(__file__)


def texts() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    paths = (PROJECT / name for name in listed.stdout.splitlines())
    return [path for path in paths if path.suffix in SUFFIXES and path != HERE and path.is_file()]


def test_every_text_uses_the_nouns_of_the_field() -> None:
    found = [
        f"{path.relative_to(PROJECT)}:{number}: {line.strip()}"
        for path in texts()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        for match in AVOIDED.finditer(line)
        if not any(name in line and match[0] in name for name in ALLOWED)
    ]
    assert found == []
