"""Allow a comparison to stay undecided.

Revision ID: e302ef5e853c
Revises: 4efecd517ced
Create Date: 2025-09-30 10:46:33
"""

from alembic import op

revision: str = "e302ef5e853c"
down_revision: str | None = "4efecd517ced"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute("ALTER TYPE comparison_winner ADD VALUE IF NOT EXISTS 'undecided'")


def downgrade() -> None:
    # An undecided comparison has no older equivalent, and one more or less changes no ranking much.
    op.execute("DELETE FROM comparisons WHERE winner = 'undecided'")
    op.execute("ALTER TYPE comparison_winner RENAME TO comparison_winner_old")
    op.execute("CREATE TYPE comparison_winner AS ENUM ('essay_a', 'essay_b')")
    op.execute(
        "ALTER TABLE comparisons ALTER COLUMN winner"
        " TYPE comparison_winner USING winner::text::comparison_winner"
    )
    op.execute("DROP TYPE comparison_winner_old")
