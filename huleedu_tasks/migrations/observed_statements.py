"""What the statements of a revision did in a throwaway database, as PostgreSQL reports it."""

from dataclasses import dataclass


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
        name: Its name with its schema; a column has its table before it.
        is_recreated: Whether an object of that kind and name exists at the end of the revision.
    """

    kind: str
    name: str
    is_recreated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RenamedObject:
    """An object or a column that has another name, or is in another schema.

    Attributes:
        kind: What it is, as for `RemovedObject`.
        name: The old name.
        new_name: The new name.
    """

    kind: str
    name: str
    new_name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedStatement:
    """A statement of a revision, and what it did to tables that existed before the revision.

    Attributes:
        sql: The statement as it was sent, without the values of its parameters; an empty string
            for what the revision did without SQLAlchemy.
        locks: The locks that it took and the transaction did not hold before, strongest first.
        rewritten: The tables that it rewrote, as `schema.name`.
        truncated: The tables that it truncated.
        read_whole: The tables that it read whole.
        removed: The objects and columns that ceased to exist; of a table, only the table.
        renamed: The objects and columns that have another name.
        invalid_indexes: The indexes that are invalid after it and were not before.
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
    is_committed: bool = False
    seconds: float = 0.0
    line: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedRevision:
    """The statements of a revision, in order.

    Attributes:
        failure: The error with which the revision failed; an empty string if it succeeded.
    """

    revision: str
    statements: tuple[ObservedStatement, ...]
    failure: str = ""
