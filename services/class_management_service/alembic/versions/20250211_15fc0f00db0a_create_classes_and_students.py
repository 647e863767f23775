"""Create classes and students.

Revision ID: 15fc0f00db0a
Revises:
Create Date: 2025-02-11 09:42:17
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "15fc0f00db0a"
down_revision: str | None = None
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.execute("CREATE TYPE enrolment_status AS ENUM ('active', 'left')")
    op.create_table(
        "courses",
        sa.Column("code", sa.String(8), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("language", sa.String(2), nullable=False),
        sa.Column("level", sa.SmallInteger(), nullable=False),
        sa.PrimaryKeyConstraint("code", name=op.f("pk_courses")),
        sa.CheckConstraint("language IN ('sv', 'en')", name=op.f("ck_courses_language_known")),
        sa.CheckConstraint("level BETWEEN 1 AND 7", name=op.f("ck_courses_level_in_range")),
    )
    op.create_table(
        "classes",
        sa.Column("id", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("course_code", sa.String(8), nullable=False),
        sa.Column("teacher_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("school", sa.Text(), nullable=False),
        sa.Column("school_year", sa.String(9), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False
        ),
        sa.Column(
            "updated_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False
        ),
        sa.Column("archived_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_classes")),
        sa.ForeignKeyConstraint(
            ["course_code"],
            ["courses.code"],
            name=op.f("fk_classes_course_code_courses"),
            ondelete="RESTRICT",
        ),
        sa.UniqueConstraint(
            "teacher_id", "name", "school_year", name=op.f("uq_classes_teacher_id_name_school_year")
        ),
        sa.CheckConstraint(
            "school_year ~ '^[0-9]{4}/[0-9]{4}$'", name=op.f("ck_classes_school_year_format")
        ),
    )
    op.create_index(op.f("ix_classes_course_code"), "classes", ["course_code"])
    op.create_table(
        "students",
        sa.Column("id", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("first_name", sa.Text(), nullable=False),
        sa.Column("last_name", sa.Text(), nullable=False),
        sa.Column("email", sa.Text(), nullable=True),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False
        ),
        sa.Column(
            "updated_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_students")),
        sa.UniqueConstraint("email", name=op.f("uq_students_email")),
    )
    op.create_index(
        op.f("ix_students_last_name_first_name"), "students", ["last_name", "first_name"]
    )
    op.create_table(
        "enrolments",
        sa.Column("class_id", sa.Uuid(), nullable=False),
        sa.Column("student_id", sa.Uuid(), nullable=False),
        sa.Column(
            "status",
            postgresql.ENUM(name="enrolment_status", create_type=False),
            server_default=sa.text("'active'"),
            nullable=False,
        ),
        sa.Column(
            "enrolled_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False
        ),
        sa.PrimaryKeyConstraint("class_id", "student_id", name=op.f("pk_enrolments")),
        sa.ForeignKeyConstraint(
            ["class_id"],
            ["classes.id"],
            name=op.f("fk_enrolments_class_id_classes"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["student_id"],
            ["students.id"],
            name=op.f("fk_enrolments_student_id_students"),
            ondelete="CASCADE",
        ),
    )
    op.create_index(op.f("ix_enrolments_student_id"), "enrolments", ["student_id"])


def downgrade() -> None:
    op.drop_table("enrolments")
    op.drop_table("students")
    op.drop_table("classes")
    op.drop_table("courses")
    op.execute("DROP TYPE enrolment_status")
