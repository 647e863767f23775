"""The transactional outbox: events written with the change they announce, published later."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, Index, text
from sqlalchemy.orm import Mapped, declared_attr, mapped_column
from sqlalchemy.schema import SchemaItem

from services.service_libs.models import CreatedAt, UuidKey


class OutboxMixin:
    """The columns of `event_outbox`, the same in each service that publishes."""

    __tablename__ = "event_outbox"

    id: Mapped[UuidKey]
    aggregate_type: Mapped[str]
    aggregate_id: Mapped[UUID]
    event_type: Mapped[str]
    topic: Mapped[str]
    payload: Mapped[dict[str, Any]]
    attempts: Mapped[int] = mapped_column(server_default=text("0"))
    last_error: Mapped[str | None]
    created_at: Mapped[CreatedAt]
    published_at: Mapped[datetime | None]

    @declared_attr.directive
    def __table_args__(cls) -> tuple[SchemaItem, ...]:
        return (
            CheckConstraint("attempts >= 0", name="attempts_not_negative"),
            # The relay asks only for what is still to be sent, oldest first: nearly no rows.
            Index(
                "ix_event_outbox_unpublished",
                "created_at",
                postgresql_where=text("published_at IS NULL"),
            ),
        )
