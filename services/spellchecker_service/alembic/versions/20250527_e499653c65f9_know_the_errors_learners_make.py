"""Know the errors learners make.

Revision ID: e499653c65f9
Revises: 90e11d8685f5
Create Date: 2025-05-27 09:08:14
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "e499653c65f9"
down_revision: str | None = "90e11d8685f5"
branch_labels: str | None = None
depends_on: str | None = None

# The commonest of the learner corpus; the spelling of Swedish shows through in most of the English.
LEARNER_ERRORS = (
    ("en", "allways", "always"),
    ("en", "becouse", "because"),
    ("en", "beleive", "believe"),
    ("en", "carachter", "character"),
    ("en", "definately", "definitely"),
    ("en", "diffrent", "different"),
    ("en", "enviroment", "environment"),
    ("en", "goverment", "government"),
    ("en", "intresting", "interesting"),
    ("en", "peoples", "people"),
    ("en", "recieve", "receive"),
    ("en", "responsability", "responsibility"),
    ("en", "seperate", "separate"),
    ("en", "thougt", "thought"),
    ("en", "untill", "until"),
    ("en", "wich", "which"),
    ("sv", "defenitivt", "definitivt"),
    ("sv", "intresant", "intressant"),
    ("sv", "nånstans", "någonstans"),
    ("sv", "orginal", "original"),
)


def upgrade() -> None:
    learner_errors = op.create_table(
        "learner_errors",
        sa.Column("language", postgresql.ENUM(name="language", create_type=False), nullable=False),
        sa.Column("wrong", sa.Text(), nullable=False),
        sa.Column("correct", sa.Text(), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False
        ),
        sa.PrimaryKeyConstraint("language", "wrong", name=op.f("pk_learner_errors")),
        sa.CheckConstraint("wrong <> correct", name=op.f("ck_learner_errors_correct_differs")),
    )
    op.bulk_insert(
        learner_errors,
        [
            {"language": language, "wrong": wrong, "correct": correct}
            for language, wrong, correct in LEARNER_ERRORS
        ],
    )


def downgrade() -> None:
    op.drop_table("learner_errors")
