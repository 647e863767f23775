"""Spelling corrections of essays, and the errors learners are known to make."""

from datetime import datetime
from enum import StrEnum
from uuid import UUID

from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    Index,
    MetaData,
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


class Language(StrEnum):
    ENGLISH = "en"
    SWEDISH = "sv"


class JobStatus(StrEnum):
    PENDING = "pending"
    COMPLETED = "completed"
    FAILED = "failed"


class CorrectionSource(StrEnum):
    LEARNER_ERRORS = "learner_errors"
    DICTIONARY = "dictionary"


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention=NAMING_CONVENTION)
    type_annotation_map = column_types(Language, JobStatus, CorrectionSource)


class SpellcheckJob(Base):
    """The spell check of one essay."""

    __tablename__ = "spellcheck_jobs"
    __table_args__ = (
        UniqueConstraint("essay_id"),
        CheckConstraint("words > 0", name="has_words"),
        CheckConstraint(
            "status <> 'completed' OR (words IS NOT NULL AND completed_at IS NOT NULL)",
            name="completed_with_result",
        ),
        Index(None, "batch_id"),
    )

    id: Mapped[UuidKey]
    essay_id: Mapped[UUID]
    batch_id: Mapped[UUID]
    language: Mapped[Language]
    status: Mapped[JobStatus] = mapped_column(server_default=text("'pending'"))
    words: Mapped[int | None]
    requested_at: Mapped[CreatedAt]
    completed_at: Mapped[datetime | None]


class Correction(Base):
    """A word that was replaced; `position` counts the words of the essay from one."""

    __tablename__ = "corrections"
    __table_args__ = (
        CheckConstraint("position > 0", name="position_positive"),
        CheckConstraint("original <> replacement", name="changes_the_word"),
        Index(None, "original"),
    )

    job_id: Mapped[UUID] = mapped_column(
        ForeignKey("spellcheck_jobs.id", ondelete="CASCADE"), primary_key=True
    )
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    original: Mapped[str]
    replacement: Mapped[str]
    source: Mapped[CorrectionSource]


class LearnerError(Base):
    """A misspelling typical of learners; looked up exactly, and by likeness through trigrams."""

    __tablename__ = "learner_errors"
    __table_args__ = (
        CheckConstraint("wrong <> correct", name="correct_differs"),
        Index(
            "ix_learner_errors_wrong_trigrams",
            "wrong",
            postgresql_using="gin",
            postgresql_ops={"wrong": "gin_trgm_ops"},
        ),
    )

    language: Mapped[Language] = mapped_column(primary_key=True)
    wrong: Mapped[str] = mapped_column(primary_key=True)
    correct: Mapped[str]
    created_at: Mapped[CreatedAt]


class AllowedWord(Base):
    """A word that is right in this batch: a name, a title, a word the assignment makes up."""

    __tablename__ = "allowed_words"

    batch_id: Mapped[UUID] = mapped_column(primary_key=True)
    word: Mapped[str] = mapped_column(primary_key=True)
    added_by: Mapped[UUID]
    added_at: Mapped[CreatedAt]
