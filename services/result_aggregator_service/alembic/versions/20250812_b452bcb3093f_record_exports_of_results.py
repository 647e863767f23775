"""Record exports of results.

Revision ID: b452bcb3093f
Revises: 3604504dd390
Create Date: 2025-08-12 15:28:53
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "b452bcb3093f"
down_revision: str | None = "3604504dd390"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.execute("CREATE TYPE export_format AS ENUM ('csv', 'pdf')")
    op.create_table(
        "result_exports",
        sa.Column("id", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("batch_id", sa.Uuid(), nullable=False),
        sa.Column("requested_by", sa.Uuid(), nullable=False),
        sa.Column(
            "format", postgresql.ENUM(name="export_format", create_type=False), nullable=False
        ),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_result_exports")),
        sa.ForeignKeyConstraint(
            ["batch_id"],
            ["batch_results.batch_id"],
            name=op.f("fk_result_exports_batch_id_batch_results"),
            ondelete="CASCADE",
        ),
    )
    op.create_index(op.f("ix_result_exports_batch_id"), "result_exports", ["batch_id"])


def downgrade() -> None:
    op.drop_table("result_exports")
    op.execute("DROP TYPE export_format")
