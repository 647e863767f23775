"""Converts PostgreSQL's errors to `ServerError`, with a cause, a stable code and a hint."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from huleedu_tasks.errors import Finding, HuleEduError, ServerError

if TYPE_CHECKING:
    import asyncpg

# Code and hint by SQLSTATE, or by its class (PostgreSQL, Appendix A).
_CODES = {
    "08": (
        "connection-lost",
        "Read the server's log (`invoke db.logs`), and run the command again.",
    ),
    "28": ("login-refused", "Compare the user and password with those of the server."),
    "3D000": ("database-missing", "`invoke db.reset` creates it in development and testing."),
    "42501": (
        "permission-denied",
        "Grant the privilege that the server names, or use another user.",
    ),
    "53": (
        "resources-exhausted",
        "Free the resource that the server names, and run the command again.",
    ),
    "53100": ("disk-full", "Free space on the server's disk, and run the command again."),
    "53300": (
        "too-many-connections",
        "Close connections of other clients, or raise the limit that the server names.",
    ),
    "55006": ("database-in-use", "End the sessions that use it: SELECT * FROM pg_stat_activity."),
    "55P03": (
        "lock-timeout",
        "Find the session that holds the lock: SELECT * FROM pg_locks WHERE granted.",
    ),
    "57014": (
        "query-canceled",
        "A timeout or another session cancelled the statement. Run the command again.",
    ),
    "57": ("server-stopping", "Wait until the server accepts connections (`invoke db.up`)."),
    "58": ("server-system-error", "Read the server's log (`invoke db.logs`)."),
}
_OTHER_CODE = ("server-error", "Read the server's log (`invoke db.logs`).")
_COLLATION = "collation version mismatch"
_COLLATION_CODE = (
    "collation-mismatch",
    "The server's C library or ICU was updated. Rebuild the data with `invoke db.reset --volumes`."
    " To keep it, run REINDEX and then ALTER DATABASE ... REFRESH COLLATION VERSION.",
)
_LOST_CODE = "connection-lost"


@contextmanager
def converted_errors(doing: str = "") -> Iterator[None]:
    """Convert the driver's errors in a `with` block to `ServerError`; others pass unchanged.

    Args:
        doing: As for `explain`.

    Raises:
        ServerError: If PostgreSQL or a connection to it raised an error.
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
    """Convert a driver's error to a `ServerError`.

    Args:
        doing: What failed, as the beginning of a sentence; the server's message follows. An
            empty string for a general beginning.

    Returns:
        The failure; None if the error is neither PostgreSQL's nor a connection's.
    """
    import asyncpg

    if isinstance(error, asyncpg.PostgresError):
        return _from_server(error, doing)
    lost = asyncpg.InterfaceError, asyncpg.InternalClientError, ConnectionError
    # A broken pipe belongs to a child process, not to a server.
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
    """Return the DETAIL and the HINT of a server's error; empty if it has neither."""
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
