"""Runs revisions on a throwaway database, and reports what each of their statements did."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from huleedu_tasks.migrations.child_process import Alembic
from huleedu_tasks.migrations.observation import Observation
from huleedu_tasks.migrations.observed_statements import (
    ObservedRevision,
    ObservedStatement,
    ObservedTable,
    RemovedObject,
    RenamedObject,
    RequiredColumn,
    TableLock,
)
from huleedu_tasks.migrations.walking import Direction, Step, walk

# Tables that were read whole are found by the counters.
_COUNTED = {"track_counts": "on"}


async def observe(
    alembic: Alembic, session: Observation, revisions: Sequence[str]
) -> tuple[ObservedRevision, ...]:
    """Apply revisions one after the other, each in a transaction of its own, and observe them.

    The facts are those of an empty database, too: PostgreSQL takes locks, rewrites tables and
    reads them whole whether they have rows or not.

    Args:
        session: The instructions for the run.
        revisions: The revisions, which must fit those of the database and each other.

    Returns:
        The revisions that ran. The last one has a failure if it failed.

    Raises:
        MigrationError: If Alembic fails outside of a revision, or runs none of them.
        Refused: If `env.py` connects to a different database.
    """
    session = replace(session, optional_settings=_COUNTED)
    steps = [Step(Direction.UP, revision, is_compared=False) for revision in revisions]
    walked = await walk(alembic, session, steps, is_observing=True)
    failed = walked.failed
    events = [*session.read_events()]
    is_shared = any(
        event["event"] == "transactions" and not event["per_revision"] for event in events
    )
    return tuple(
        ObservedRevision(
            revision=event["revision"],
            statements=tuple(map(_statement, event["statements"])),
            continues_transaction=is_shared and event["revision"] != revisions[0],
            failure=failed.message if failed and failed.step.revision == event["revision"] else "",
            tables={
                name: ObservedTable(shown=shown, root=root)
                for name, (shown, root) in event["tables"].items()
            },
        )
        for event in events
        if event["event"] == "observed"
    )


def _statement(found: Mapping[str, Any]) -> ObservedStatement:
    return ObservedStatement(
        sql=found["sql"].strip(),
        locks=tuple(TableLock(**lock) for lock in found.get("locks", ())),
        removed=tuple(RemovedObject(**one) for one in found.get("removed", ())),
        renamed=tuple(RenamedObject(**one) for one in found.get("renamed", ())),
        is_committed=found["is_committed"],
        rewritten=tuple(found.get("rewritten", ())),
        truncated=tuple(found.get("truncated", ())),
        read_whole=tuple(found.get("read_whole", ())),
        invalid_indexes=tuple(found.get("invalid_indexes", ())),
        required_columns=tuple(RequiredColumn(**one) for one in found.get("required_columns", ())),
        seconds=found["seconds"],
        line=found["line"],
    )
