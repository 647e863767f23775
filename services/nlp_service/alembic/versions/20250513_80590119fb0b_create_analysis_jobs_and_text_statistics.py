"""Create analysis jobs and text statistics.

Revision ID: 80590119fb0b
Revises:
Create Date: 2025-05-13 11:22:08
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "80590119fb0b"
down_revision: str | None = None
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.execute("CREATE TYPE analysis_kind AS ENUM ('student_matching', 'text_statistics')")
    op.execute("CREATE TYPE analysis_status AS ENUM ('running', 'completed', 'failed')")
    op.create_table(
        "analysis_jobs",
        sa.Column("id", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("batch_id", sa.Uuid(), nullable=False),
        sa.Column("kind", postgresql.ENUM(name="analysis_kind", create_type=False), nullable=False),
        sa.Column(
            "status",
            postgresql.ENUM(name="analysis_status", create_type=False),
            server_default=sa.text("'running'"),
            nullable=False,
        ),
        sa.Column(
            "started_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False
        ),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_analysis_jobs")),
        sa.CheckConstraint(
            "finished_at >= started_at", name=op.f("ck_analysis_jobs_finishes_after_start")
        ),
    )
    op.create_index(op.f("ix_analysis_jobs_batch_id_kind"), "analysis_jobs", ["batch_id", "kind"])
    op.create_table(
        "text_statistics",
        sa.Column("essay_id", sa.Uuid(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("words", sa.Integer(), nullable=False),
        sa.Column("sentences", sa.Integer(), nullable=False),
        sa.Column("paragraphs", sa.Integer(), nullable=False),
        sa.Column("distinct_words", sa.Integer(), nullable=False),
        sa.Column("readability", sa.Numeric(4, 1), nullable=False),
        sa.PrimaryKeyConstraint("essay_id", name=op.f("pk_text_statistics")),
        sa.ForeignKeyConstraint(
            ["job_id"],
            ["analysis_jobs.id"],
            name=op.f("fk_text_statistics_job_id_analysis_jobs"),
            ondelete="CASCADE",
        ),
        sa.CheckConstraint(
            "words > 0 AND sentences > 0 AND paragraphs > 0 AND distinct_words > 0",
            name=op.f("ck_text_statistics_counts_positive"),
        ),
        sa.CheckConstraint(
            "distinct_words <= words", name=op.f("ck_text_statistics_distinct_words_within_words")
        ),
    )
    op.create_index(op.f("ix_text_statistics_job_id"), "text_statistics", ["job_id"])


def downgrade() -> None:
    op.drop_table("text_statistics")
    op.drop_table("analysis_jobs")
    op.execute("DROP TYPE analysis_status")
    op.execute("DROP TYPE analysis_kind")
