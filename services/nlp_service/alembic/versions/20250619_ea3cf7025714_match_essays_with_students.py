"""Match essays with students.

Revision ID: ea3cf7025714
Revises: 80590119fb0b
Create Date: 2025-06-19 09:36:50
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "ea3cf7025714"
down_revision: str | None = "80590119fb0b"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.execute("CREATE TYPE name_evidence AS ENUM ('full_name', 'initials', 'fuzzy')")
    op.create_table(
        "student_matches",
        sa.Column("essay_id", sa.Uuid(), nullable=False),
        sa.Column("student_id", sa.Uuid(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column(
            "evidence", postgresql.ENUM(name="name_evidence", create_type=False), nullable=False
        ),
        sa.Column("found_text", sa.Text(), nullable=False),
        sa.Column("confidence", sa.Numeric(4, 3), nullable=False),
        sa.PrimaryKeyConstraint("essay_id", "student_id", name=op.f("pk_student_matches")),
        sa.ForeignKeyConstraint(
            ["job_id"],
            ["analysis_jobs.id"],
            name=op.f("fk_student_matches_job_id_analysis_jobs"),
            ondelete="CASCADE",
        ),
        sa.CheckConstraint(
            "confidence BETWEEN 0 AND 1", name=op.f("ck_student_matches_confidence_in_range")
        ),
    )
    op.create_index(op.f("ix_student_matches_job_id"), "student_matches", ["job_id"])


def downgrade() -> None:
    op.drop_table("student_matches")
    op.execute("DROP TYPE name_evidence")
