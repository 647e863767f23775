"""Create batches and essays.

Revision ID: 6a08e8b5ce9d
Revises:
Create Date: 2025-01-28 13:12:40
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "6a08e8b5ce9d"
down_revision: str | None = None
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.execute(
        "CREATE TYPE essay_status AS ENUM"
        " ('awaiting_content', 'ready', 'spellchecked', 'completed', 'failed')"
    )
    op.create_table(
        "essay_batches",
        sa.Column("batch_id", sa.Uuid(), nullable=False),
        sa.Column("class_id", sa.Uuid(), nullable=True),
        sa.Column("course_code", sa.String(8), nullable=False),
        sa.Column("expected_essays", sa.SmallInteger(), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False
        ),
        sa.Column("complete_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("batch_id", name=op.f("pk_essay_batches")),
        sa.CheckConstraint("expected_essays > 0", name=op.f("ck_essay_batches_expects_essays")),
    )
    op.create_table(
        "essays",
        sa.Column("id", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("batch_id", sa.Uuid(), nullable=False),
        sa.Column("slot", sa.SmallInteger(), nullable=False),
        sa.Column("file_id", sa.Uuid(), nullable=True),
        sa.Column(
            "status",
            postgresql.ENUM(name="essay_status", create_type=False),
            server_default=sa.text("'awaiting_content'"),
            nullable=False,
        ),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False
        ),
        sa.Column(
            "updated_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_essays")),
        sa.ForeignKeyConstraint(
            ["batch_id"],
            ["essay_batches.batch_id"],
            name=op.f("fk_essays_batch_id_essay_batches"),
            ondelete="CASCADE",
        ),
        sa.UniqueConstraint("batch_id", "slot", name=op.f("uq_essays_batch_id_slot")),
        sa.UniqueConstraint("file_id", name=op.f("uq_essays_file_id")),
        sa.CheckConstraint("slot > 0", name=op.f("ck_essays_slot_positive")),
    )


def downgrade() -> None:
    op.drop_table("essays")
    op.drop_table("essay_batches")
    op.execute("DROP TYPE essay_status")
