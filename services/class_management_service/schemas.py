"""What the service accepts and returns, as JSON."""

from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, ConfigDict, StringConstraints

# PostgreSQL stores no zero byte.
Text = Annotated[str, StringConstraints(strip_whitespace=True, pattern=r"^[^\x00]+$")]


class Health(BaseModel):
    environment: str


class DatabaseHealth(Health):
    """`revision` is None if the database is empty."""

    revision: str | None


class NewSchoolClass(BaseModel):
    course_code: Annotated[Text, StringConstraints(max_length=8)]
    teacher_id: UUID
    name: Text
    school: Text
    school_year: Annotated[str, StringConstraints(pattern=r"^[0-9]{4}/[0-9]{4}$")]


class Row(BaseModel):
    """A row, read from the attributes of a model."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID


class SchoolClassRow(Row, NewSchoolClass):
    pass


class StudentRow(Row):
    first_name: str
    last_name: str
    email: str | None
