"""Keep the configuration of a run.

Revision ID: 18ab7345c8f4
Revises: 5f03aa1c47a6
Create Date: 2025-04-24 16:01:22
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "18ab7345c8f4"
down_revision: str | None = "5f03aa1c47a6"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.create_table(
        "configuration_snapshots",
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("configuration", postgresql.JSONB(), nullable=False),
        sa.Column(
            "taken_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False
        ),
        sa.PrimaryKeyConstraint("run_id", name=op.f("pk_configuration_snapshots")),
        sa.ForeignKeyConstraint(
            ["run_id"],
            ["pipeline_runs.id"],
            name=op.f("fk_configuration_snapshots_run_id_pipeline_runs"),
            ondelete="CASCADE",
        ),
    )


def downgrade() -> None:
    op.drop_table("configuration_snapshots")
