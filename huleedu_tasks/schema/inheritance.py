"""What tables inherit from other ones."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from huleedu_tasks.schema.objects import SchemaObject
from huleedu_tasks.schema.sql_text import identifiers, parenthesized, shown, split

_INHERITS = "INHERITS "
_NOT_NULL = " NOT NULL"
# Begins the statements behind the definition of a column.
_ALTER = "\nALTER "


def without_inherited_not_null(objects: Sequence[SchemaObject]) -> list[SchemaObject]:
    """Return the objects without the NOT NULL of each column whose parent table has it too.

    Before PostgreSQL 18, no catalog says whether the table itself has it as well.
    """
    tables = _Tables(
        parents={one.label: _parents_of(one) for one in objects if one.kind == "table"},
        not_null={one.label for one in objects if _is_not_null(one)},
    )
    return [
        _nullable(one) if _is_not_null(one) and tables.inherits_not_null(one) else one
        for one in objects
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tables:
    """The tables of a schema.

    Attributes:
        parents: The labels of the tables from which each inherits.
        not_null: The labels of the columns that are defined as NOT NULL.
    """

    parents: dict[str, list[str]]
    not_null: set[str]

    def inherits_not_null(self, column: SchemaObject) -> bool:
        """Whether an ancestor of a column's table defines the column as NOT NULL."""
        name = column.label.removeprefix(f"column {column.parent.removeprefix('table ')}")
        return self._inherits(column.parent, name)

    def _inherits(self, table: str, column: str) -> bool:
        return any(
            f"column {parent.removeprefix('table ')}{column}" in self.not_null
            or self._inherits(parent, column)
            for parent in self.parents.get(table, ())
        )


def _parents_of(table: SchemaObject) -> list[str]:
    create, *_ = split(table.definition, ";")
    _, _, tail = parenthesized(create)
    if not tail.strip().startswith(_INHERITS):
        return []
    _, names, _ = parenthesized(tail)
    return [f"table {shown(*identifiers(name))}" for name in split(names, ",")]


def _is_not_null(one: SchemaObject) -> bool:
    return one.kind == "column" and one.definition.partition(_ALTER)[0].endswith(_NOT_NULL)


def _nullable(column: SchemaObject) -> SchemaObject:
    definition, alter, rest = column.definition.partition(_ALTER)
    return replace(column, definition=definition.removesuffix(_NOT_NULL) + alter + rest)
