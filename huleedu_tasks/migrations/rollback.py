"""What became of a revision that did not run to its end, as the server says."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from huleedu_tasks.errors import ServerError
from huleedu_tasks.migrations.runner import Observation
from huleedu_tasks.postgres.locks import transaction_status

if TYPE_CHECKING:
    import asyncpg

ABORTED, IN_PROGRESS = "aborted", "in progress"
PARTIAL_HINT = (
    "See what of it is there (`invoke prod.validate` names invalid indexes), and undo it or let "
    "the revision pass over it; then run the same command again."
)


class Fate(Enum):
    """What became of it."""

    ROLLED_BACK = "was rolled back"
    PARTIAL = "may be partially applied"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfinished:
    """A revision that was begun and is not recorded in the database, and its fate."""

    revision: str
    fate: Fate

    def __str__(self) -> str:
        return f"revision {self.revision} {self.fate.value}"


async def open_transaction(session: Observation, connection: "asyncpg.Connection") -> int | None:
    """Return the id of the transaction of the last revision, if the server says it is open.

    Args:
        connection: Another one to the same server.
    """
    ids = _ids(session.told(), session.begun)
    return ids[-1] if ids and await _status(connection, ids[-1]) == IN_PROGRESS else None


async def unfinished(
    session: Observation,
    connection: "asyncpg.Connection",
    recorded: Sequence[str],
    *,
    open_at_end: int | None = None,
) -> Unfinished | None:
    """Return what a run of Alembic has begun and not finished; None if there is nothing.

    A revision was rolled back only if the server says that the transaction it began in was, and
    nothing else could have written: no second transaction, session or process of the run.

    Args:
        connection: To its database; the run has no session there any more.
        recorded: The revisions that are applied, as the database says.
        open_at_end: The id of the transaction that was open when we ended the run; None if it
            ended by itself, or had none.
    """
    kept = session.kept
    if kept and kept not in recorded:
        return Unfinished(revision=kept, fate=Fate.PARTIAL)
    if not session.begun or session.begun in recorded:
        return None
    is_only = _had_one_transaction(session.told(), session.begun, open_at_end)
    ids = _ids(session.told(), session.begun)
    aborted = [await _status(connection, number) == ABORTED for number in ids]
    fate = Fate.ROLLED_BACK if is_only and all(aborted) else Fate.PARTIAL
    return Unfinished(revision=session.begun, fate=fate)


def _had_one_transaction(
    told: Sequence[Mapping[str, Any]], revision: str, open_at_end: int | None
) -> bool:
    """Whether a revision has ended in the transaction that it began in."""
    ends = [bool(e["is_only"]) for e in told if _is(e, "rolled back", revision)]
    if ends:
        return all(ends)
    return open_at_end is not None and _ids(told, revision) == [open_at_end]


def _ids(told: Sequence[Mapping[str, Any]], revision: str) -> list[int]:
    return [int(event["id"]) for event in told if _is(event, "transaction", revision)]


def _is(event: Mapping[str, Any], name: str, revision: str) -> bool:
    return event["event"] == name and event.get("revision") == revision


async def _status(connection: "asyncpg.Connection", number: int) -> str:
    # A server that does not know a transaction does not say that it was rolled back.
    with suppress(ServerError):
        return await transaction_status(connection, number)
    return ""
