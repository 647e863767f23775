"""The revisions of the services: their operations and files."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from tests.support.strangers.switches import History, Stranger

REVISION = '''\
"""{message}

Revision ID: {id}
Revises: {parents}
Create Date: 2025-05-13 09:12:44.120345

"""
from typing import Sequence, Union

from alembic import op
import sqlalchemy as sa


# revision identifiers, used by Alembic.
revision: str = {id!r}
down_revision: Union[str, Sequence[str], None] = {down_revision!r}
branch_labels: Union[str, Sequence[str], None] = None
depends_on: Union[str, Sequence[str], None] = None


def upgrade() -> None:
{upgrade}


def downgrade() -> None:
    raise NotImplementedError
'''
TABLE = """\
    op.create_table(
        {table!r},
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("text", sa.String(length=80), nullable=False),
    )"""
INDEX = """\
    with op.get_context().autocommit_block():
        op.create_index(
            {index!r}, {table!r}, ["text"], postgresql_concurrently=True, if_not_exists=True
        )"""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One revision.

    Attributes:
        table: The table it makes, if any.
        index: The index it makes instead, on the first table.
    """

    message: str
    parents: tuple[str, ...] = ()
    table: str = ""
    index: str = ""


SHAPES = {
    History.REGULAR: (
        Step(message="create items", table="items"),
        Step(message="create notes", parents=("create items",), table="notes"),
    ),
    History.MERGED: (
        Step(message="create items", table="items"),
        Step(message="create notes", parents=("create items",), table="notes"),
        Step(message="create tags", parents=("create items",), table="tags"),
        Step(
            message="merge notes and tags",
            parents=("create notes", "create tags"),
        ),
        Step(message="create last", parents=("merge notes and tags",), table="last"),
    ),
    History.SUBFOLDERS: (
        Step(message="create items", table="items"),
        Step(message="create notes", parents=("create items",), table="notes"),
    ),
    History.CONCURRENT_INDEX: (
        Step(message="create items", table="items"),
        Step(message="index items", parents=("create items",), index="items_text"),
        Step(message="create notes", parents=("index items",), table="notes"),
    ),
}


def tables(service: Stranger) -> list[str]:
    """Return the tables that its revisions create, whose names are unique in the monorepo."""
    return [f"{service.name}_{step.table}" for step in SHAPES[service.history] if step.table]


def head(service: Stranger) -> str:
    return _id(service, SHAPES[service.history][-1].message)


def files(service: Stranger) -> Iterator[tuple[str, str]]:
    """Yield the path of each revision, relative to the version directory, with its content."""
    for number, step in enumerate(SHAPES[service.history]):
        identifier = _id(service, step.message)
        folder = f"{2024 + number}/" if service.history is History.SUBFOLDERS else ""
        yield f"{folder}{identifier}_{step.message.replace(' ', '_')}.py", _text(service, step)


def _text(service: Stranger, step: Step) -> str:
    parents = tuple(_id(service, parent) for parent in step.parents)
    upgrade = "    pass"
    if step.table:
        upgrade = TABLE.format(table=f"{service.name}_{step.table}")
    if step.index:
        upgrade = INDEX.format(index=f"{service.name}_{step.index}", table=f"{service.name}_items")
    return REVISION.format(
        message=step.message,
        id=_id(service, step.message),
        parents=", ".join(parents),
        down_revision=(*parents, None)[0] if len(parents) < 2 else parents,
        upgrade=upgrade,
    )


def _id(service: Stranger, message: str) -> str:
    return hashlib.sha256(f"{service.name}: {message}".encode()).hexdigest()[:12]
