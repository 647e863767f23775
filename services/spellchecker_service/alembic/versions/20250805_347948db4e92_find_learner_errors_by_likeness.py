"""Find learner errors by likeness.

Revision ID: 347948db4e92
Revises: e499653c65f9
Create Date: 2025-08-05 11:57:32
"""

from alembic import op

revision: str = "347948db4e92"
down_revision: str | None = "e499653c65f9"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.execute("CREATE EXTENSION IF NOT EXISTS pg_trgm")
    op.create_index(
        "ix_learner_errors_wrong_trigrams",
        "learner_errors",
        ["wrong"],
        postgresql_using="gin",
        postgresql_ops={"wrong": "gin_trgm_ops"},
    )


def downgrade() -> None:
    op.drop_index("ix_learner_errors_wrong_trigrams", "learner_errors")
    op.execute("DROP EXTENSION IF EXISTS pg_trgm")
