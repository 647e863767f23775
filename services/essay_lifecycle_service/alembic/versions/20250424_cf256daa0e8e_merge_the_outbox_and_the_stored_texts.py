"""Merge the outbox and the stored texts.

Revision ID: cf256daa0e8e
Revises: f41f6a277920, 6d318e09575e
Create Date: 2025-04-24 11:08:57
"""

revision: str = "cf256daa0e8e"
down_revision: tuple[str, ...] = ("f41f6a277920", "6d318e09575e")
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    pass


def downgrade() -> None:
    pass
