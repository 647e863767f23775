"""Index essay authors by batch.

Revision ID: 49989f2d72de
Revises: b05ada74ec21
Create Date: 2025-10-14 16:38:55
"""

from alembic import op

revision: str = "49989f2d72de"
down_revision: str | None = "b05ada74ec21"
branch_labels: str | None = None
depends_on: str | None = None

INDEX = "ix_essay_authors_batch_id"


def upgrade() -> None:
    # Concurrently, because teachers confirm authors all day; that cannot run in a transaction.
    with op.get_context().autocommit_block():
        # What an interrupted build leaves is invalid, yet IF NOT EXISTS would be content with it.
        _drop()
        op.create_index(INDEX, "essay_authors", ["batch_id"], postgresql_concurrently=True)


def downgrade() -> None:
    with op.get_context().autocommit_block():
        _drop()


def _drop() -> None:
    op.drop_index(INDEX, "essay_authors", if_exists=True, postgresql_concurrently=True)
