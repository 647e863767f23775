"""Anchor the comparison in essays of known grade.

Revision ID: db06aed425d1
Revises: fd96060f789d
Create Date: 2025-05-06 11:33:27
"""

from decimal import Decimal

import sqlalchemy as sa
from alembic import op

revision: str = "db06aed425d1"
down_revision: str | None = "fd96060f789d"
branch_labels: str | None = None
depends_on: str | None = None

# The merit points of the Swedish upper secondary school's grades.
SCALE = (
    ("A", Decimal("20.0")),
    ("B", Decimal("17.5")),
    ("C", Decimal("15.0")),
    ("D", Decimal("12.5")),
    ("E", Decimal("10.0")),
    ("F", Decimal("0.0")),
)


def upgrade() -> None:
    grades = op.create_table(
        "grades",
        sa.Column("code", sa.String(1), nullable=False),
        sa.Column("points", sa.Numeric(3, 1), nullable=False),
        sa.PrimaryKeyConstraint("code", name=op.f("pk_grades")),
        sa.UniqueConstraint("points", name=op.f("uq_grades_points")),
    )
    op.bulk_insert(grades, [{"code": code, "points": points} for code, points in SCALE])
    op.add_column("judged_essays", sa.Column("anchor_grade", sa.String(1), nullable=True))
    op.create_foreign_key(
        op.f("fk_judged_essays_anchor_grade_grades"),
        "judged_essays",
        "grades",
        ["anchor_grade"],
        ["code"],
        ondelete="RESTRICT",
    )


def downgrade() -> None:
    op.drop_column("judged_essays", "anchor_grade")
    op.drop_table("grades")
