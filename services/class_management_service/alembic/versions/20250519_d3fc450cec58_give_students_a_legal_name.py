"""Give students a legal name.

Revision ID: d3fc450cec58
Revises: 936af9c3bbdd
Create Date: 2025-05-19 08:17:44
"""

import sqlalchemy as sa
from alembic import op

revision: str = "d3fc450cec58"
down_revision: str | None = "936af9c3bbdd"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    # Without a default there is no value for the rows that exist; "first last" is what the roster
    # has shown until now, and the next import of the roster corrects it.
    op.add_column("students", sa.Column("legal_name", sa.Text(), nullable=True))
    op.execute("UPDATE students SET legal_name = first_name || ' ' || last_name")
    op.alter_column("students", "legal_name", existing_type=sa.Text(), nullable=False)


def downgrade() -> None:
    op.drop_column("students", "legal_name")
