"""Give batches a title.

Revision ID: 0174be3102cd
Revises: 5218969672a1
Create Date: 2025-09-16 08:59:03
"""

import sqlalchemy as sa
from alembic import op

revision: str = "0174be3102cd"
down_revision: str | None = "5218969672a1"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.add_column("batches", sa.Column("title", sa.Text(), nullable=True))
    op.execute(
        "UPDATE batches SET title = course_code || ' '"
        " || to_char(created_at AT TIME ZONE 'Europe/Stockholm', 'YYYY-MM-DD')"
    )
    op.alter_column("batches", "title", existing_type=sa.Text(), nullable=False)


def downgrade() -> None:
    op.drop_column("batches", "title")
