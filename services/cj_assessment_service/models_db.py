"""Comparative judgement: pairs of essays, who won, and the ranking and grades that follow."""

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from uuid import UUID

from sqlalchemy import (
    CheckConstraint,
    Double,
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
    UuidKey,
    column_types,
)
from services.service_libs.outbox import OutboxMixin


class JudgementStatus(StrEnum):
    PENDING = "pending"
    COMPARING = "comparing"
    RANKED = "ranked"
    FAILED = "failed"


class ComparisonWinner(StrEnum):
    ESSAY_A = "essay_a"
    ESSAY_B = "essay_b"
    UNDECIDED = "undecided"


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention=NAMING_CONVENTION)
    type_annotation_map = column_types(JudgementStatus, ComparisonWinner)


class Grade(Base):
    """A grade of the Swedish scale and its merit points; reference data, filled by a migration."""

    __tablename__ = "grades"
    __table_args__ = (UniqueConstraint("points"),)

    code: Mapped[str] = mapped_column(String(1), primary_key=True)
    points: Mapped[Decimal] = mapped_column(Numeric(3, 1))


class JudgedBatch(Base):
    """A batch under comparative judgement."""

    __tablename__ = "judged_batches"
    __table_args__ = (
        CheckConstraint("status <> 'ranked' OR ranked_at IS NOT NULL", name="ranked_at_a_time"),
    )

    batch_id: Mapped[UUID] = mapped_column(primary_key=True)
    course_code: Mapped[str] = mapped_column(String(8))
    instructions: Mapped[str]
    status: Mapped[JudgementStatus] = mapped_column(server_default=text("'pending'"))
    requested_at: Mapped[CreatedAt]
    ranked_at: Mapped[datetime | None]


class JudgedEssay(Base):
    """An essay in the comparison: a student's, or an anchor whose grade is already known.

    `strength` is the essay's Bradley-Terry parameter on the logit scale; the batch's mean is zero.
    """

    __tablename__ = "judged_essays"
    __table_args__ = (
        UniqueConstraint("batch_id", "essay_id"),
        UniqueConstraint("batch_id", "rank"),
        CheckConstraint("standard_error > 0", name="standard_error_positive"),
        CheckConstraint("rank > 0", name="rank_positive"),
    )

    essay_id: Mapped[UUID] = mapped_column(primary_key=True)
    batch_id: Mapped[UUID] = mapped_column(
        ForeignKey("judged_batches.batch_id", ondelete="CASCADE")
    )
    anchor_grade: Mapped[str | None] = mapped_column(
        String(1), ForeignKey("grades.code", ondelete="RESTRICT")
    )
    strength: Mapped[float | None] = mapped_column(Double)
    standard_error: Mapped[float | None] = mapped_column(Double)
    rank: Mapped[int | None] = mapped_column(SmallInteger)


class Comparison(Base):
    """Two essays of one batch set against each other; without a winner until the answer comes."""

    __tablename__ = "comparisons"
    __table_args__ = (
        ForeignKeyConstraint(
            ["batch_id", "essay_a_id"],
            ["judged_essays.batch_id", "judged_essays.essay_id"],
            ondelete="CASCADE",
        ),
        ForeignKeyConstraint(
            ["batch_id", "essay_b_id"],
            ["judged_essays.batch_id", "judged_essays.essay_id"],
            ondelete="CASCADE",
        ),
        CheckConstraint("essay_a_id <> essay_b_id", name="essays_differ"),
        CheckConstraint("(winner IS NULL) = (judged_at IS NULL)", name="judged_with_winner"),
        CheckConstraint("confidence BETWEEN 1 AND 5", name="confidence_in_range"),
        Index(None, "batch_id", "essay_a_id"),
        Index(None, "batch_id", "essay_b_id"),
        Index(
            "ix_comparisons_unjudged", "requested_at", postgresql_where=text("judged_at IS NULL")
        ),
    )

    id: Mapped[UuidKey]
    batch_id: Mapped[UUID]
    essay_a_id: Mapped[UUID]
    essay_b_id: Mapped[UUID]
    winner: Mapped[ComparisonWinner | None]
    confidence: Mapped[int | None] = mapped_column(SmallInteger)
    justification: Mapped[str | None]
    requested_at: Mapped[CreatedAt]
    judged_at: Mapped[datetime | None]


class GradeProjection(Base):
    """The grade an essay's place among the anchors suggests; the teacher decides."""

    __tablename__ = "grade_projections"
    __table_args__ = (
        CheckConstraint("confidence BETWEEN 0 AND 1", name="confidence_in_range"),
        Index(None, "grade"),
    )

    essay_id: Mapped[UUID] = mapped_column(
        ForeignKey("judged_essays.essay_id", ondelete="CASCADE"), primary_key=True
    )
    grade: Mapped[str] = mapped_column(String(1), ForeignKey("grades.code", ondelete="RESTRICT"))
    confidence: Mapped[Decimal] = mapped_column(Numeric(4, 3))
    projected_at: Mapped[CreatedAt]


class OutboxEvent(OutboxMixin, Base):
    """An event this service has to publish."""
