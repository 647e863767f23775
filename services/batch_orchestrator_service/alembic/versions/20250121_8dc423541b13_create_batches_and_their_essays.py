"""Create batches and their essays.

Revision ID: 8dc423541b13
Revises:
Create Date: 2025-01-21 14:06:31
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "8dc423541b13"
down_revision: str | None = None
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.execute(
        "CREATE TYPE batch_status AS ENUM ('registered', 'processing', 'completed', 'failed')"
    )
    op.create_table(
        "batches",
        sa.Column("id", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("owner_id", sa.Uuid(), nullable=False),
        sa.Column("class_id", sa.Uuid(), nullable=True),
        sa.Column("course_code", sa.String(8), nullable=False),
        sa.Column("instructions", sa.Text(), nullable=False),
        sa.Column("essay_count", sa.SmallInteger(), nullable=False),
        sa.Column(
            "status",
            postgresql.ENUM(name="batch_status", create_type=False),
            server_default=sa.text("'registered'"),
            nullable=False,
        ),
        sa.Column("correlation_id", sa.Uuid(), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False
        ),
        sa.Column(
            "updated_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_batches")),
        sa.UniqueConstraint("correlation_id", name=op.f("uq_batches_correlation_id")),
        sa.CheckConstraint("essay_count > 0", name=op.f("ck_batches_has_essays")),
    )
    op.create_table(
        "batch_essays",
        sa.Column("batch_id", sa.Uuid(), nullable=False),
        sa.Column("slot", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("essay_id", sa.Uuid(), nullable=False),
        sa.PrimaryKeyConstraint("batch_id", "slot", name=op.f("pk_batch_essays")),
        sa.ForeignKeyConstraint(
            ["batch_id"],
            ["batches.id"],
            name=op.f("fk_batch_essays_batch_id_batches"),
            ondelete="CASCADE",
        ),
        sa.UniqueConstraint("essay_id", name=op.f("uq_batch_essays_essay_id")),
        sa.CheckConstraint("slot > 0", name=op.f("ck_batch_essays_slot_positive")),
    )


def downgrade() -> None:
    op.drop_table("batch_essays")
    op.drop_table("batches")
    op.execute("DROP TYPE batch_status")
