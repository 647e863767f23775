"""Create the results of batches and essays.

Revision ID: 427822692bfd
Revises:
Create Date: 2025-03-18 09:14:26
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "427822692bfd"
down_revision: str | None = None
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.execute("CREATE TYPE result_status AS ENUM ('collecting', 'ready', 'partial')")
    op.create_table(
        "batch_results",
        sa.Column("batch_id", sa.Uuid(), nullable=False),
        sa.Column("owner_id", sa.Uuid(), nullable=False),
        sa.Column("class_id", sa.Uuid(), nullable=True),
        sa.Column("course_code", sa.String(8), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("essay_count", sa.SmallInteger(), nullable=False),
        sa.Column(
            "status",
            postgresql.ENUM(name="result_status", create_type=False),
            server_default=sa.text("'collecting'"),
            nullable=False,
        ),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False
        ),
        sa.Column("ready_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("batch_id", name=op.f("pk_batch_results")),
        sa.CheckConstraint("essay_count > 0", name=op.f("ck_batch_results_has_essays")),
        sa.CheckConstraint(
            "status <> 'ready' OR ready_at IS NOT NULL",
            name=op.f("ck_batch_results_ready_at_a_time"),
        ),
    )
    op.create_table(
        "essay_results",
        sa.Column("essay_id", sa.Uuid(), nullable=False),
        sa.Column("batch_id", sa.Uuid(), nullable=False),
        sa.Column("student_id", sa.Uuid(), nullable=True),
        sa.Column("student_name", sa.Text(), nullable=True),
        sa.Column("words", sa.Integer(), nullable=True),
        sa.Column("spelling_corrections", sa.Integer(), nullable=True),
        sa.Column("cj_strength", sa.Double(), nullable=True),
        sa.Column("cj_rank", sa.SmallInteger(), nullable=True),
        sa.Column("projected_grade", sa.String(1), nullable=True),
        sa.Column("grade_confidence", sa.Numeric(4, 3), nullable=True),
        sa.Column(
            "updated_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False
        ),
        sa.PrimaryKeyConstraint("essay_id", name=op.f("pk_essay_results")),
        sa.ForeignKeyConstraint(
            ["batch_id"],
            ["batch_results.batch_id"],
            name=op.f("fk_essay_results_batch_id_batch_results"),
            ondelete="CASCADE",
        ),
        sa.UniqueConstraint("batch_id", "cj_rank", name=op.f("uq_essay_results_batch_id_cj_rank")),
        sa.CheckConstraint(
            "grade_confidence BETWEEN 0 AND 1",
            name=op.f("ck_essay_results_grade_confidence_in_range"),
        ),
    )
    op.create_index(op.f("ix_essay_results_student_id"), "essay_results", ["student_id"])


def downgrade() -> None:
    op.drop_table("essay_results")
    op.drop_table("batch_results")
    op.execute("DROP TYPE result_status")
