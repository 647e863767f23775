"""Essays and their batches: where each essay is on its way, and how it came there."""

from datetime import datetime
from enum import StrEnum
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


class EssayStatus(StrEnum):
    AWAITING_CONTENT = "awaiting_content"
    READY = "ready"
    SPELLCHECKED = "spellchecked"
    ANALYSED = "analysed"
    COMPLETED = "completed"
    FAILED = "failed"


class TextKind(StrEnum):
    ORIGINAL = "original"
    CORRECTED = "corrected"


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention=NAMING_CONVENTION)
    type_annotation_map = column_types(EssayStatus, TextKind)


class EssayBatch(Base):
    """A batch as this service needs it: how many essays to wait for before work begins."""

    __tablename__ = "essay_batches"
    __table_args__ = (CheckConstraint("expected_essays > 0", name="expects_essays"),)

    batch_id: Mapped[UUID] = mapped_column(primary_key=True)
    class_id: Mapped[UUID | None]
    course_code: Mapped[str] = mapped_column(String(8))
    expected_essays: Mapped[int] = mapped_column(SmallInteger)
    created_at: Mapped[CreatedAt]
    complete_at: Mapped[datetime | None]


class Essay(Base):
    """One essay: a slot of its batch, which an uploaded file comes to fill."""

    __tablename__ = "essays"
    __table_args__ = (
        UniqueConstraint("batch_id", "slot"),
        UniqueConstraint("file_id"),
        CheckConstraint("slot > 0", name="slot_positive"),
        Index(None, "batch_id", "status"),
    )

    id: Mapped[UuidKey]
    batch_id: Mapped[UUID] = mapped_column(ForeignKey("essay_batches.batch_id", ondelete="CASCADE"))
    slot: Mapped[int] = mapped_column(SmallInteger)
    file_id: Mapped[UUID | None]
    status: Mapped[EssayStatus] = mapped_column(server_default=text("'awaiting_content'"))
    # Two consumers may hold the same essay: the later writer has to read it again.
    version: Mapped[int] = mapped_column()
    created_at: Mapped[CreatedAt]
    updated_at: Mapped[UpdatedAt]

    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012 - SQLAlchemy types it so


class EssayTransition(Base):
    """A change of status; the event that caused it counts once, however often it is delivered."""

    __tablename__ = "essay_transitions"
    __table_args__ = (
        UniqueConstraint("essay_id", "event_id"),
        CheckConstraint("from_status IS DISTINCT FROM to_status", name="status_changes"),
        Index(None, "essay_id", "occurred_at"),
    )

    id: Mapped[UuidKey]
    essay_id: Mapped[UUID] = mapped_column(ForeignKey("essays.id", ondelete="CASCADE"))
    event_id: Mapped[UUID]
    from_status: Mapped[EssayStatus | None]
    to_status: Mapped[EssayStatus]
    occurred_at: Mapped[CreatedAt]


class EssayText(Base):
    """Where a text of an essay is stored, by kind."""

    __tablename__ = "essay_texts"
    __table_args__ = (UniqueConstraint("storage_id"),)

    essay_id: Mapped[UUID] = mapped_column(
        ForeignKey("essays.id", ondelete="CASCADE"), primary_key=True
    )
    kind: Mapped[TextKind] = mapped_column(primary_key=True)
    storage_id: Mapped[UUID]
    created_at: Mapped[CreatedAt]


class OutboxEvent(OutboxMixin, Base):
    """An event this service has to publish."""
