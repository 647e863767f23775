"""Let a batch allow words of its own.

Revision ID: 0e0bf91146e1
Revises: 347948db4e92
Create Date: 2025-09-23 13:45:58
"""

import sqlalchemy as sa
from alembic import op

revision: str = "0e0bf91146e1"
down_revision: str | None = "347948db4e92"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.create_table(
        "allowed_words",
        sa.Column("batch_id", sa.Uuid(), nullable=False),
        sa.Column("word", sa.Text(), nullable=False),
        sa.Column("added_by", sa.Uuid(), nullable=False),
        sa.Column(
            "added_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False
        ),
        sa.PrimaryKeyConstraint("batch_id", "word", name=op.f("pk_allowed_words")),
    )


def downgrade() -> None:
    op.drop_table("allowed_words")
