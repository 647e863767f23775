"""Seed the batch, its essays, and the pipeline run that took it through all phases."""

import json

import asyncpg
from huleedu_rows import insert, published_event
from huleedu_story import (
    ANALYSED,
    AUTHORS_CONFIRMED,
    BATCH_ID,
    CLASS_ID,
    COURSE_CODE,
    ESSAYS,
    INSTRUCTIONS,
    JUDGED,
    READY,
    REGISTERED,
    SPELLCHECKED,
    TEACHER_ID,
    TITLE,
    UPLOADED,
    key,
)

RUN_ID = key("47490000", 1)

PHASES = (
    ("student_matching", UPLOADED, AUTHORS_CONFIRMED),
    ("spellcheck", AUTHORS_CONFIRMED, SPELLCHECKED),
    ("text_analysis", SPELLCHECKED, ANALYSED),
    ("cj_assessment", ANALYSED, JUDGED),
)

BATCH = {
    "id": BATCH_ID,
    "owner_id": TEACHER_ID,
    "class_id": CLASS_ID,
    "course_code": COURSE_CODE,
    "title": TITLE,
    "instructions": INSTRUCTIONS,
    "essay_count": len(ESSAYS),
    "status": "completed",
    "correlation_id": key("c0441000", 1),
    "created_at": REGISTERED,
    "updated_at": READY,
}

RUN = {
    "id": RUN_ID,
    "batch_id": BATCH_ID,
    "requested_by": TEACHER_ID,
    "started_at": UPLOADED,
    "finished_at": READY,
}

CONFIGURATION = {
    "spellcheck": {"language": "en", "learner_errors": True},
    "cj_assessment": {"anchors": 6, "comparisons": 60},
}

SNAPSHOT = {
    "run_id": RUN_ID,
    "configuration": json.dumps(CONFIGURATION),
    "taken_at": UPLOADED,
}


EVENT = published_event(
    key("e4e70000", 4),
    "batch.pipeline_completed",
    aggregate_id=BATCH_ID,
    payload={"run_id": str(RUN_ID), "phases": [phase for phase, *_ in PHASES]},
    occurred_at=READY,
)


async def seed(connection: asyncpg.Connection) -> None:
    await insert(connection, "batches", [BATCH])
    await insert(
        connection,
        "batch_essays",
        [{"batch_id": BATCH_ID, "slot": essay.number, "essay_id": essay.id} for essay in ESSAYS],
    )
    await insert(connection, "pipeline_runs", [RUN])
    await insert(connection, "configuration_snapshots", [SNAPSHOT])
    await insert(
        connection,
        "pipeline_phases",
        [
            {
                "run_id": RUN_ID,
                "phase": phase,
                "position": position,
                "status": "completed",
                "succeeded": len(ESSAYS),
                "failed": 0,
                "started_at": started_at,
                "finished_at": finished_at,
            }
            for position, (phase, started_at, finished_at) in enumerate(PHASES, start=1)
        ],
    )
    await insert(connection, "event_outbox", [EVENT])
