"""PostgreSQL URLs found in texts, with parts that may be unknown; no password is kept."""

import re
from dataclasses import dataclass

# What stands for a part that only shows when the code runs.
UNKNOWN = "\0"
LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "0.0.0.0", "::1", "host.docker.internal", ""})
LONGEST_PORT = 5

_URL = re.compile(
    r"(?:jdbc:)?(?P<scheme>postgres(?:ql)?(?:\+\w+)?)://"
    # Up to the last @: a bare password may hold one, and a slash.
    r"(?:.*@)?(?P<host>\[[^\]]*\]|[^:/?@,]*)(?::(?P<port>[^/?,]*))?[^/?]*"
    r"(?:/(?P<database>[^?#\s]*))?",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenUrl:
    """A URL without its login.

    Attributes:
        host: Empty if it is not known.
        port: None if it is not stated, or not known.
        database: Empty if it is not known.
    """

    scheme: str
    host: str
    port: int | None
    database: str

    @property
    def is_local(self) -> bool:
        """Whether it may lead to this machine."""
        return self.host in LOCAL_HOSTS


def see_url(text: str) -> SeenUrl | None:
    """Return the PostgreSQL URL a text is, or None."""
    found = _URL.match(text.strip())
    if not found:
        return None
    port = found["port"] or ""
    return SeenUrl(
        scheme=found["scheme"],
        host=_known(found["host"]).strip("[]"),
        port=int(port) if port.isdecimal() and len(port) <= LONGEST_PORT else None,
        database=_known(found["database"] or ""),
    )


def _known(text: str) -> str:
    return "" if UNKNOWN in text else text
