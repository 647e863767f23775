"""Store the extracted text.

Revision ID: a561d90b5ca8
Revises: e135fc2b9853
Create Date: 2025-05-08 13:20:35
"""

import sqlalchemy as sa
from alembic import op

revision: str = "a561d90b5ca8"
down_revision: str | None = "e135fc2b9853"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.create_table(
        "extracted_texts",
        sa.Column("file_id", sa.Uuid(), nullable=False),
        sa.Column("storage_id", sa.Uuid(), nullable=False),
        sa.Column("characters", sa.Integer(), nullable=False),
        sa.Column("extractor", sa.Text(), nullable=False),
        sa.Column(
            "extracted_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False
        ),
        sa.PrimaryKeyConstraint("file_id", name=op.f("pk_extracted_texts")),
        sa.ForeignKeyConstraint(
            ["file_id"],
            ["file_uploads.id"],
            name=op.f("fk_extracted_texts_file_id_file_uploads"),
            ondelete="CASCADE",
        ),
        sa.UniqueConstraint("storage_id", name=op.f("uq_extracted_texts_storage_id")),
        sa.CheckConstraint("characters > 0", name=op.f("ck_extracted_texts_not_empty")),
    )


def downgrade() -> None:
    op.drop_table("extracted_texts")
