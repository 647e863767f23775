"""Batches of essays, and the pipelines that take them through the services."""

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    Index,
    MetaData,
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


class BatchStatus(StrEnum):
    REGISTERED = "registered"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"


class PipelinePhaseName(StrEnum):
    STUDENT_MATCHING = "student_matching"
    SPELLCHECK = "spellcheck"
    TEXT_ANALYSIS = "text_analysis"
    CJ_ASSESSMENT = "cj_assessment"


class PhaseStatus(StrEnum):
    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention=NAMING_CONVENTION)
    type_annotation_map = column_types(BatchStatus, PipelinePhaseName, PhaseStatus)


class Batch(Base):
    """The essays of one assignment, handed in together."""

    __tablename__ = "batches"
    __table_args__ = (
        UniqueConstraint("correlation_id"),
        CheckConstraint("essay_count > 0", name="has_essays"),
        Index(None, "owner_id", "created_at"),
    )

    id: Mapped[UuidKey]
    owner_id: Mapped[UUID]
    class_id: Mapped[UUID | None]
    course_code: Mapped[str] = mapped_column(String(8))
    title: Mapped[str]
    instructions: Mapped[str]
    essay_count: Mapped[int] = mapped_column(SmallInteger)
    status: Mapped[BatchStatus] = mapped_column(server_default=text("'registered'"))
    correlation_id: Mapped[UUID]
    created_at: Mapped[CreatedAt]
    updated_at: Mapped[UpdatedAt]


class BatchEssay(Base):
    """The essay that holds a slot of a batch."""

    __tablename__ = "batch_essays"
    __table_args__ = (
        UniqueConstraint("essay_id"),
        CheckConstraint("slot > 0", name="slot_positive"),
    )

    batch_id: Mapped[UUID] = mapped_column(
        ForeignKey("batches.id", ondelete="CASCADE"), primary_key=True
    )
    slot: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    essay_id: Mapped[UUID]


class PipelineRun(Base):
    """One execution of a batch's pipeline; a batch has at most one that is not finished."""

    __tablename__ = "pipeline_runs"
    __table_args__ = (
        CheckConstraint("finished_at >= started_at", name="finishes_after_start"),
        Index(None, "batch_id", "started_at"),
        Index(
            "uq_pipeline_runs_batch_id_unfinished",
            "batch_id",
            unique=True,
            postgresql_where=text("finished_at IS NULL"),
        ),
    )

    id: Mapped[UuidKey]
    batch_id: Mapped[UUID] = mapped_column(ForeignKey("batches.id", ondelete="CASCADE"))
    requested_by: Mapped[UUID]
    started_at: Mapped[CreatedAt]
    finished_at: Mapped[datetime | None]


class PipelinePhase(Base):
    """One phase of a run, in its place, with how many essays came through."""

    __tablename__ = "pipeline_phases"
    __table_args__ = (
        UniqueConstraint("run_id", "position"),
        CheckConstraint("finished_at >= started_at", name="finishes_after_start"),
        CheckConstraint("succeeded >= 0 AND failed >= 0", name="counts_not_negative"),
    )

    run_id: Mapped[UUID] = mapped_column(
        ForeignKey("pipeline_runs.id", ondelete="CASCADE"), primary_key=True
    )
    phase: Mapped[PipelinePhaseName] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(SmallInteger)
    status: Mapped[PhaseStatus] = mapped_column(server_default=text("'pending'"))
    succeeded: Mapped[int] = mapped_column(server_default=text("0"))
    failed: Mapped[int] = mapped_column(server_default=text("0"))
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class ConfigurationSnapshot(Base):
    """What a run was configured with, kept because the configuration moves on."""

    __tablename__ = "configuration_snapshots"

    run_id: Mapped[UUID] = mapped_column(
        ForeignKey("pipeline_runs.id", ondelete="CASCADE"), primary_key=True
    )
    configuration: Mapped[dict[str, Any]]
    taken_at: Mapped[CreatedAt]


class OutboxEvent(OutboxMixin, Base):
    """An event this service has to publish."""
