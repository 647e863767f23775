"""What the texts of essays say about themselves: statistics, and the names of their authors."""

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from uuid import UUID

from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    Index,
    MetaData,
    Numeric,
    SmallInteger,
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


class AnalysisKind(StrEnum):
    STUDENT_MATCHING = "student_matching"
    TEXT_STATISTICS = "text_statistics"


class AnalysisStatus(StrEnum):
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"


class NameEvidence(StrEnum):
    FULL_NAME = "full_name"
    INITIALS = "initials"
    FUZZY = "fuzzy"
    EMAIL = "email"


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention=NAMING_CONVENTION)
    type_annotation_map = column_types(AnalysisKind, AnalysisStatus, NameEvidence)


class AnalysisJob(Base):
    """One analysis of a whole batch."""

    __tablename__ = "analysis_jobs"
    __table_args__ = (
        CheckConstraint("finished_at >= started_at", name="finishes_after_start"),
        Index(None, "batch_id", "kind"),
    )

    id: Mapped[UuidKey]
    batch_id: Mapped[UUID]
    kind: Mapped[AnalysisKind]
    status: Mapped[AnalysisStatus] = mapped_column(server_default=text("'running'"))
    started_at: Mapped[CreatedAt]
    finished_at: Mapped[datetime | None]


class TextStatistics(Base):
    """Counts of one essay; the measures teachers see are computed from these."""

    __tablename__ = "text_statistics"
    __table_args__ = (
        CheckConstraint(
            "words > 0 AND sentences > 0 AND paragraphs > 0 AND distinct_words > 0",
            name="counts_positive",
        ),
        CheckConstraint("distinct_words <= words", name="distinct_words_within_words"),
        Index(None, "job_id"),
    )

    essay_id: Mapped[UUID] = mapped_column(primary_key=True)
    job_id: Mapped[UUID] = mapped_column(ForeignKey("analysis_jobs.id", ondelete="CASCADE"))
    words: Mapped[int]
    sentences: Mapped[int]
    paragraphs: Mapped[int]
    distinct_words: Mapped[int]
    readability: Mapped[Decimal] = mapped_column(Numeric(4, 1))


class StudentMatch(Base):
    """A student who may have written an essay, ranked by how sure the evidence makes us."""

    __tablename__ = "student_matches"
    __table_args__ = (
        UniqueConstraint("essay_id", "rank"),
        CheckConstraint("confidence BETWEEN 0 AND 1", name="confidence_in_range"),
        CheckConstraint("rank > 0", name="rank_positive"),
        Index(None, "job_id"),
    )

    essay_id: Mapped[UUID] = mapped_column(primary_key=True)
    student_id: Mapped[UUID] = mapped_column(primary_key=True)
    job_id: Mapped[UUID] = mapped_column(ForeignKey("analysis_jobs.id", ondelete="CASCADE"))
    rank: Mapped[int] = mapped_column(SmallInteger)
    evidence: Mapped[NameEvidence]
    found_text: Mapped[str]
    confidence: Mapped[Decimal] = mapped_column(Numeric(4, 3))
