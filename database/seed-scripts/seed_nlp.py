"""Seed the statistics of the essays' texts, and the students their names were matched with."""

import asyncpg
from huleedu_rows import insert
from huleedu_story import (
    ANALYSED,
    BATCH_ID,
    ESSAYS,
    MATCHED,
    SPELLCHECKED,
    STUDENTS,
    UPLOADED,
    Essay,
    key,
)

MATCHING_ID = key("a9a10000", 1)
STATISTICS_ID = key("a9a10000", 2)

JOBS = [
    {
        "id": MATCHING_ID,
        "batch_id": BATCH_ID,
        "kind": "student_matching",
        "status": "completed",
        "started_at": UPLOADED,
        "finished_at": MATCHED,
    },
    {
        "id": STATISTICS_ID,
        "batch_id": BATCH_ID,
        "kind": "text_statistics",
        "status": "completed",
        "started_at": SPELLCHECKED,
        "finished_at": ANALYSED,
    },
]

# Per essay: sentences, paragraphs, distinct words, readability (Flesch-Kincaid grade level).
STATISTICS = {
    1: (38, 6, 341, 11.2),
    2: (36, 5, 289, 10.1),
    3: (37, 7, 388, 12.4),
    4: (35, 5, 254, 9.3),
    5: (37, 6, 326, 11.0),
    6: (34, 4, 221, 8.4),
    7: (36, 5, 301, 10.4),
    8: (27, 3, 168, 7.6),
    9: (35, 5, 263, 9.6),
    10: (37, 6, 308, 10.6),
    11: (37, 6, 333, 11.3),
    12: (36, 4, 232, 8.7),
}

# Where it was not the full name that was found: what was, and what it is worth as evidence.
FOUND = {
    4: ("initials", "E. Nordin"),
    5: ("email", STUDENTS[4].email),
    8: ("email", STUDENTS[7].email),
    9: ("fuzzy", "Maja Oberg"),
}

# The weaker candidates, as (essay, student, confidence), on the same evidence: an initial that two
# students share, a name not far from the one found.
SECOND_CANDIDATES = ((4, 3, 0.214), (9, 1, 0.118))


async def seed(connection: asyncpg.Connection) -> None:
    await insert(connection, "analysis_jobs", JOBS)
    matches = [_match(essay) for essay in ESSAYS]
    seconds = [_second(*candidate) for candidate in SECOND_CANDIDATES]
    await insert(connection, "student_matches", matches + seconds)
    await insert(connection, "text_statistics", [_statistics(essay) for essay in ESSAYS])


def _match(essay: Essay) -> dict[str, object]:
    evidence, text = FOUND.get(essay.number, ("full_name", essay.student.name))
    return {
        "essay_id": essay.id,
        "student_id": essay.student.id,
        "job_id": MATCHING_ID,
        "rank": 1,
        "evidence": evidence,
        "found_text": text,
        "confidence": essay.match_confidence,
    }


def _second(essay: int, student: int, confidence: float) -> dict[str, object]:
    first = _match(ESSAYS[essay - 1])
    return first | {"student_id": STUDENTS[student - 1].id, "rank": 2, "confidence": confidence}


def _statistics(essay: Essay) -> dict[str, object]:
    sentences, paragraphs, distinct_words, readability = STATISTICS[essay.number]
    return {
        "essay_id": essay.id,
        "job_id": STATISTICS_ID,
        "words": essay.words,
        "sentences": sentences,
        "paragraphs": paragraphs,
        "distinct_words": distinct_words,
        "readability": readability,
    }
