"""Record which phases have reported.

Revision ID: 5942230666b6
Revises: 427822692bfd
Create Date: 2025-04-29 13:37:49
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "5942230666b6"
down_revision: str | None = "427822692bfd"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.execute(
        "CREATE TYPE result_phase AS ENUM"
        " ('student_matching', 'spellcheck', 'text_analysis', 'cj_assessment')"
    )
    op.create_table(
        "phase_results",
        sa.Column("batch_id", sa.Uuid(), nullable=False),
        sa.Column("phase", postgresql.ENUM(name="result_phase", create_type=False), nullable=False),
        sa.Column("succeeded", sa.Integer(), nullable=False),
        sa.Column("failed", sa.Integer(), nullable=False),
        sa.Column(
            "errors", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column(
            "completed_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False
        ),
        sa.PrimaryKeyConstraint("batch_id", "phase", name=op.f("pk_phase_results")),
        sa.ForeignKeyConstraint(
            ["batch_id"],
            ["batch_results.batch_id"],
            name=op.f("fk_phase_results_batch_id_batch_results"),
            ondelete="CASCADE",
        ),
        sa.CheckConstraint(
            "succeeded >= 0 AND failed >= 0", name=op.f("ck_phase_results_counts_not_negative")
        ),
    )


def downgrade() -> None:
    op.drop_table("phase_results")
    op.execute("DROP TYPE result_phase")
