"""Seed the comparisons of the essays, and the ranking and grades that follow from them."""

from datetime import timedelta
from uuid import UUID

import asyncpg
from huleedu_rows import insert, published_event
from huleedu_story import (
    ANALYSED,
    BATCH_ID,
    COURSE_CODE,
    ESSAYS,
    INSTRUCTIONS,
    JUDGED,
    Essay,
    key,
)

# Essays of known grade: strength, and its standard error.
ANCHORS = (
    ("A", 4.478, 1.349),
    ("B", 0.909, 0.867),
    ("C", 0.747, 0.866),
    ("D", -1.606, 0.881),
    ("E", -2.11, 0.856),
    ("F", -4.204, 1.383),
)

# The standard error of each essay's strength, from the same fit.
STANDARD_ERRORS = {
    1: 0.942,
    2: 0.873,
    3: 1.082,
    4: 0.859,
    5: 0.862,
    6: 0.891,
    7: 0.823,
    8: 1.081,
    9: 0.852,
    10: 0.948,
    11: 0.958,
    12: 0.968,
}

# Essay a, essay b (a number, or the grade of an anchor), the winner, how sure the judge was. All
# strengths are the Bradley-Terry fit of exactly these, under a weak normal prior.
COMPARISONS: tuple[tuple[int | str, int | str, str, int], ...] = (
    (4, 12, "a", 3),
    (6, "E", "a", 2),
    (12, "F", "a", 3),
    (4, "D", "a", 2),
    ("A", 3, "a", 2),
    (10, 4, "a", 2),
    ("B", "A", "b", 3),
    ("D", 9, "b", 2),
    (10, 12, "a", 4),
    (8, "F", "a", 2),
    (10, "C", "b", 3),
    ("B", 4, "a", 5),
    (7, 9, "a", 3),
    ("D", "C", "b", 3),
    ("E", "F", "a", 4),
    (9, "C", "b", 2),
    ("C", 8, "a", 5),
    (12, "E", "b", 2),
    (3, 5, "a", 4),
    (1, 11, "a", 2),
    (6, 8, "a", 3),
    (11, 3, "b", 3),
    (6, 4, "b", 3),
    (7, "E", "a", 5),
    ("C", 7, "b", 2),
    (10, 6, "a", 3),
    (10, 9, "a", 2),
    ("D", 7, "b", 4),
    (2, 7, "a", 2),
    (5, 1, "b", 3),
    (8, 12, "b", 2),
    (2, "C", "b", 2),
    ("D", 10, "b", 2),
    (10, 2, "a", 3),
    ("B", 9, "a", 4),
    (1, "A", "b", 2),
    ("F", 4, "b", 5),
    (9, 2, "b", 2),
    ("A", 11, "a", 3),
    (6, "D", "b", 3),
    (11, 7, "a", 2),
    ("B", 1, "b", 2),
    ("B", 11, "b", 2),
    (2, 1, "b", 4),
    (9, 4, "a", 3),
    ("C", 3, "b", 5),
    (6, 12, "b", 2),
    (3, 1, "a", 3),
    (7, 5, "b", 2),
    ("B", 5, "b", 2),
    (4, "E", "a", 3),
    (2, "B", "b", 3),
    (8, "E", "b", 3),
    ("C", 5, "b", 3),
    (5, 2, "a", 3),
    ("E", "D", "b", 3),
    (7, "B", "b", 2),
    (11, 5, "a", 2),
    (6, "C", "b", 4),
    (10, 1, "b", 5),
)

JUSTIFICATIONS = {
    1: "Hardly a difference; the winner keeps to its position a little better.",
    2: "Similar in language, but the winner's arguments are supported by examples.",
    3: "The winner answers the objection and varies its sentences more.",
    4: "The winner's line of thought is clear throughout; the other repeats itself.",
    5: "The winner argues in full; the other names opinions without grounds.",
}

BATCH = {
    "batch_id": BATCH_ID,
    "course_code": COURSE_CODE,
    "instructions": INSTRUCTIONS,
    "status": "ranked",
    "requested_at": ANALYSED,
    "ranked_at": JUDGED,
}


EVENT = published_event(
    key("e4e70000", 5),
    "judgement.batch_ranked",
    aggregate_id=BATCH_ID,
    payload={"ranking": [str(e.id) for e in sorted(ESSAYS, key=lambda e: e.rank)]},
    occurred_at=JUDGED,
)


async def seed(connection: asyncpg.Connection) -> None:
    await insert(connection, "judged_batches", [BATCH])
    essays = [_essay(essay) for essay in ESSAYS]
    anchors = [_anchor(*anchor) for anchor in ANCHORS]
    await insert(connection, "judged_essays", essays + anchors)
    comparisons = [_comparison(n, *row) for n, row in enumerate(COMPARISONS, start=1)]
    await insert(connection, "comparisons", comparisons)
    await insert(connection, "grade_projections", [_projection(essay) for essay in ESSAYS])
    await insert(connection, "event_outbox", [EVENT])


def _essay(essay: Essay) -> dict[str, object]:
    return {
        "essay_id": essay.id,
        "batch_id": BATCH_ID,
        "anchor_grade": None,
        "strength": essay.strength,
        "standard_error": STANDARD_ERRORS[essay.number],
        "rank": essay.rank,
    }


def _anchor(grade: str, strength: float, standard_error: float) -> dict[str, object]:
    return {
        "essay_id": _judged_id(grade),
        "batch_id": BATCH_ID,
        "anchor_grade": grade,
        "strength": strength,
        "standard_error": standard_error,
        "rank": None,
    }


def _comparison(
    number: int, a: int | str, b: int | str, winner: str, confidence: int
) -> dict[str, object]:
    requested_at = ANALYSED + timedelta(seconds=20 * number)
    return {
        "id": key("c0490000", number),
        "batch_id": BATCH_ID,
        "essay_a_id": _judged_id(a),
        "essay_b_id": _judged_id(b),
        "winner": f"essay_{winner}",
        "confidence": confidence,
        "justification": JUSTIFICATIONS[confidence],
        "requested_at": requested_at,
        "judged_at": requested_at + timedelta(seconds=9),
    }


def _projection(essay: Essay) -> dict[str, object]:
    return {
        "essay_id": essay.id,
        "grade": essay.grade,
        "confidence": essay.grade_confidence,
        "projected_at": JUDGED,
    }


def _judged_id(essay: int | str) -> UUID:
    if isinstance(essay, str):
        return key("a9c40000", "ABCDEF".index(essay) + 1)
    return ESSAYS[essay - 1].id
