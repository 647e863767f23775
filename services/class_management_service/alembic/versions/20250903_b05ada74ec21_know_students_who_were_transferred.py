"""Know students who were transferred to another class.

Revision ID: b05ada74ec21
Revises: c2901fdfbe57
Create Date: 2025-09-03 11:26:02
"""

from alembic import op

revision: str = "b05ada74ec21"
down_revision: str | None = "c2901fdfbe57"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute("ALTER TYPE enrolment_status ADD VALUE IF NOT EXISTS 'transferred'")


def downgrade() -> None:
    # PostgreSQL cannot remove a value from an enum: the type is recreated without it.
    op.execute("UPDATE enrolments SET status = 'left' WHERE status = 'transferred'")
    op.execute("ALTER TABLE enrolments ALTER COLUMN status DROP DEFAULT")
    op.execute("ALTER TYPE enrolment_status RENAME TO enrolment_status_old")
    op.execute("CREATE TYPE enrolment_status AS ENUM ('active', 'left')")
    op.execute(
        "ALTER TABLE enrolments ALTER COLUMN status"
        " TYPE enrolment_status USING status::text::enrolment_status"
    )
    op.execute("ALTER TABLE enrolments ALTER COLUMN status SET DEFAULT 'active'")
    op.execute("DROP TYPE enrolment_status_old")
