"""Create judged essays and their comparisons.

Revision ID: 26471fca4a9f
Revises:
Create Date: 2025-02-04 10:27:55
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "26471fca4a9f"
down_revision: str | None = None
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.execute("CREATE TYPE judgement_status AS ENUM ('pending', 'comparing', 'ranked', 'failed')")
    op.execute("CREATE TYPE comparison_winner AS ENUM ('essay_a', 'essay_b')")
    op.create_table(
        "judged_batches",
        sa.Column("batch_id", sa.Uuid(), nullable=False),
        sa.Column("course_code", sa.String(8), nullable=False),
        sa.Column("instructions", sa.Text(), nullable=False),
        sa.Column(
            "status",
            postgresql.ENUM(name="judgement_status", create_type=False),
            server_default=sa.text("'pending'"),
            nullable=False,
        ),
        sa.Column(
            "requested_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False
        ),
        sa.Column("ranked_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("batch_id", name=op.f("pk_judged_batches")),
        sa.CheckConstraint(
            "status <> 'ranked' OR ranked_at IS NOT NULL",
            name=op.f("ck_judged_batches_ranked_at_a_time"),
        ),
    )
    op.create_table(
        "judged_essays",
        sa.Column("essay_id", sa.Uuid(), nullable=False),
        sa.Column("batch_id", sa.Uuid(), nullable=False),
        sa.Column("strength", sa.Double(), nullable=True),
        sa.Column("rank", sa.SmallInteger(), nullable=True),
        sa.PrimaryKeyConstraint("essay_id", name=op.f("pk_judged_essays")),
        sa.ForeignKeyConstraint(
            ["batch_id"],
            ["judged_batches.batch_id"],
            name=op.f("fk_judged_essays_batch_id_judged_batches"),
            ondelete="CASCADE",
        ),
        sa.UniqueConstraint(
            "batch_id", "essay_id", name=op.f("uq_judged_essays_batch_id_essay_id")
        ),
        sa.UniqueConstraint("batch_id", "rank", name=op.f("uq_judged_essays_batch_id_rank")),
        sa.CheckConstraint("rank > 0", name=op.f("ck_judged_essays_rank_positive")),
    )
    op.create_table(
        "comparisons",
        sa.Column("id", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("batch_id", sa.Uuid(), nullable=False),
        sa.Column("essay_a_id", sa.Uuid(), nullable=False),
        sa.Column("essay_b_id", sa.Uuid(), nullable=False),
        sa.Column(
            "winner", postgresql.ENUM(name="comparison_winner", create_type=False), nullable=True
        ),
        sa.Column(
            "requested_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False
        ),
        sa.Column("judged_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_comparisons")),
        sa.ForeignKeyConstraint(
            ["batch_id", "essay_a_id"],
            ["judged_essays.batch_id", "judged_essays.essay_id"],
            name=op.f("fk_comparisons_batch_id_essay_a_id_judged_essays"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["batch_id", "essay_b_id"],
            ["judged_essays.batch_id", "judged_essays.essay_id"],
            name=op.f("fk_comparisons_batch_id_essay_b_id_judged_essays"),
            ondelete="CASCADE",
        ),
        sa.CheckConstraint("essay_a_id <> essay_b_id", name=op.f("ck_comparisons_essays_differ")),
        sa.CheckConstraint(
            "(winner IS NULL) = (judged_at IS NULL)", name=op.f("ck_comparisons_judged_with_winner")
        ),
    )
    op.create_index(
        op.f("ix_comparisons_batch_id_essay_a_id"), "comparisons", ["batch_id", "essay_a_id"]
    )
    op.create_index(
        op.f("ix_comparisons_batch_id_essay_b_id"), "comparisons", ["batch_id", "essay_b_id"]
    )


def downgrade() -> None:
    op.drop_table("comparisons")
    op.drop_table("judged_essays")
    op.drop_table("judged_batches")
    op.execute("DROP TYPE comparison_winner")
    op.execute("DROP TYPE judgement_status")
