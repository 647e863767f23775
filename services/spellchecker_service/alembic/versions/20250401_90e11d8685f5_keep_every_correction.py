"""Keep every correction.

Revision ID: 90e11d8685f5
Revises: f80281f7d3d7
Create Date: 2025-04-01 14:52:20
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "90e11d8685f5"
down_revision: str | None = "f80281f7d3d7"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.execute("CREATE TYPE correction_source AS ENUM ('learner_errors', 'dictionary')")
    op.create_table(
        "corrections",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("original", sa.Text(), nullable=False),
        sa.Column("replacement", sa.Text(), nullable=False),
        sa.Column(
            "source", postgresql.ENUM(name="correction_source", create_type=False), nullable=False
        ),
        sa.PrimaryKeyConstraint("job_id", "position", name=op.f("pk_corrections")),
        sa.ForeignKeyConstraint(
            ["job_id"],
            ["spellcheck_jobs.id"],
            name=op.f("fk_corrections_job_id_spellcheck_jobs"),
            ondelete="CASCADE",
        ),
        sa.CheckConstraint("position > 0", name=op.f("ck_corrections_position_positive")),
        sa.CheckConstraint("original <> replacement", name=op.f("ck_corrections_changes_the_word")),
    )
    op.create_index(op.f("ix_corrections_original"), "corrections", ["original"])


def downgrade() -> None:
    op.drop_table("corrections")
    op.execute("DROP TYPE correction_source")
