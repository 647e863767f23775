"""Create spellcheck jobs.

Revision ID: f80281f7d3d7
Revises:
Create Date: 2025-02-25 10:19:36
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "f80281f7d3d7"
down_revision: str | None = None
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.execute("CREATE TYPE language AS ENUM ('en', 'sv')")
    op.execute("CREATE TYPE job_status AS ENUM ('pending', 'completed', 'failed')")
    op.create_table(
        "spellcheck_jobs",
        sa.Column("id", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("essay_id", sa.Uuid(), nullable=False),
        sa.Column("batch_id", sa.Uuid(), nullable=False),
        sa.Column("language", postgresql.ENUM(name="language", create_type=False), nullable=False),
        sa.Column(
            "status",
            postgresql.ENUM(name="job_status", create_type=False),
            server_default=sa.text("'pending'"),
            nullable=False,
        ),
        sa.Column("words", sa.Integer(), nullable=True),
        sa.Column(
            "requested_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False
        ),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_spellcheck_jobs")),
        sa.UniqueConstraint("essay_id", name=op.f("uq_spellcheck_jobs_essay_id")),
        sa.CheckConstraint("words > 0", name=op.f("ck_spellcheck_jobs_has_words")),
        sa.CheckConstraint(
            "status <> 'completed' OR (words IS NOT NULL AND completed_at IS NOT NULL)",
            name=op.f("ck_spellcheck_jobs_completed_with_result"),
        ),
    )
    op.create_index(op.f("ix_spellcheck_jobs_batch_id"), "spellcheck_jobs", ["batch_id"])


def downgrade() -> None:
    op.drop_table("spellcheck_jobs")
    op.execute("DROP TYPE job_status")
    op.execute("DROP TYPE language")
