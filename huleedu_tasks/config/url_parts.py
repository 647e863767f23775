"""A PostgreSQL URL taken apart, with the parameters that say where it leads.

SQLAlchemy and libpq let `host`, `port`, `user`, `password` and the database stand in the query too,
where they win over what stands before it.
"""

import re
from dataclasses import dataclass
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from huleedu_tasks.config.hosts import host_problem

POSTGRES_PORT = 5432
LAST_PORT = 65535
# Each by the names it may have in a query.
_IN_QUERY = {
    "host": "host",
    "port": "port",
    "user": "user",
    "password": "password",
    "database": "database",
    "dbname": "database",
    "unix_sock": "unix_sock",
}
# Those lead elsewhere in ways that only libpq knows.
_ELSEWHERE = ("hostaddr", "service", "servicefile")
_SOCKET_FILE = re.compile(r"(?P<host>/.*)/\.s\.PGSQL\.(?P<port>\d+)")
_SOCKET = "for a Unix socket add its directory: ?host=/var/run/postgresql"


class InvalidUrl(Exception):
    """A text that is not a URL of one PostgreSQL database.

    Args:
        problem: What is wrong with it, to follow a variable's name; nothing of it is repeated.
        code: The stable name of this kind of problem.
    """

    def __init__(self, problem: str, code: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class UrlParts:
    """A URL's parts, decoded.

    Attributes:
        query: What remains of the query, in order.
    """

    scheme: str
    user: str
    password: str
    host: str
    port: int
    database: str
    query: tuple[tuple[str, str], ...]


def url_parts(text: str) -> UrlParts:
    """Take a URL apart.

    Raises:
        InvalidUrl: If it is none, or one that the tasks cannot follow.
    """
    try:
        split = urlsplit(text.strip())
        stated, query = _from_query(split)
        server = split.netloc.rpartition("@")[2]
        if "," in server + stated.get("host", ""):
            raise InvalidUrl("names several hosts", "url-several-hosts")
        host, port = _host_and_port(split, server, stated)
    except ValueError:
        # What Python says of it repeats a part, and that may be the password.
        raise InvalidUrl("is no URL", "url-invalid") from None
    if split.scheme.partition("+")[0] not in ("postgresql", "postgres"):
        raise InvalidUrl("does not begin with postgresql+asyncpg://", "url-invalid")
    if split.fragment:
        raise InvalidUrl("has a bare # in it", "url-invalid")
    parts = UrlParts(
        scheme=split.scheme,
        user=stated.get("user") or unquote(split.username or ""),
        password=stated.get("password") or unquote(split.password or ""),
        host=host,
        port=port,
        database=stated.get("database") or unquote(split.path.removeprefix("/")).strip("/"),
        query=query,
    )
    _require_whole(parts)
    return parts


def _from_query(split: SplitResult) -> tuple[dict[str, str], tuple[tuple[str, str], ...]]:
    """Return the parameters that say where it leads, and all others."""
    stated: dict[str, str] = {}
    others = []
    for name, value in parse_qsl(split.query, keep_blank_values=True):
        if name in _ELSEWHERE:
            raise InvalidUrl(
                f"states {name}=, which the tasks cannot follow", "url-parameter-unsupported"
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
        raise InvalidUrl("has a port that is none", "url-invalid")
    return host, number


def _require_whole(parts: UrlParts) -> None:
    lacks = [name for name in ("user", "host", "database") if not getattr(parts, name)]
    if lacks:
        remark = f" ({_SOCKET})" if "host" in lacks else ""
        raise InvalidUrl(f"names no {' and no '.join(lacks)}{remark}", "url-incomplete")
    if problem := host_problem(parts.host):
        raise InvalidUrl(f"has no valid host: {problem}", "url-host-invalid")
