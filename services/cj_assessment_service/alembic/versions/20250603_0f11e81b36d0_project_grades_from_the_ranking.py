"""Project grades from the ranking.

Revision ID: 0f11e81b36d0
Revises: db06aed425d1
Create Date: 2025-06-03 08:50:41
"""

import sqlalchemy as sa
from alembic import op

revision: str = "0f11e81b36d0"
down_revision: str | None = "db06aed425d1"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.create_table(
        "grade_projections",
        sa.Column("essay_id", sa.Uuid(), nullable=False),
        sa.Column("grade", sa.String(1), nullable=False),
        sa.Column("confidence", sa.Numeric(4, 3), nullable=False),
        sa.Column(
            "projected_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False
        ),
        sa.PrimaryKeyConstraint("essay_id", name=op.f("pk_grade_projections")),
        sa.ForeignKeyConstraint(
            ["essay_id"],
            ["judged_essays.essay_id"],
            name=op.f("fk_grade_projections_essay_id_judged_essays"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["grade"],
            ["grades.code"],
            name=op.f("fk_grade_projections_grade_grades"),
            ondelete="RESTRICT",
        ),
        sa.CheckConstraint(
            "confidence BETWEEN 0 AND 1", name=op.f("ck_grade_projections_confidence_in_range")
        ),
    )
    op.create_index(op.f("ix_grade_projections_grade"), "grade_projections", ["grade"])


def downgrade() -> None:
    op.drop_table("grade_projections")
