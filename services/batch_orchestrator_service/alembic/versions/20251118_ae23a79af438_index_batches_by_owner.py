"""Index batches by owner.

Revision ID: ae23a79af438
Revises: 0174be3102cd
Create Date: 2025-11-18 10:24:51
"""

from alembic import op

revision: str = "ae23a79af438"
down_revision: str | None = "0174be3102cd"
branch_labels: str | None = None
depends_on: str | None = None

INDEX = "ix_batches_owner_id_created_at"


def upgrade() -> None:
    # Concurrently, because teachers register batches all day; that cannot run in a transaction.
    with op.get_context().autocommit_block():
        # What an interrupted build leaves is invalid, yet IF NOT EXISTS would be content with it.
        _drop()
        op.create_index(INDEX, "batches", ["owner_id", "created_at"], postgresql_concurrently=True)


def downgrade() -> None:
    with op.get_context().autocommit_block():
        _drop()


def _drop() -> None:
    op.drop_index(INDEX, "batches", if_exists=True, postgresql_concurrently=True)
