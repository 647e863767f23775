"""Record the content type of uploads.

Revision ID: 7349b9d7187e
Revises: a561d90b5ca8
Create Date: 2025-06-05 15:11:46
"""

import sqlalchemy as sa
from alembic import op

revision: str = "7349b9d7187e"
down_revision: str | None = "a561d90b5ca8"
branch_labels: str | None = None
depends_on: str | None = None

BACKFILL = """
UPDATE file_uploads SET content_type = CASE lower(substring(filename from '[^.]+$'))
    WHEN 'txt' THEN 'text/plain'
    WHEN 'pdf' THEN 'application/pdf'
    WHEN 'docx' THEN 'application/vnd.openxmlformats-officedocument.wordprocessingml.document'
    ELSE 'application/octet-stream'
END
"""


def upgrade() -> None:
    op.add_column("file_uploads", sa.Column("content_type", sa.Text(), nullable=True))
    # The header was not kept: the extension is the best there is for the files we have.
    op.execute(BACKFILL)
    op.alter_column("file_uploads", "content_type", existing_type=sa.Text(), nullable=False)


def downgrade() -> None:
    op.drop_column("file_uploads", "content_type")
