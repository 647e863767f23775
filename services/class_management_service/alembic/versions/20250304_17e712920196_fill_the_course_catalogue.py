"""Fill the course catalogue.

Revision ID: 17e712920196
Revises: 15fc0f00db0a
Create Date: 2025-03-04 14:05:51
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "17e712920196"
down_revision: str | None = "15fc0f00db0a"
branch_labels: str | None = None
depends_on: str | None = None

courses = sa.table(
    "courses",
    sa.column("code", sa.String()),
    sa.column("name", sa.Text()),
    sa.column("language", sa.String()),
    sa.column("level", sa.SmallInteger()),
)

classes = sa.table("classes", sa.column("course_code", sa.String()))

CATALOGUE = [
    ("ENG5", "Engelska 5", "en", 5),
    ("ENG6", "Engelska 6", "en", 6),
    ("ENG7", "Engelska 7", "en", 7),
    ("SVE1", "Svenska 1", "sv", 1),
    ("SVE2", "Svenska 2", "sv", 2),
    ("SVE3", "Svenska 3", "sv", 3),
]


def upgrade() -> None:
    # A downgrade leaves the courses that have classes, so they may be here already.
    op.execute(postgresql.insert(courses).values(CATALOGUE).on_conflict_do_nothing())


def downgrade() -> None:
    op.execute(
        courses.delete().where(
            courses.c.code.in_([code for code, *_ in CATALOGUE]),
            courses.c.code.not_in(sa.select(classes.c.course_code)),
        )
    )
