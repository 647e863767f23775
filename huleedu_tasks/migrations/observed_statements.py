"""What the statements of a revision did in a throwaway database, as PostgreSQL reports it."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class TableLock:
    """A lock on a table that a statement took and held until the end of its transaction.

    Attributes:
        table: The table, as `schema.name`.
        mode: The mode as PostgreSQL's documentation writes it, such as `ACCESS EXCLUSIVE`.
    """

    table: str
    mode: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RemovedObject:
    """An object or a column that ceased to exist.

    Attributes:
        kind: What it was, in lower case, such as `table`, `column` or `function`.
        name: Its name before the revision, with its schema; a column has its table before it.
        table: The table of a column, as `schema.name`; an empty string for other objects.
        is_recreated: Whether an object of that kind and name exists at the end of the revision.
    """

    kind: str
    name: str
    table: str = ""
    is_recreated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RenamedObject:
    """An object or a column that has another name, or is in another schema.

    Attributes:
        kind: What it is, as for `RemovedObject`.
        name: Its name before the revision.
        table: As for `RemovedObject`.
        new_name: The new name.
        is_replaced: Whether the name before the revision can be used at its end: the object has it
            again, or a view of that name replaces a table.
    """

    kind: str
    name: str
    new_name: str
    table: str = ""
    is_replaced: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RequiredColumn:
    """A new column that is NOT NULL and has no default.

    Attributes:
        table: Its table, as `schema.name`.
    """

    table: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedTable:
    """A table that existed before a revision.

    Attributes:
        shown: Its name, with its schema unless that is on the search path.
        root: The table that it is a partition of, or inherits from, at last; as `schema.name`.
    """

    shown: str
    root: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedStatement:
    """A statement of a revision, and what it did to tables that existed before the revision.

    Tables have the names that they had then.

    Attributes:
        sql: The statement as it was sent, without the values of its parameters; an empty string
            for what the revision did without SQLAlchemy.
        locks: The locks that it took and the transaction did not hold before, strongest first. A
            statement that PostgreSQL refuses in a transaction has none.
        rewritten: The tables that it rewrote, as `schema.name`.
        truncated: The tables that it truncated.
        read_whole: The tables that it read whole.
        removed: The objects and columns that ceased to exist; of a table, only the table.
        renamed: The objects and columns that have another name.
        invalid_indexes: The indexes that are invalid after it and were not before.
        required_columns: The columns that it added NOT NULL without a default.
        is_committed: Whether its effect was committed before the end of the revision.
        seconds: How long it took on the throwaway database.
        line: The line of the revision file that sent it, from 1; None if it is not known.
    """

    sql: str
    locks: tuple[TableLock, ...] = ()
    rewritten: tuple[str, ...] = ()
    truncated: tuple[str, ...] = ()
    read_whole: tuple[str, ...] = ()
    removed: tuple[RemovedObject, ...] = ()
    renamed: tuple[RenamedObject, ...] = ()
    invalid_indexes: tuple[str, ...] = ()
    required_columns: tuple[RequiredColumn, ...] = ()
    is_committed: bool = False
    seconds: float = 0.0
    line: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedRevision:
    """The statements of a revision, in order.

    Attributes:
        failure: The error with which the revision failed; an empty string if it succeeded.
        continues_transaction: Whether Alembic would run it in the transaction of the revision
            before it, as it does by default.
        tables: The tables in the facts about its statements, by `schema.name`.
    """

    revision: str
    statements: tuple[ObservedStatement, ...]
    failure: str = ""
    continues_transaction: bool = False
    tables: Mapping[str, ObservedTable] = field(default_factory=dict)
