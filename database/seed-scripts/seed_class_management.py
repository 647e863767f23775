"""Seed the class, its roster, and who wrote which essay."""

import asyncpg
from huleedu_rows import insert, published_event
from huleedu_story import (
    AUTHORS_CONFIRMED,
    BATCH_ID,
    CLASS_ID,
    COURSE_CODE,
    ESSAYS,
    MATCHED,
    STUDENTS,
    TEACHER_ID,
    TRUSTED_MATCH,
    Essay,
    Student,
    at,
    key,
)

TERM_BEGAN = at("07:30:00", "2026-08-18")

# On the roster, but gone to another group before the essay was set.
FORMER_STUDENT = Student(13, "Oskar", "Fransson", "oskar.fransson")


ROSTER = (*STUDENTS, FORMER_STUDENT)

SCHOOL_CLASS = {
    "id": CLASS_ID,
    "course_code": COURSE_CODE,
    "teacher_id": TEACHER_ID,
    "name": "Engelska 7, grupp B",
    "school": "Fjällängens gymnasium",
    "school_year": "2026/2027",
    "created_at": TERM_BEGAN,
    "updated_at": TERM_BEGAN,
}


EVENT = published_event(
    key("e4e70000", 1),
    "class.authors_confirmed",
    aggregate_id=CLASS_ID,
    payload={"batch_id": str(BATCH_ID), "essays": len(ESSAYS)},
    occurred_at=AUTHORS_CONFIRMED,
)


async def seed(connection: asyncpg.Connection) -> None:
    await insert(connection, "classes", [SCHOOL_CLASS])
    await insert(connection, "students", [_student(student) for student in ROSTER])
    await insert(connection, "enrolments", [_enrolment(student) for student in ROSTER])
    await insert(connection, "essay_authors", [_author(essay) for essay in ESSAYS])
    await insert(connection, "event_outbox", [EVENT])


def _student(student: Student) -> dict[str, object]:
    return {
        "id": student.id,
        "first_name": student.first_name,
        "last_name": student.last_name,
        "legal_name": student.name,
        "email": student.email,
        "created_at": TERM_BEGAN,
        "updated_at": TERM_BEGAN,
    }


def _enrolment(student: Student) -> dict[str, object]:
    return {
        "class_id": CLASS_ID,
        "student_id": student.id,
        "status": "transferred" if student is FORMER_STUDENT else "active",
        "enrolled_at": TERM_BEGAN,
    }


def _author(essay: Essay) -> dict[str, object]:
    trusted = essay.match_confidence >= TRUSTED_MATCH
    return {
        "essay_id": essay.id,
        "batch_id": BATCH_ID,
        "class_id": CLASS_ID,
        "student_id": essay.student.id,
        "method": "automatic" if trusted else "teacher",
        "confidence": essay.match_confidence,
        "confirmed_at": AUTHORS_CONFIRMED,
        "created_at": MATCHED,
    }
