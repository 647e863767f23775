"""What the teacher sees: the results of all services, collected per batch and essay."""

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import (
    CheckConstraint,
    Double,
    ForeignKey,
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


class ResultStatus(StrEnum):
    COLLECTING = "collecting"
    READY = "ready"
    PARTIAL = "partial"


class ResultPhase(StrEnum):
    STUDENT_MATCHING = "student_matching"
    SPELLCHECK = "spellcheck"
    TEXT_ANALYSIS = "text_analysis"
    CJ_ASSESSMENT = "cj_assessment"


class ExportFormat(StrEnum):
    CSV = "csv"
    PDF = "pdf"


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention=NAMING_CONVENTION)
    type_annotation_map = column_types(ResultStatus, ResultPhase, ExportFormat)


class BatchResult(Base):
    """The results of a batch, ready once every phase has reported."""

    __tablename__ = "batch_results"
    __table_args__ = (
        CheckConstraint("essay_count > 0", name="has_essays"),
        CheckConstraint("status <> 'ready' OR ready_at IS NOT NULL", name="ready_at_a_time"),
        Index(None, "owner_id", "created_at"),
    )

    batch_id: Mapped[UUID] = mapped_column(primary_key=True)
    owner_id: Mapped[UUID]
    class_id: Mapped[UUID | None]
    course_code: Mapped[str] = mapped_column(String(8))
    title: Mapped[str]
    essay_count: Mapped[int] = mapped_column(SmallInteger)
    status: Mapped[ResultStatus] = mapped_column(server_default=text("'collecting'"))
    created_at: Mapped[CreatedAt]
    ready_at: Mapped[datetime | None]


class EssayResult(Base):
    """One essay's results. Each is empty until its service has reported.

    The student's name is copied here: the page that lists results asks no other service.
    """

    __tablename__ = "essay_results"
    __table_args__ = (
        UniqueConstraint("batch_id", "cj_rank"),
        CheckConstraint("grade_confidence BETWEEN 0 AND 1", name="grade_confidence_in_range"),
        Index(None, "student_id"),
    )

    essay_id: Mapped[UUID] = mapped_column(primary_key=True)
    batch_id: Mapped[UUID] = mapped_column(ForeignKey("batch_results.batch_id", ondelete="CASCADE"))
    filename: Mapped[str]
    student_id: Mapped[UUID | None]
    student_name: Mapped[str | None]
    words: Mapped[int | None]
    spelling_corrections: Mapped[int | None]
    cj_strength: Mapped[float | None] = mapped_column(Double)
    cj_rank: Mapped[int | None] = mapped_column(SmallInteger)
    projected_grade: Mapped[str | None] = mapped_column(String(1))
    grade_confidence: Mapped[Decimal | None] = mapped_column(Numeric(4, 3))
    updated_at: Mapped[UpdatedAt]


class PhaseResult(Base):
    """A phase that has reported for its batch; `errors` maps the failed essays to messages."""

    __tablename__ = "phase_results"
    __table_args__ = (
        CheckConstraint("succeeded >= 0 AND failed >= 0", name="counts_not_negative"),
    )

    batch_id: Mapped[UUID] = mapped_column(
        ForeignKey("batch_results.batch_id", ondelete="CASCADE"), primary_key=True
    )
    phase: Mapped[ResultPhase] = mapped_column(primary_key=True)
    succeeded: Mapped[int]
    failed: Mapped[int]
    errors: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    completed_at: Mapped[CreatedAt]


class ResultExport(Base):
    """An exported file of results, and the user who exported it."""

    __tablename__ = "result_exports"
    __table_args__ = (Index(None, "batch_id"),)

    id: Mapped[UuidKey]
    batch_id: Mapped[UUID] = mapped_column(ForeignKey("batch_results.batch_id", ondelete="CASCADE"))
    requested_by: Mapped[UUID]
    format: Mapped[ExportFormat]
    created_at: Mapped[CreatedAt]
