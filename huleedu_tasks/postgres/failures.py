"""PostgreSQL's errors as failures with a cause, a stable code and what to type next."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from huleedu_tasks.errors import Finding, HuleEduError, ServerError

if TYPE_CHECKING:
    import asyncpg

# By SQLSTATE, or by its class (PostgreSQL, Appendix A): the code, and the hint.
_CODES = {
    "08": ("connection-lost", "Read the server's log (`invoke db.logs`), and run it again."),
    "28": ("login-refused", "Compare user and password with those the server was made with."),
    "3D000": ("database-missing", "`invoke db.reset` creates it in development."),
    "42501": ("permission-denied", "Grant the user what the server names, or use another user."),
    "53": ("resources-exhausted", "Free what the server names, and run it again."),
    "53100": ("disk-full", "Free space on the server's disk, and run it again."),
    "53300": ("too-many-connections", "Close connections of other clients, or raise the limit."),
    "55006": ("database-in-use", "End what uses it (SELECT * FROM pg_stat_activity)."),
    "55P03": ("lock-timeout", "See who holds the lock: SELECT * FROM pg_locks WHERE granted."),
    "57014": ("query-canceled", "A timeout or another session canceled it; run it again."),
    "57": ("server-stopping", "Wait until the server accepts connections (`invoke db.up`)."),
    "58": ("server-system-error", "Read the server's log (`invoke db.logs`)."),
}
_OTHER_CODE = ("server-error", "Read the server's log (`invoke db.logs`).")
_COLLATION = "collation version mismatch"
_COLLATION_CODE = (
    "collation-mismatch",
    "The server's C library or ICU was updated. `invoke db.reset --volumes` makes its data anew;"
    " ALTER DATABASE ... REFRESH COLLATION VERSION keeps it, after REINDEX.",
)
_LOST_CODE = "connection-lost"


@contextmanager
def explained(doing: str = "") -> Iterator[None]:
    """Raise the driver's errors of a `with` block as failures of ours, and all others as they are.

    Args:
        doing: As for `explain`.

    Raises:
        ServerError: For what PostgreSQL or a connection to it raised.
    """
    try:
        yield
    except HuleEduError:
        raise
    except Exception as error:
        if failure := explain(error, doing):
            raise failure from error
        raise


def explain(error: BaseException, doing: str = "") -> ServerError | None:
    """Return a driver's error as a failure of ours.

    Args:
        doing: What failed, as the beginning of a sentence; the server's words follow.

    Returns:
        None if it is neither PostgreSQL's nor a connection's.
    """
    import asyncpg

    if isinstance(error, asyncpg.PostgresError):
        return _from_server(error, doing)
    lost = asyncpg.InterfaceError, asyncpg.InternalClientError, ConnectionError
    # What is lost with a pipe is no server.
    if isinstance(error, lost) and not isinstance(error, BrokenPipeError):
        return ServerError(
            f"{doing or 'The connection to the server failed'}: {error}.",
            code=_LOST_CODE,
            hint=_CODES["08"][1],
        )
    return None


def code_of(error: "asyncpg.PostgresError") -> str:
    """Return the stable code of a server's error."""
    return _known(error)[0]


def message_of(error: "asyncpg.PostgresError") -> str:
    """Return a server's message, without the details that follow it."""
    return str(error.args[0] if error.args else error).rstrip(".")


def details_of(error: "asyncpg.PostgresError") -> Sequence[Finding]:
    """Return what the server says beside its message."""
    said = {
        "DETAIL": getattr(error, "detail", None),
        "the server's HINT": getattr(error, "hint", None),
    }
    return [Finding(place=place, problem=text.rstrip(".")) for place, text in said.items() if text]


def _from_server(error: "asyncpg.PostgresError", doing: str) -> ServerError:
    code, hint = _known(error)
    state = getattr(error, "sqlstate", None) or "unknown"
    return ServerError(
        f"{doing or 'PostgreSQL refused a statement'}: {message_of(error)} (SQLSTATE {state}).",
        code=code,
        findings=details_of(error),
        hint=hint,
    )


def _known(error: "asyncpg.PostgresError") -> tuple[str, str]:
    if _COLLATION in str(error):
        return _COLLATION_CODE
    state = getattr(error, "sqlstate", None) or ""
    return _CODES.get(state) or _CODES.get(state[:2]) or _OTHER_CODE
