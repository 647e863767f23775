"""Determines whether a revision that did not finish was rolled back, as the server reports it."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from huleedu_tasks.errors import ServerError
from huleedu_tasks.migrations.observation import Observation
from huleedu_tasks.postgres.locks import transaction_status

if TYPE_CHECKING:
    import asyncpg

ABORTED, IN_PROGRESS = "aborted", "in progress"
PARTIAL_HINT = (
    "Check which of its changes are in the database (`invoke prod.validate` names invalid "
    "indexes). Undo them, or make the revision skip them. Then run the same command again."
)


class Fate(Enum):
    """Whether a revision was rolled back."""

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
    """Return the transaction id of the last revision; None if its transaction is not open.

    Args:
        session: The run of Alembic.
        connection: Another connection to the same server.
    """
    ids = _ids(session.read_events(), session.begun)
    return ids[-1] if ids and await _status(connection, ids[-1]) == IN_PROGRESS else None


async def unfinished(
    session: Observation,
    connection: "asyncpg.Connection",
    recorded: Sequence[str],
    *,
    open_at_end: int | None = None,
) -> Unfinished | None:
    """Return the revision that a run of Alembic did not finish; None if it finished all.

    A revision was rolled back only if the server reports that its transaction was aborted, and the
    run had no second transaction, session or process that could have written.

    Args:
        session: The run of Alembic, whose sessions have ended.
        connection: A connection to its database.
        recorded: The revisions that the database records.
        open_at_end: The id of the transaction that was open when this package ended the run; None
            if the run ended by itself, or had no open transaction.
    """
    kept = session.kept
    if kept and kept not in recorded:
        return Unfinished(revision=kept, fate=Fate.PARTIAL)
    if not session.begun or session.begun in recorded:
        return None
    is_only = _had_one_transaction(session.read_events(), session.begun, open_at_end)
    ids = _ids(session.read_events(), session.begun)
    aborted = [await _status(connection, number) == ABORTED for number in ids]
    fate = Fate.ROLLED_BACK if is_only and all(aborted) else Fate.PARTIAL
    return Unfinished(revision=session.begun, fate=fate)


def _had_one_transaction(
    events: Sequence[Mapping[str, Any]], revision: str, open_at_end: int | None
) -> bool:
    """Whether a revision ended in the transaction in which it began."""
    ends = [bool(event["is_only"]) for event in events if _is(event, "rolled back", revision)]
    if ends:
        return all(ends)
    return open_at_end is not None and _ids(events, revision) == [open_at_end]


def _ids(events: Sequence[Mapping[str, Any]], revision: str) -> list[int]:
    return [int(event["id"]) for event in events if _is(event, "transaction", revision)]


def _is(event: Mapping[str, Any], name: str, revision: str) -> bool:
    return event["event"] == name and event.get("revision") == revision


async def _status(connection: "asyncpg.Connection", number: int) -> str:
    # An unknown transaction does not count as rolled back.
    with suppress(ServerError):
        return await transaction_status(connection, number)
    return ""
