"""Index essays by batch and status.

Revision ID: b1ad73e168ad
Revises: 28403501a72c
Create Date: 2025-10-07 15:17:38
"""

from alembic import op

revision: str = "b1ad73e168ad"
down_revision: str | None = "28403501a72c"
branch_labels: str | None = None
depends_on: str | None = None

INDEX = "ix_essays_batch_id_status"


def upgrade() -> None:
    # Concurrently, because essays are written to at every hour; that cannot run in a transaction.
    with op.get_context().autocommit_block():
        # What an interrupted build leaves is invalid, yet IF NOT EXISTS would be content with it.
        _drop()
        op.create_index(INDEX, "essays", ["batch_id", "status"], postgresql_concurrently=True)


def downgrade() -> None:
    with op.get_context().autocommit_block():
        _drop()


def _drop() -> None:
    op.drop_index(INDEX, "essays", if_exists=True, postgresql_concurrently=True)
