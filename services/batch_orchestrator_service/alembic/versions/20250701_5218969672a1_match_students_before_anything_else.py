"""Match students before anything else.

Revision ID: 5218969672a1
Revises: 6ddb579c0ce8
Create Date: 2025-07-01 12:35:40
"""

from alembic import op

revision: str = "5218969672a1"
down_revision: str | None = "6ddb579c0ce8"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute(
            "ALTER TYPE pipeline_phase_name"
            " ADD VALUE IF NOT EXISTS 'student_matching' BEFORE 'spellcheck'"
        )


def downgrade() -> None:
    # PostgreSQL cannot remove a value from an enum: the type is recreated without it. The later
    # phases keep their positions, of which only the order matters.
    op.execute("DELETE FROM pipeline_phases WHERE phase = 'student_matching'")
    op.execute("ALTER TYPE pipeline_phase_name RENAME TO pipeline_phase_name_old")
    op.execute(
        "CREATE TYPE pipeline_phase_name AS ENUM ('spellcheck', 'text_analysis', 'cj_assessment')"
    )
    op.execute(
        "ALTER TABLE pipeline_phases ALTER COLUMN phase"
        " TYPE pipeline_phase_name USING phase::text::pipeline_phase_name"
    )
    op.execute("DROP TYPE pipeline_phase_name_old")
