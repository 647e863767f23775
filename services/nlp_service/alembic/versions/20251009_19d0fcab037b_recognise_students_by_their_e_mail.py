"""Recognise students by their e-mail address.

Revision ID: 19d0fcab037b
Revises: 0686117a34e0
Create Date: 2025-10-09 16:27:15
"""

from alembic import op

revision: str = "19d0fcab037b"
down_revision: str | None = "0686117a34e0"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute("ALTER TYPE name_evidence ADD VALUE IF NOT EXISTS 'email'")


def downgrade() -> None:
    # PostgreSQL cannot remove a value from an enum: the type is recreated without it. The match
    # itself stays, under the evidence that claims least.
    op.execute("UPDATE student_matches SET evidence = 'fuzzy' WHERE evidence = 'email'")
    op.execute("ALTER TYPE name_evidence RENAME TO name_evidence_old")
    op.execute("CREATE TYPE name_evidence AS ENUM ('full_name', 'initials', 'fuzzy')")
    op.execute(
        "ALTER TABLE student_matches ALTER COLUMN evidence"
        " TYPE name_evidence USING evidence::text::name_evidence"
    )
    op.execute("DROP TYPE name_evidence_old")
