"""The endpoints: health, classes, and the students of a class."""

from collections.abc import Sequence
from typing import Annotated
from uuid import UUID

from alembic.runtime.migration import MigrationContext
from fastapi import APIRouter, HTTPException, Query, Response, status
from sqlalchemy import Connection, select
from sqlalchemy.exc import IntegrityError

from services.class_management_service.db import Session
from services.class_management_service.models_db import Enrolment, SchoolClass, Student
from services.class_management_service.schemas import (
    DatabaseHealth,
    Health,
    NewSchoolClass,
    SchoolClassRow,
    StudentRow,
)
from services.service_libs.database import current_environment

UNIQUE_VIOLATION = "23505"

health = APIRouter(prefix="/health", tags=["health"])
classes = APIRouter(prefix="/classes", tags=["classes"])


@health.get("")
async def read_health() -> Health:
    """Whether the process serves, and its environment; the database is not asked."""
    return Health(environment=current_environment())


@health.get("/database")
async def read_database_health(session: Session) -> DatabaseHealth:
    """Whether the database answers, and its revision; status 503 if it does not."""
    connection = await session.connection()
    revision = await connection.run_sync(_revision)
    return DatabaseHealth(environment=current_environment(), revision=revision)


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


@classes.get("", response_model=list[SchoolClassRow])
async def list_classes(
    session: Session,
    teacher_id: UUID | None = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
) -> Sequence[SchoolClass]:
    """Return the first classes by school year and name, of one teacher if `teacher_id` is given."""
    query = select(SchoolClass).order_by(SchoolClass.school_year, SchoolClass.name, SchoolClass.id)
    if teacher_id is not None:
        query = query.where(SchoolClass.teacher_id == teacher_id)
    return (await session.scalars(query.limit(limit))).all()


@classes.post("", response_model=SchoolClassRow, status_code=status.HTTP_201_CREATED)
async def create_class(new: NewSchoolClass, session: Session, response: Response) -> SchoolClass:
    """Create a class; status 409 if the teacher has it already, 422 if there is no such course."""
    created = SchoolClass(**new.model_dump())
    session.add(created)
    try:
        await session.commit()
    except IntegrityError as error:
        raise _refusal(error) from error
    response.headers["Location"] = f"/classes/{created.id}"
    return created


def _refusal(error: IntegrityError) -> HTTPException:
    if getattr(error.orig, "sqlstate", None) == UNIQUE_VIOLATION:
        return HTTPException(
            status.HTTP_409_CONFLICT, "The teacher has a class of this name in this school year."
        )
    return HTTPException(status.HTTP_422_UNPROCESSABLE_CONTENT, "The course does not exist.")


@classes.get("/{class_id}", response_model=SchoolClassRow)
async def read_class(class_id: UUID, session: Session) -> SchoolClass:
    """Return a class; status 404 if it does not exist."""
    found = await session.get(SchoolClass, class_id)
    if found is None:
        raise HTTPException(status.HTTP_404_NOT_FOUND, "The class does not exist.")
    return found


@classes.get("/{class_id}/students", response_model=list[StudentRow])
async def list_students(class_id: UUID, session: Session) -> Sequence[Student]:
    """Return the students who are or were enrolled in a class, by name."""
    await read_class(class_id, session)
    query = (
        select(Student)
        .join(Enrolment, Enrolment.student_id == Student.id)
        .where(Enrolment.class_id == class_id)
        .order_by(Student.last_name, Student.first_name, Student.id)
    )
    return (await session.scalars(query)).all()
