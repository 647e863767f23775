"""Run batches through pipelines.

Revision ID: 5f03aa1c47a6
Revises: 8dc423541b13
Create Date: 2025-03-06 09:32:47
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "5f03aa1c47a6"
down_revision: str | None = "8dc423541b13"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.execute(
        "CREATE TYPE pipeline_phase_name AS ENUM ('spellcheck', 'text_analysis', 'cj_assessment')"
    )
    op.execute("CREATE TYPE phase_status AS ENUM ('pending', 'running', 'completed', 'failed')")
    op.create_table(
        "pipeline_runs",
        sa.Column("id", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("batch_id", sa.Uuid(), nullable=False),
        sa.Column("requested_by", sa.Uuid(), nullable=False),
        sa.Column(
            "started_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False
        ),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_pipeline_runs")),
        sa.ForeignKeyConstraint(
            ["batch_id"],
            ["batches.id"],
            name=op.f("fk_pipeline_runs_batch_id_batches"),
            ondelete="CASCADE",
        ),
        sa.CheckConstraint(
            "finished_at >= started_at", name=op.f("ck_pipeline_runs_finishes_after_start")
        ),
    )
    op.create_index(
        op.f("ix_pipeline_runs_batch_id_started_at"), "pipeline_runs", ["batch_id", "started_at"]
    )
    op.create_index(
        "uq_pipeline_runs_batch_id_unfinished",
        "pipeline_runs",
        ["batch_id"],
        unique=True,
        postgresql_where=sa.text("finished_at IS NULL"),
    )
    op.create_table(
        "pipeline_phases",
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column(
            "phase", postgresql.ENUM(name="pipeline_phase_name", create_type=False), nullable=False
        ),
        sa.Column("position", sa.SmallInteger(), nullable=False),
        sa.Column(
            "status",
            postgresql.ENUM(name="phase_status", create_type=False),
            server_default=sa.text("'pending'"),
            nullable=False,
        ),
        sa.Column("succeeded", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("failed", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("run_id", "phase", name=op.f("pk_pipeline_phases")),
        sa.ForeignKeyConstraint(
            ["run_id"],
            ["pipeline_runs.id"],
            name=op.f("fk_pipeline_phases_run_id_pipeline_runs"),
            ondelete="CASCADE",
        ),
        sa.UniqueConstraint("run_id", "position", name=op.f("uq_pipeline_phases_run_id_position")),
        sa.CheckConstraint(
            "finished_at >= started_at", name=op.f("ck_pipeline_phases_finishes_after_start")
        ),
        sa.CheckConstraint(
            "succeeded >= 0 AND failed >= 0", name=op.f("ck_pipeline_phases_counts_not_negative")
        ),
    )


def downgrade() -> None:
    op.drop_table("pipeline_phases")
    op.drop_table("pipeline_runs")
    op.execute("DROP TYPE phase_status")
    op.execute("DROP TYPE pipeline_phase_name")
