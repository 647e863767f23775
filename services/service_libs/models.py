"""Conventions of every service's models: constraint names, column types, keys, timestamps."""

import re
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

from sqlalchemy import DateTime, Enum, Text, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import mapped_column
from sqlalchemy.types import TypeEngine

NAMING_CONVENTION = {
    "pk": "pk_%(table_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
}

# Keys are made by the database unless the event that announces a row already carries one.
UuidKey = Annotated[UUID, mapped_column(primary_key=True, server_default=text("gen_random_uuid()"))]
CreatedAt = Annotated[datetime, mapped_column(server_default=func.now())]
UpdatedAt = Annotated[datetime, mapped_column(server_default=func.now(), onupdate=func.now())]


def column_types(*enums: type[StrEnum]) -> Mapping[Any, TypeEngine[Any]]:
    """A service's `type_annotation_map`: the shared types, and its enums as PostgreSQL types."""
    shared: dict[Any, TypeEngine[Any]] = {
        str: Text(),
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB(),
    }
    return shared | {enum: _postgresql_enum(enum) for enum in enums}


def _postgresql_enum(enum: type[StrEnum]) -> Enum:
    # Stored by value: a member may then be renamed in Python without a migration.
    name = re.sub(r"(?<!^)(?=[A-Z])", "_", enum.__name__).lower()
    return Enum(enum, name=name, values_callable=lambda members: [item.value for item in members])
