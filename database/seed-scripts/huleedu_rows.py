"""Insert seed rows, so that a second run finds them there and changes nothing."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg


async def insert(
    connection: asyncpg.Connection, table: str, rows: Sequence[Mapping[str, object]]
) -> None:
    """Insert rows of the same columns; a row whose key is taken is left as it is.

    A developer's own changes to seeded rows survive, and `updated_at` moves only when they do.
    """
    columns = list(rows[0])
    places = ", ".join(f"${number}" for number in range(1, len(columns) + 1))
    await connection.executemany(
        f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({places}) ON CONFLICT DO NOTHING",
        [[row[column] for column in columns] for row in rows],
    )


def published_event(
    event_id: UUID,
    event_type: str,
    *,
    aggregate_id: UUID,
    payload: Mapping[str, Any],
    occurred_at: datetime,
) -> dict[str, object]:
    """A row of `event_outbox`, published already: a relay that runs has nothing to send."""
    aggregate_type = event_type.partition(".")[0]
    return {
        "id": event_id,
        "aggregate_type": aggregate_type,
        "aggregate_id": aggregate_id,
        "event_type": event_type,
        "topic": f"huleedu.{aggregate_type}.events.v1",
        "payload": json.dumps(payload),
        "attempts": 1,
        "created_at": occurred_at,
        "published_at": occurred_at,
    }
