"""Classes, their students, and which student wrote which essay."""

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from uuid import UUID

from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    MetaData,
    Numeric,
    SmallInteger,
    String,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from services.service_libs.models import (
    NAMING_CONVENTION,
    CreatedAt,
    UpdatedAt,
    UuidKey,
    column_types,
)
from services.service_libs.outbox import OutboxMixin


class EnrolmentStatus(StrEnum):
    ACTIVE = "active"
    LEFT = "left"
    TRANSFERRED = "transferred"


class MatchMethod(StrEnum):
    AUTOMATIC = "automatic"
    TEACHER = "teacher"


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention=NAMING_CONVENTION)
    type_annotation_map = column_types(EnrolmentStatus, MatchMethod)


class Course(Base):
    """A course of the national curriculum; reference data, filled by a migration."""

    __tablename__ = "courses"
    __table_args__ = (
        CheckConstraint("language IN ('sv', 'en')", name="language_known"),
        CheckConstraint("level BETWEEN 1 AND 7", name="level_in_range"),
    )

    code: Mapped[str] = mapped_column(String(8), primary_key=True)
    name: Mapped[str]
    language: Mapped[str] = mapped_column(String(2))
    level: Mapped[int] = mapped_column(SmallInteger)


class SchoolClass(Base):
    """A group of students that one teacher teaches one course in one school year."""

    __tablename__ = "classes"
    __table_args__ = (
        UniqueConstraint("teacher_id", "name", "school_year"),
        CheckConstraint("school_year ~ '^[0-9]{4}/[0-9]{4}$'", name="school_year_format"),
        Index(None, "course_code"),
    )

    id: Mapped[UuidKey]
    course_code: Mapped[str] = mapped_column(ForeignKey("courses.code", ondelete="RESTRICT"))
    teacher_id: Mapped[UUID]
    name: Mapped[str]
    school: Mapped[str]
    school_year: Mapped[str] = mapped_column(String(9))
    created_at: Mapped[CreatedAt]
    updated_at: Mapped[UpdatedAt]
    archived_at: Mapped[datetime | None]


class Student(Base):
    """A student as the teacher's roster names them; `legal_name` is what essays are matched by."""

    __tablename__ = "students"
    __table_args__ = (
        UniqueConstraint("email"),
        Index(None, "last_name", "first_name"),
    )

    id: Mapped[UuidKey]
    first_name: Mapped[str]
    last_name: Mapped[str]
    legal_name: Mapped[str]
    email: Mapped[str | None]
    created_at: Mapped[CreatedAt]
    updated_at: Mapped[UpdatedAt]


class Enrolment(Base):
    """A student's membership of a class."""

    __tablename__ = "enrolments"
    __table_args__ = (Index(None, "student_id"),)

    class_id: Mapped[UUID] = mapped_column(
        ForeignKey("classes.id", ondelete="CASCADE"), primary_key=True
    )
    student_id: Mapped[UUID] = mapped_column(
        ForeignKey("students.id", ondelete="CASCADE"), primary_key=True
    )
    status: Mapped[EnrolmentStatus] = mapped_column(server_default=text("'active'"))
    enrolled_at: Mapped[CreatedAt]


class EssayAuthor(Base):
    """Who wrote an essay: proposed by the matching of names, or decided by the teacher.

    `essay_id` and `batch_id` belong to other services, so no foreign key can hold them.
    """

    __tablename__ = "essay_authors"
    __table_args__ = (
        ForeignKeyConstraint(
            ["class_id", "student_id"],
            ["enrolments.class_id", "enrolments.student_id"],
            ondelete="CASCADE",
        ),
        CheckConstraint("confidence BETWEEN 0 AND 1", name="confidence_in_range"),
        CheckConstraint(
            "method <> 'teacher' OR confirmed_at IS NOT NULL", name="teacher_has_confirmed"
        ),
        Index(None, "class_id", "student_id"),
        Index(None, "batch_id"),
    )

    essay_id: Mapped[UUID] = mapped_column(primary_key=True)
    batch_id: Mapped[UUID]
    class_id: Mapped[UUID]
    student_id: Mapped[UUID]
    method: Mapped[MatchMethod]
    confidence: Mapped[Decimal | None] = mapped_column(Numeric(4, 3))
    confirmed_at: Mapped[datetime | None]
    created_at: Mapped[CreatedAt]


class OutboxEvent(OutboxMixin, Base):
    """An event this service has to publish."""
