"""Seed the essays and every change of their status, from the empty slot to the last phase."""

from datetime import timedelta

import asyncpg
from huleedu_rows import insert, published_event
from huleedu_story import (
    ANALYSED,
    BATCH_ID,
    CLASS_ID,
    COURSE_CODE,
    ESSAYS,
    JUDGED,
    REGISTERED,
    SPELLCHECKED,
    UPLOADED,
    Essay,
    key,
)

CONTENT_ASSIGNED = UPLOADED + timedelta(minutes=1)

JOURNEY = (
    ("awaiting_content", REGISTERED),
    ("ready", CONTENT_ASSIGNED),
    ("spellchecked", SPELLCHECKED),
    ("analysed", ANALYSED),
    ("completed", JUDGED),
)

BATCH = {
    "batch_id": BATCH_ID,
    "class_id": CLASS_ID,
    "course_code": COURSE_CODE,
    "expected_essays": len(ESSAYS),
    "created_at": REGISTERED,
    "complete_at": CONTENT_ASSIGNED,
}


EVENT = published_event(
    key("e4e70000", 3),
    "essay.batch_completed",
    aggregate_id=BATCH_ID,
    payload={"completed": len(ESSAYS), "failed": 0},
    occurred_at=JUDGED,
)


async def seed(connection: asyncpg.Connection) -> None:
    await insert(connection, "essay_batches", [BATCH])
    await insert(connection, "essays", [_essay(essay) for essay in ESSAYS])
    await insert(connection, "essay_transitions", [row for e in ESSAYS for row in _journey(e)])
    await insert(connection, "essay_texts", [row for e in ESSAYS for row in _texts(e)])
    await insert(connection, "event_outbox", [EVENT])


def _essay(essay: Essay) -> dict[str, object]:
    return {
        "id": essay.id,
        "batch_id": BATCH_ID,
        "slot": essay.number,
        "file_id": essay.file_id,
        "status": "completed",
        "version": len(JOURNEY),
        "created_at": REGISTERED,
        "updated_at": JUDGED,
    }


def _journey(essay: Essay) -> list[dict[str, object]]:
    origins = (None, *(status for status, _ in JOURNEY))
    return [
        {
            "id": key("74a45000", 100 * step + essay.number),
            "essay_id": essay.id,
            "event_id": key("e4e70001", 100 * step + essay.number),
            "from_status": origin,
            "to_status": status,
            "occurred_at": occurred_at,
        }
        for step, (origin, (status, occurred_at)) in enumerate(zip(origins, JOURNEY, strict=False))
    ]


def _texts(essay: Essay) -> list[dict[str, object]]:
    return [
        {
            "essay_id": essay.id,
            "kind": "original",
            "storage_id": essay.original_text_id,
            "created_at": CONTENT_ASSIGNED,
        },
        {
            "essay_id": essay.id,
            "kind": "corrected",
            "storage_id": key("7e470001", essay.number),
            "created_at": SPELLCHECKED,
        },
    ]
