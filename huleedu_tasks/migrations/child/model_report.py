"""Reports how the models differ from the database: what autogenerate sees, and what it does not.

Loaded by its path in the process that runs Alembic, like `worker.py` beside it: the interpreter may
be the service's own, and older than ours.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any


class ModelComparison:
    """Observes one `alembic revision --autogenerate`, which then writes no file.

    Args:
        file: The JSON file that receives the report.
        query: A query that returns the objects of the database as rows of strings.

    The report:
        has_metadata: Whether `env.py` passes metadata.
        operations: The operations that autogenerate would write, as Python.
        history: The rows of the database as it is.
        models: The rows after the tables of the models were dropped and created from the models.
        problem: Why they could not be created; an empty string if they were.
    """

    def __init__(self, file: str, query: str) -> None:
        from alembic.autogenerate.api import RevisionContext

        self._file = file
        self._query = query
        self._report: dict[str, Any] = {"has_metadata": True, "operations": [], "problem": ""}
        kind: Any = RevisionContext
        plain_run = kind.run_autogenerate

        def run(context: Any, revision: Any, migration: Any) -> None:
            self._report["has_metadata"] = migration.opts.get("target_metadata") is not None
            self._write()
            plain_run(context, revision, migration)
            self._report["operations"] += _rendered(context.generated_revisions, migration)
            self._compare(migration)
            self._write()

        def scripts(context: Any) -> Iterator[Any]:
            yield from ()

        kind.run_autogenerate, kind.generate_scripts = run, scripts

    def _compare(self, migration: Any) -> None:
        connection = migration.connection
        self._report["history"] = self._rows(connection)
        transaction = None
        try:
            transaction = connection.begin_nested()
            for metadata in _as_list(migration.opts["target_metadata"]):
                _recreate(metadata, migration.opts, connection)
            self._report["models"] = self._rows(connection)
        except Exception as error:
            self._report["problem"] = str(getattr(error, "orig", None) or error).splitlines()[0]
        if transaction:
            transaction.rollback()

    def _rows(self, connection: Any) -> list[list[Any]]:
        return [list(row) for row in connection.exec_driver_sql(self._query)]

    def _write(self) -> None:
        with open(self._file, "w", encoding="utf-8") as written:
            json.dump(self._report, written)


def _rendered(scripts: Any, migration: Any) -> Iterator[str]:
    """Yield each operation that autogenerate would write, as Python."""
    from alembic.autogenerate.api import AutogenContext
    from alembic.autogenerate.render import render_op

    context = AutogenContext(migration)
    for script in scripts:
        for upgrade in script.upgrade_ops_list:
            for operation in upgrade.ops:
                for text in render_op(context, operation):
                    yield " ".join(line.strip() for line in text.splitlines())


def _recreate(metadata: Any, options: dict[str, Any], connection: Any) -> None:
    """Drop the tables and enums of the models that env.py does not filter, and create them."""
    tables = [table for table in metadata.tables.values() if _is_included(table, options)]
    prepare = connection.dialect.identifier_preparer
    for table in tables:
        connection.exec_driver_sql(f"DROP TABLE IF EXISTS {prepare.format_table(table)} CASCADE")
    for enum in {prepare.format_type(enum) for table in tables for enum in _enums(table)}:
        connection.exec_driver_sql(f"DROP TYPE IF EXISTS {enum} CASCADE")
    metadata.create_all(connection, tables=tables)


def _is_included(table: Any, options: dict[str, Any]) -> bool:
    qualified = f"{table.schema}.{table.name}" if table.schema else table.name
    parents = {"schema_name": table.schema, "schema_qualified_table_name": qualified}
    include_name = options.get("include_name")
    if include_name and not include_name(table.name, "table", parents):
        return False
    include_object = options.get("include_object")
    return not include_object or include_object(table, table.name, "table", False, None)


def _enums(table: Any) -> Iterator[Any]:
    """Yield the types of a table's columns that are enums of PostgreSQL."""
    from sqlalchemy import Enum
    from sqlalchemy.dialects.postgresql import dialect as postgresql

    kind: Any = postgresql
    dialect = kind()
    for column in table.columns:
        stated = getattr(column.type, "item_type", column.type)
        found = stated.dialect_impl(dialect)
        if isinstance(found, Enum) and getattr(found, "native_enum", True) and found.name:
            yield found


def _as_list(metadata: Any) -> list[Any]:
    return list(metadata) if isinstance(metadata, (list, tuple)) else [metadata]
