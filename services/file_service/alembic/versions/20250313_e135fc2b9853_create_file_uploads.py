"""Create file uploads.

Revision ID: e135fc2b9853
Revises:
Create Date: 2025-03-13 09:47:18
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "e135fc2b9853"
down_revision: str | None = None
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.execute("CREATE TYPE upload_status AS ENUM ('received', 'stored', 'rejected')")
    op.create_table(
        "file_uploads",
        sa.Column("id", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("batch_id", sa.Uuid(), nullable=False),
        sa.Column("uploaded_by", sa.Uuid(), nullable=False),
        sa.Column("filename", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column(
            "status",
            postgresql.ENUM(name="upload_status", create_type=False),
            server_default=sa.text("'received'"),
            nullable=False,
        ),
        sa.Column("storage_id", sa.Uuid(), nullable=True),
        sa.Column(
            "received_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_file_uploads")),
        sa.UniqueConstraint("batch_id", "sha256", name=op.f("uq_file_uploads_batch_id_sha256")),
        sa.UniqueConstraint("storage_id", name=op.f("uq_file_uploads_storage_id")),
        sa.CheckConstraint("size_bytes >= 0", name=op.f("ck_file_uploads_size_not_negative")),
        sa.CheckConstraint("sha256 ~ '^[0-9a-f]{64}$'", name=op.f("ck_file_uploads_sha256_format")),
        sa.CheckConstraint(
            "status <> 'stored' OR storage_id IS NOT NULL",
            name=op.f("ck_file_uploads_stored_somewhere"),
        ),
    )
    op.create_index(
        op.f("ix_file_uploads_batch_id_received_at"), "file_uploads", ["batch_id", "received_at"]
    )


def downgrade() -> None:
    op.drop_table("file_uploads")
    op.execute("DROP TYPE upload_status")
