"""Index batch results by owner.

Revision ID: c6045eb07faa
Revises: b452bcb3093f
Create Date: 2025-10-21 09:40:11
"""

from alembic import op

revision: str = "c6045eb07faa"
down_revision: str | None = "b452bcb3093f"
branch_labels: str | None = None
depends_on: str | None = None

INDEX = "ix_batch_results_owner_id_created_at"


def upgrade() -> None:
    # Concurrently, because results come in while it is built; that cannot run in a transaction.
    with op.get_context().autocommit_block():
        # What an interrupted build leaves is invalid, yet IF NOT EXISTS would be content with it.
        _drop()
        op.create_index(
            INDEX, "batch_results", ["owner_id", "created_at"], postgresql_concurrently=True
        )


def downgrade() -> None:
    with op.get_context().autocommit_block():
        _drop()


def _drop() -> None:
    op.drop_index(INDEX, "batch_results", if_exists=True, postgresql_concurrently=True)
