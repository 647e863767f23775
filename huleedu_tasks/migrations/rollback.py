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

ABORTED = "aborted"
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


async def unfinished(
    session: Observation, connection: "asyncpg.Connection", recorded: Sequence[str]
) -> Unfinished | None:
    """Return what a run of Alembic has begun and not finished; None if there is nothing.

    A revision was rolled back only if the server says that the transaction it began in was, and
    nothing else could have written: no second transaction, session or process of the run.

    Args:
        connection: To its database; the run has no session there any more.
        recorded: The revisions that are applied, as the database says.
    """
    kept = session.kept
    if kept and kept not in recorded:
        return Unfinished(revision=kept, fate=Fate.PARTIAL)
    if not session.begun or session.begun in recorded:
        return None
    was_rolled_back = await _was_rolled_back(session.told(), session.begun, connection)
    fate = Fate.ROLLED_BACK if was_rolled_back else Fate.PARTIAL
    return Unfinished(revision=session.begun, fate=fate)


async def _was_rolled_back(
    told: Sequence[Mapping[str, Any]], revision: str, connection: "asyncpg.Connection"
) -> bool:
    of_revision = [event for event in told if event.get("revision") == revision]
    ends = [bool(event["is_only"]) for event in of_revision if event["event"] == "rolled back"]
    ids = [int(event["id"]) for event in of_revision if event["event"] == "transaction"]
    if not all(ends) or not (ends or ids):
        return False
    return all([await _status(connection, number) == ABORTED for number in ids])


async def _status(connection: "asyncpg.Connection", number: int) -> str:
    # A server that does not know a transaction does not say that it was rolled back.
    with suppress(ServerError):
        return await transaction_status(connection, number)
    return ""
