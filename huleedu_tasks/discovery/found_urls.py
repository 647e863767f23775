"""PostgreSQL URLs found in strings: parts may be unknown, and passwords are discarded."""

import re
from dataclasses import dataclass

from huleedu_tasks.config.hosts import FROM_CONTAINERS, THIS_MACHINE

# Placeholder for a part that is only known at run time.
UNKNOWN = "\0"
LONGEST_PORT = 5

_URL = re.compile(
    r"(?:jdbc:)?(?P<scheme>postgres(?:ql)?(?:\+\w+)?)://"
    # Up to the last @: a password that is not percent-encoded may contain @ and /.
    r"(?:.*@)?(?P<host>\[[^\]]*\]|[^:/?@,]*)(?::(?P<port>[^/?,]*))?[^/?]*"
    r"(?:/(?P<database>[^?#\s]*))?",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenUrl:
    """A URL without user and password.

    Attributes:
        scheme: With the driver, if the URL states one.
        host: Empty string if it is not known.
        port: `None` if it is not stated or not known.
        database: Empty string if it is not known.
    """

    scheme: str
    host: str
    port: int | None
    database: str

    @property
    def is_local(self) -> bool:
        """Whether its host may be this machine."""
        return self.host in (*THIS_MACHINE, FROM_CONTAINERS)


def see_url(text: str) -> SeenUrl | None:
    """Parse a PostgreSQL URL; return `None` if the string is not one."""
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
