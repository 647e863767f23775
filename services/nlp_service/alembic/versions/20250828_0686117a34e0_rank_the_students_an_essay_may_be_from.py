"""Rank the students an essay may be from.

Revision ID: 0686117a34e0
Revises: ea3cf7025714
Create Date: 2025-08-28 14:03:44
"""

import sqlalchemy as sa
from alembic import op

revision: str = "0686117a34e0"
down_revision: str | None = "ea3cf7025714"
branch_labels: str | None = None
depends_on: str | None = None

# By confidence; between equals the key decides, so that each run gives the same ranks.
BACKFILL = """
UPDATE student_matches SET rank = ranked.rank
FROM (
    SELECT essay_id, student_id,
        row_number() OVER (PARTITION BY essay_id ORDER BY confidence DESC, student_id) AS rank
    FROM student_matches
) AS ranked
WHERE student_matches.essay_id = ranked.essay_id
    AND student_matches.student_id = ranked.student_id
"""


def upgrade() -> None:
    op.add_column("student_matches", sa.Column("rank", sa.SmallInteger(), nullable=True))
    op.execute(BACKFILL)
    op.alter_column("student_matches", "rank", existing_type=sa.SmallInteger(), nullable=False)
    op.create_unique_constraint(
        op.f("uq_student_matches_essay_id_rank"), "student_matches", ["essay_id", "rank"]
    )
    op.create_check_constraint(
        op.f("ck_student_matches_rank_positive"), "student_matches", "rank > 0"
    )


def downgrade() -> None:
    op.drop_column("student_matches", "rank")
