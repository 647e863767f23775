"""Show results under the name of the file.

Revision ID: 3604504dd390
Revises: 5942230666b6
Create Date: 2025-06-24 10:12:05
"""

import sqlalchemy as sa
from alembic import op

revision: str = "3604504dd390"
down_revision: str | None = "5942230666b6"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.add_column("essay_results", sa.Column("filename", sa.Text(), nullable=True))
    # The uploads are another service's: the essays of older batches go by their key.
    op.execute("UPDATE essay_results SET filename = 'essay-' || left(essay_id::text, 8)")
    op.alter_column("essay_results", "filename", existing_type=sa.Text(), nullable=False)


def downgrade() -> None:
    op.drop_column("essay_results", "filename")
