"""How alike the names of a directory, a container and a database are, without generic words."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

# Generic words: they name the kind of thing.
AFFIXES = frozenset(
    {
        *("service", "services", "svc", "srv", "server", "api", "app", "apps", "backend"),
        *("package", "packages"),
        *("db", "database", "databases", "postgres", "postgresql", "pg", "data", "prod", "dev"),
    }
)
# Words that distinguish a secondary server from the main one.
OTHER_ONE = frozenset(
    {"replica", "standby", "slave", "readonly", "test", "tests", "testing", "backup", "ci"}
)


def words(name: str) -> list[str]:
    """Return the words of a name: `svc-orders`, `ordersDB` and `orders_db` have the same ones."""
    apart = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name)
    return [word for word in re.split(r"[^a-z0-9]+", apart.lower()) if word]


def common_prefix(names: Iterable[str]) -> str:
    """Return the first word of most of the names; empty string if they have none in common."""
    stems = [stem(name) for name in names]
    firsts = Counter(stem_words[0] for stem_words in stems if len(stem_words) > 1)
    if not firsts:
        return ""
    word, count = firsts.most_common(1)[0]
    return word if count > 1 and count * 2 > len(stems) else ""


def stem(name: str, prefix: str = "") -> tuple[str, ...]:
    """Return the words of a name that are not generic; empty if all are.

    Args:
        prefix: The common first word of similar names, which is removed.
    """
    telling = tuple(word for word in words(name) if word not in AFFIXES)
    return telling[1:] if len(telling) > 1 and telling[0] == prefix else telling


def initials(name: str) -> str:
    """Return the first letters of a name's words."""
    return "".join(word[0] for word in words(name))


def likeness(own: Sequence[str], other: Sequence[str]) -> float:
    """Return the similarity of two stems, from 0 to 1."""
    if not own or not other:
        return 0.0
    if "".join(own) == "".join(other):
        return 1.0
    if set(other) - OTHER_ONE == set(own) and set(other) != set(own):
        return 0.3
    if set(own) <= set(other) or set(other) <= set(own):
        return 0.25
    return 0.0
