"""Parse a PostgreSQL URL, including the connection parameters in its query.

SQLAlchemy and libpq accept `host`, `port`, `user`, `password` and the database in the query too,
where they take precedence over the rest of the URL.
"""

import re
from dataclasses import dataclass
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from huleedu_tasks.config.hosts import host_problem

POSTGRES_PORT = 5432
LAST_PORT = 65535
# The names that a parameter may have in a query, and the part that it sets.
_IN_QUERY = {
    "host": "host",
    "port": "port",
    "user": "user",
    "password": "password",
    "database": "database",
    "dbname": "database",
    "unix_sock": "unix_sock",
}
# These select another server in ways that only libpq implements.
_ELSEWHERE = ("hostaddr", "service", "servicefile")
_SOCKET_FILE = re.compile(r"(?P<host>/.*)/\.s\.PGSQL\.(?P<port>\d+)")
_SOCKET = "for a Unix socket add its directory: ?host=/var/run/postgresql"


class InvalidUrl(Exception):
    """A string is not a valid URL of one PostgreSQL database.

    Args:
        problem: A predicate that follows a variable's name, for example `has an invalid port`. It
            does not repeat any part of the URL.
        code: The stable code of this kind of problem.
    """

    def __init__(self, problem: str, code: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class UrlParts:
    """The parts of a URL, percent-decoded.

    Attributes:
        query: The pairs of the query that are not parts themselves, in order.
    """

    scheme: str
    user: str
    password: str
    host: str
    port: int
    database: str
    query: tuple[tuple[str, str], ...]


def url_parts(text: str) -> UrlParts:
    """Parse a URL.

    Raises:
        InvalidUrl: If the URL is not valid, incomplete, or has an unsupported parameter.
    """
    try:
        split = urlsplit(text.strip())
        stated, query = _from_query(split)
        server = split.netloc.rpartition("@")[2]
        if "," in server + stated.get("host", ""):
            raise InvalidUrl("names several hosts", "url-several-hosts")
        host, port = _host_and_port(split, server, stated)
    except ValueError:
        # Python's message may repeat the password.
        raise InvalidUrl("is not a valid URL", "url-invalid") from None
    if split.scheme.partition("+")[0] not in ("postgresql", "postgres"):
        raise InvalidUrl("does not begin with postgresql+asyncpg://", "url-invalid")
    if split.fragment:
        raise InvalidUrl("contains a # that is not percent-encoded", "url-invalid")
    parts = UrlParts(
        scheme=split.scheme,
        user=stated.get("user") or unquote(split.username or ""),
        password=stated.get("password") or unquote(split.password or ""),
        host=host,
        port=port,
        database=stated.get("database") or unquote(split.path.strip("/")),
        query=query,
    )
    _require_whole(parts)
    return parts


def _from_query(split: SplitResult) -> tuple[dict[str, str], tuple[tuple[str, str], ...]]:
    """Return the connection parameters by part, and all other pairs."""
    stated: dict[str, str] = {}
    others = []
    for name, value in parse_qsl(split.query, keep_blank_values=True):
        if name in _ELSEWHERE:
            raise InvalidUrl(
                f"has the parameter {name}, which is not supported", "url-parameter-unsupported"
            )
        if name == "host" and name in stated:
            raise InvalidUrl("names several hosts", "url-several-hosts")
        if name in _IN_QUERY:
            stated[_IN_QUERY[name]] = value
        else:
            others.append((name, value))
    return stated, tuple(others)


def _host_and_port(split: SplitResult, server: str, stated: dict[str, str]) -> tuple[str, int]:
    host = stated.get("host") or split.hostname or ""
    port = stated.get("port") or (POSTGRES_PORT if split.port is None else split.port)
    if socket := _SOCKET_FILE.fullmatch(stated.get("unix_sock", "")):
        return socket["host"], int(socket["port"])
    if "%2f" in server.lower() and not stated.get("host"):
        # libpq's own form; a host's name would not keep its capitals.
        host = unquote(server.partition(":")[0])
    elif stated.get("host") and host.count(":") == 1:
        # SQLAlchemy's form.
        host, _, port = host.partition(":")
    number = int(port)
    if not 0 < number <= LAST_PORT:
        raise InvalidUrl("has an invalid port", "url-invalid")
    return host, number


def _require_whole(parts: UrlParts) -> None:
    lacks = [name for name in ("user", "host", "database") if not getattr(parts, name)]
    if lacks:
        remark = f" ({_SOCKET})" if "host" in lacks else ""
        raise InvalidUrl(f"has no {' and no '.join(lacks)}{remark}", "url-incomplete")
    if problem := host_problem(parts.host):
        raise InvalidUrl(f"has no valid host: {problem}", "url-host-invalid")
