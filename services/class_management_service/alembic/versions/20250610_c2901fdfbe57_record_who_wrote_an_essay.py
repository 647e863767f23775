"""Record who wrote an essay.

Revision ID: c2901fdfbe57
Revises: d3fc450cec58
Create Date: 2025-06-10 15:50:29
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "c2901fdfbe57"
down_revision: str | None = "d3fc450cec58"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.execute("CREATE TYPE match_method AS ENUM ('automatic', 'teacher')")
    op.create_table(
        "essay_authors",
        sa.Column("essay_id", sa.Uuid(), nullable=False),
        sa.Column("batch_id", sa.Uuid(), nullable=False),
        sa.Column("class_id", sa.Uuid(), nullable=False),
        sa.Column("student_id", sa.Uuid(), nullable=False),
        sa.Column(
            "method", postgresql.ENUM(name="match_method", create_type=False), nullable=False
        ),
        sa.Column("confidence", sa.Numeric(4, 3), nullable=True),
        sa.Column("confirmed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False
        ),
        sa.PrimaryKeyConstraint("essay_id", name=op.f("pk_essay_authors")),
        sa.ForeignKeyConstraint(
            ["class_id", "student_id"],
            ["enrolments.class_id", "enrolments.student_id"],
            name=op.f("fk_essay_authors_class_id_student_id_enrolments"),
            ondelete="CASCADE",
        ),
        sa.CheckConstraint(
            "confidence BETWEEN 0 AND 1", name=op.f("ck_essay_authors_confidence_in_range")
        ),
        sa.CheckConstraint(
            "method <> 'teacher' OR confirmed_at IS NOT NULL",
            name=op.f("ck_essay_authors_teacher_has_confirmed"),
        ),
    )
    op.create_index(
        op.f("ix_essay_authors_class_id_student_id"), "essay_authors", ["class_id", "student_id"]
    )


def downgrade() -> None:
    op.drop_table("essay_authors")
    op.execute("DROP TYPE match_method")
