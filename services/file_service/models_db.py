"""Uploaded files, the text extracted from them, and why some were rejected."""

from enum import StrEnum
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Index,
    MetaData,
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


class UploadStatus(StrEnum):
    RECEIVED = "received"
    STORED = "stored"
    REJECTED = "rejected"


class RejectionCode(StrEnum):
    EMPTY = "empty"
    UNREADABLE = "unreadable"
    TOO_LONG = "too_long"


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention=NAMING_CONVENTION)
    type_annotation_map = column_types(UploadStatus, RejectionCode)


class FileUpload(Base):
    """A file as it was uploaded. The same content twice in one batch is one upload."""

    __tablename__ = "file_uploads"
    __table_args__ = (
        UniqueConstraint("batch_id", "sha256"),
        UniqueConstraint("storage_id"),
        CheckConstraint("size_bytes >= 0", name="size_not_negative"),
        CheckConstraint("sha256 ~ '^[0-9a-f]{64}$'", name="sha256_format"),
        CheckConstraint("status <> 'stored' OR storage_id IS NOT NULL", name="stored_somewhere"),
        Index(None, "batch_id", "received_at"),
    )

    id: Mapped[UuidKey]
    batch_id: Mapped[UUID]
    uploaded_by: Mapped[UUID]
    filename: Mapped[str]
    content_type: Mapped[str]
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
    status: Mapped[UploadStatus] = mapped_column(server_default=text("'received'"))
    storage_id: Mapped[UUID | None]
    received_at: Mapped[CreatedAt]


class ExtractedText(Base):
    """The plain text of an upload, stored beside the original."""

    __tablename__ = "extracted_texts"
    __table_args__ = (
        UniqueConstraint("storage_id"),
        CheckConstraint("characters > 0", name="not_empty"),
    )

    file_id: Mapped[UUID] = mapped_column(
        ForeignKey("file_uploads.id", ondelete="CASCADE"), primary_key=True
    )
    storage_id: Mapped[UUID]
    characters: Mapped[int]
    extractor: Mapped[str]
    extracted_at: Mapped[CreatedAt]


class UploadRejection(Base):
    """Why an upload cannot become an essay, in words for the teacher."""

    __tablename__ = "upload_rejections"

    file_id: Mapped[UUID] = mapped_column(
        ForeignKey("file_uploads.id", ondelete="CASCADE"), primary_key=True
    )
    code: Mapped[RejectionCode]
    detail: Mapped[str]
    rejected_at: Mapped[CreatedAt]


class OutboxEvent(OutboxMixin, Base):
    """An event this service has to publish."""
