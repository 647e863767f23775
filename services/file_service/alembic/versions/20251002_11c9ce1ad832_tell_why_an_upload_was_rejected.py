"""Tell why an upload was rejected.

Revision ID: 11c9ce1ad832
Revises: 9043a56c994a
Create Date: 2025-10-02 14:16:57
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "11c9ce1ad832"
down_revision: str | None = "9043a56c994a"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.execute("CREATE TYPE rejection_code AS ENUM ('empty', 'unreadable', 'too_long')")
    op.create_table(
        "upload_rejections",
        sa.Column("file_id", sa.Uuid(), nullable=False),
        sa.Column(
            "code", postgresql.ENUM(name="rejection_code", create_type=False), nullable=False
        ),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column(
            "rejected_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False
        ),
        sa.PrimaryKeyConstraint("file_id", name=op.f("pk_upload_rejections")),
        sa.ForeignKeyConstraint(
            ["file_id"],
            ["file_uploads.id"],
            name=op.f("fk_upload_rejections_file_id_file_uploads"),
            ondelete="CASCADE",
        ),
    )


def downgrade() -> None:
    op.drop_table("upload_rejections")
    op.execute("DROP TYPE rejection_code")
