"""Seed the results as the teacher sees them: what the other services' seeds add up to."""

import asyncpg
from huleedu_rows import insert
from huleedu_story import (
    ANALYSED,
    AUTHORS_CONFIRMED,
    BATCH_ID,
    CLASS_ID,
    COURSE_CODE,
    ESSAYS,
    JUDGED,
    READY,
    REGISTERED,
    SPELLCHECKED,
    TEACHER_ID,
    TITLE,
    Essay,
    at,
    key,
)

REPORTED = {
    "student_matching": AUTHORS_CONFIRMED,
    "spellcheck": SPELLCHECKED,
    "text_analysis": ANALYSED,
    "cj_assessment": JUDGED,
}

BATCH = {
    "batch_id": BATCH_ID,
    "owner_id": TEACHER_ID,
    "class_id": CLASS_ID,
    "course_code": COURSE_CODE,
    "title": TITLE,
    "essay_count": len(ESSAYS),
    "status": "ready",
    "created_at": REGISTERED,
    "ready_at": READY,
}

EXPORTS = [
    {
        "id": key("e4904700", number),
        "batch_id": BATCH_ID,
        "requested_by": TEACHER_ID,
        "format": file_format,
        "created_at": created_at,
    }
    for number, file_format, created_at in (
        (1, "csv", at("09:10:00", "2026-11-17")),
        (2, "pdf", at("09:12:30", "2026-11-17")),
    )
]


async def seed(connection: asyncpg.Connection) -> None:
    await insert(connection, "batch_results", [BATCH])
    await insert(connection, "essay_results", [_essay(essay) for essay in ESSAYS])
    await insert(
        connection,
        "phase_results",
        [
            {
                "batch_id": BATCH_ID,
                "phase": phase,
                "succeeded": len(ESSAYS),
                "failed": 0,
                "completed_at": completed_at,
            }
            for phase, completed_at in REPORTED.items()
        ],
    )
    await insert(connection, "result_exports", EXPORTS)


def _essay(essay: Essay) -> dict[str, object]:
    return {
        "essay_id": essay.id,
        "batch_id": BATCH_ID,
        "filename": essay.filename,
        "student_id": essay.student.id,
        "student_name": essay.student.name,
        "words": essay.words,
        "spelling_corrections": essay.corrections,
        "cj_strength": essay.strength,
        "cj_rank": essay.rank,
        "projected_grade": essay.grade,
        "grade_confidence": essay.grade_confidence,
        "updated_at": READY,
    }
