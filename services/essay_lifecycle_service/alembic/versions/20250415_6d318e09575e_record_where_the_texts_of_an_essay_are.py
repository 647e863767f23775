"""Record where the texts of an essay are stored.

Revision ID: 6d318e09575e
Revises: 7355c59cb52f
Create Date: 2025-04-15 16:44:10
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "6d318e09575e"
down_revision: str | None = "7355c59cb52f"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.execute("CREATE TYPE text_kind AS ENUM ('original', 'corrected')")
    op.create_table(
        "essay_texts",
        sa.Column("essay_id", sa.Uuid(), nullable=False),
        sa.Column("kind", postgresql.ENUM(name="text_kind", create_type=False), nullable=False),
        sa.Column("storage_id", sa.Uuid(), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False
        ),
        sa.PrimaryKeyConstraint("essay_id", "kind", name=op.f("pk_essay_texts")),
        sa.ForeignKeyConstraint(
            ["essay_id"],
            ["essays.id"],
            name=op.f("fk_essay_texts_essay_id_essays"),
            ondelete="CASCADE",
        ),
        sa.UniqueConstraint("storage_id", name=op.f("uq_essay_texts_storage_id")),
    )


def downgrade() -> None:
    op.drop_table("essay_texts")
    op.execute("DROP TYPE text_kind")
