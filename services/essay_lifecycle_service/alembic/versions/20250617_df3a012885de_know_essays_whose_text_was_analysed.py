"""Know essays whose text was analysed.

Revision ID: df3a012885de
Revises: cf256daa0e8e
Create Date: 2025-06-17 14:29:46
"""

from alembic import op

revision: str = "df3a012885de"
down_revision: str | None = "cf256daa0e8e"
branch_labels: str | None = None
depends_on: str | None = None

COLUMNS = (
    ("essays", "status"),
    ("essay_transitions", "from_status"),
    ("essay_transitions", "to_status"),
)


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute(
            "ALTER TYPE essay_status ADD VALUE IF NOT EXISTS 'analysed' AFTER 'spellchecked'"
        )


def downgrade() -> None:
    # PostgreSQL cannot remove a value from an enum: the type is recreated without it. A transition
    # into the value has no place in the older history, and the essay is as far as it was before.
    op.execute("DELETE FROM essay_transitions WHERE to_status = 'analysed'")
    op.execute(
        "UPDATE essay_transitions SET from_status = 'spellchecked' WHERE from_status = 'analysed'"
    )
    op.execute("UPDATE essays SET status = 'spellchecked' WHERE status = 'analysed'")
    op.execute("ALTER TABLE essays ALTER COLUMN status DROP DEFAULT")
    op.execute("ALTER TYPE essay_status RENAME TO essay_status_old")
    op.execute(
        "CREATE TYPE essay_status AS ENUM"
        " ('awaiting_content', 'ready', 'spellchecked', 'completed', 'failed')"
    )
    op.drop_constraint(
        op.f("ck_essay_transitions_status_changes"), "essay_transitions", type_="check"
    )
    for table, column in COLUMNS:
        op.execute(
            f"ALTER TABLE {table} ALTER COLUMN {column}"
            f" TYPE essay_status USING {column}::text::essay_status"
        )
    op.create_check_constraint(
        op.f("ck_essay_transitions_status_changes"),
        "essay_transitions",
        "from_status IS DISTINCT FROM to_status",
    )
    op.execute("ALTER TABLE essays ALTER COLUMN status SET DEFAULT 'awaiting_content'")
    op.execute("DROP TYPE essay_status_old")
