"""Keep the reasons for a judgement.

Revision ID: fd96060f789d
Revises: 26471fca4a9f
Create Date: 2025-03-25 14:41:02
"""

import sqlalchemy as sa
from alembic import op

revision: str = "fd96060f789d"
down_revision: str | None = "26471fca4a9f"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.add_column("comparisons", sa.Column("confidence", sa.SmallInteger(), nullable=True))
    op.add_column("comparisons", sa.Column("justification", sa.Text(), nullable=True))
    op.create_check_constraint(
        op.f("ck_comparisons_confidence_in_range"), "comparisons", "confidence BETWEEN 1 AND 5"
    )
    op.add_column("judged_essays", sa.Column("standard_error", sa.Double(), nullable=True))
    op.create_check_constraint(
        op.f("ck_judged_essays_standard_error_positive"), "judged_essays", "standard_error > 0"
    )


def downgrade() -> None:
    op.drop_column("judged_essays", "standard_error")
    op.drop_column("comparisons", "justification")
    op.drop_column("comparisons", "confidence")
