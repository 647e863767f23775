"""Index the comparisons still to be judged.

Revision ID: ba8960906ba8
Revises: e302ef5e853c
Create Date: 2025-11-11 16:20:09
"""

import sqlalchemy as sa
from alembic import op

revision: str = "ba8960906ba8"
down_revision: str | None = "e302ef5e853c"
branch_labels: str | None = None
depends_on: str | None = None

INDEX = "ix_comparisons_unjudged"


def upgrade() -> None:
    # Concurrently, because judging goes on while it is built; that cannot run in a transaction.
    with op.get_context().autocommit_block():
        # What an interrupted build leaves is invalid, yet IF NOT EXISTS would be content with it.
        _drop()
        op.create_index(
            INDEX,
            "comparisons",
            ["requested_at"],
            postgresql_concurrently=True,
            postgresql_where=sa.text("judged_at IS NULL"),
        )


def downgrade() -> None:
    with op.get_context().autocommit_block():
        _drop()


def _drop() -> None:
    op.drop_index(INDEX, "comparisons", if_exists=True, postgresql_concurrently=True)
