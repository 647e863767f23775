"""Derives the settings prefix and the pattern of database names from a repository."""

import re
from collections.abc import Iterable
from pathlib import Path

from huleedu_tasks.config.registry import NAME_PLACE
from huleedu_tasks.config.settings import PREFIX
from huleedu_tasks.discovery.name_likeness import common_prefix, words
from huleedu_tasks.discovery.proposals import Decisions, Survey

# A longer name is cut to its first word.
LONGEST_PREFIX = 20
_PREFIX = re.compile(r"[A-Z][A-Z0-9_]*[A-Z0-9]")


def named_after(survey: Survey, directory: Path) -> dict[str, str]:
    """Return `prefix` and `database_name` of a new registry; empty if convention fits.

    Args:
        survey: What was read of the repository.
        directory: The directory that the registry would have.
    """
    proposals = survey.propose(Decisions())
    databases = [str(p.facts["database"].value) for p in proposals if "database" in p.facts]
    word = _common_beginning(databases)
    prefix = _prefix(word) or _prefix(directory.resolve().name)
    if any(name.startswith(f"{PREFIX.lower()}_") for name in databases) or not prefix:
        return {}
    stated = {"prefix": prefix}
    if prefix.lower() != word and word:
        stated["database_name"] = f"{word}_{NAME_PLACE}"
    return stated


def _common_beginning(databases: Iterable[str]) -> str:
    """Return the first word of most databases; empty string if they have none in common."""
    names = [name for name in databases if "_" in name]
    word = common_prefix(names)
    return word if any(name.startswith(f"{word}_") for name in names) else ""


def _prefix(name: str) -> str:
    """Return a name as a settings prefix; empty string if it is not usable."""
    parts = [word.upper() for word in words(name)]
    joined = "_".join(parts)
    found = joined if len(joined) <= LONGEST_PREFIX else "".join(parts[:1])
    return found if _PREFIX.fullmatch(found) else ""
