"""Keep every change of an essay's status.

Revision ID: 7355c59cb52f
Revises: 6a08e8b5ce9d
Create Date: 2025-03-11 10:03:19
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "7355c59cb52f"
down_revision: str | None = "6a08e8b5ce9d"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.create_table(
        "essay_transitions",
        sa.Column("id", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("essay_id", sa.Uuid(), nullable=False),
        sa.Column("event_id", sa.Uuid(), nullable=False),
        sa.Column(
            "from_status", postgresql.ENUM(name="essay_status", create_type=False), nullable=True
        ),
        sa.Column(
            "to_status", postgresql.ENUM(name="essay_status", create_type=False), nullable=False
        ),
        sa.Column(
            "occurred_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_essay_transitions")),
        sa.ForeignKeyConstraint(
            ["essay_id"],
            ["essays.id"],
            name=op.f("fk_essay_transitions_essay_id_essays"),
            ondelete="CASCADE",
        ),
        sa.UniqueConstraint(
            "essay_id", "event_id", name=op.f("uq_essay_transitions_essay_id_event_id")
        ),
        sa.CheckConstraint(
            "from_status IS DISTINCT FROM to_status",
            name=op.f("ck_essay_transitions_status_changes"),
        ),
    )
    op.create_index(
        op.f("ix_essay_transitions_essay_id_occurred_at"),
        "essay_transitions",
        ["essay_id", "occurred_at"],
    )


def downgrade() -> None:
    op.drop_table("essay_transitions")
