"""Give essays a version.

Revision ID: 28403501a72c
Revises: df3a012885de
Create Date: 2025-08-26 09:55:12
"""

import sqlalchemy as sa
from alembic import op

revision: str = "28403501a72c"
down_revision: str | None = "df3a012885de"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.add_column("essays", sa.Column("version", sa.Integer(), nullable=True))
    # An essay has been written once, and once more for each change of its status.
    op.execute(
        "UPDATE essays SET version = 1 + (SELECT count(*) FROM essay_transitions"
        " WHERE essay_id = essays.id AND from_status IS NOT NULL)"
    )
    op.alter_column("essays", "version", existing_type=sa.Integer(), nullable=False)


def downgrade() -> None:
    op.drop_column("essays", "version")
