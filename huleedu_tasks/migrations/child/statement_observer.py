"""Observes what each statement of a revision does to the database, as PostgreSQL reports it.

Loaded by its path in the process that runs Alembic, like `worker.py` beside it: the interpreter may
be the service's own, and older than ours.

Each statement costs one query on its own connection, and a second one if it changed the catalogs.
The queries read catalogs and statistics only: their locks are on catalogs, which are not reported.

What an empty table hides: nothing of a lock, of a rewrite, or of a table that DDL reads; these do
not depend on rows. A statement that finds no row does not go on to a second table of a join, to
foreign keys and to triggers.

The locks of a statement outside of a transaction are released before they can be read. So it is
tried in a transaction first, which is rolled back. PostgreSQL refuses that for some statements,
such as CREATE INDEX CONCURRENTLY, whose locks block neither reads nor writes, and REINDEX SCHEMA.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

TABLES = ("table", "materialized view")
# What stores something of its own, so that one of the same name does not replace it.
WITH_CONTENT = ("table", "column", "materialized view", "sequence", "type", "schema")
# Rewrites a table in the order of an index, and may read only that.
CLUSTER = re.compile(r"\bCLUSTER\b", re.IGNORECASE)
# Outside of a transaction, these are tried in one: they may block others until they have ended.
TRIED = re.compile(
    r"(\s|--[^\n]*\n|/\*.*?\*/)*"
    r"(ALTER|CALL|CLUSTER|COMMENT|CREATE|DO|DROP|LOCK|REFRESH|REINDEX|TRUNCATE)\b",
    re.IGNORECASE | re.DOTALL,
)
# Takes SHARE on the tables that it reads, as PostgreSQL's documentation of it says.
REINDEX = re.compile(r"\bREINDEX\b(?!.*\bCONCURRENTLY\b)", re.IGNORECASE | re.DOTALL)
VIEWS = ("view", "materialized view")
# Weakest first, and as the documentation of PostgreSQL writes them (13.3.1).
MODES = {
    "AccessShareLock": "ACCESS SHARE",
    "RowShareLock": "ROW SHARE",
    "RowExclusiveLock": "ROW EXCLUSIVE",
    "ShareUpdateExclusiveLock": "SHARE UPDATE EXCLUSIVE",
    "ShareLock": "SHARE",
    "ShareRowExclusiveLock": "SHARE ROW EXCLUSIVE",
    "ExclusiveLock": "EXCLUSIVE",
    "AccessExclusiveLock": "ACCESS EXCLUSIVE",
}
# The facts about a statement that are lists of tables.
TABLE_FACTS = ("rewritten", "truncated", "read_whole")
STRENGTHS = {mode: strength for strength, mode in enumerate(MODES.values())}
CATALOGS = (
    "pg_attribute",
    "pg_class",
    "pg_constraint",
    "pg_extension",
    "pg_index",
    "pg_namespace",
    "pg_policy",
    "pg_proc",
    "pg_rewrite",
    "pg_trigger",
    "pg_type",
)
# Identifies the first objects that are not part of PostgreSQL (FirstNormalObjectId).
FIRST_OID = 16384

# The transaction, the locks on relations, how often each table was read whole, and a number that
# differs after a change of the catalogs. Statistics that were sent to the server are added from
# PostgreSQL 15, which counts them at once.
STATE = f"""\
SELECT pg_catalog.json_build_object(
    'transaction', (
        SELECT virtualtransaction FROM pg_catalog.pg_locks
        WHERE pid = pg_catalog.pg_backend_pid() AND locktype = 'virtualxid'
          AND virtualxid = virtualtransaction LIMIT 1),
    'xid', pg_catalog.txid_current_if_assigned()::text,
    'locks', (
        SELECT pg_catalog.json_agg(pg_catalog.json_build_array(relation::bigint, mode))
        FROM pg_catalog.pg_locks
        WHERE pid = pg_catalog.pg_backend_pid() AND locktype = 'relation' AND granted
          AND relation::bigint >= {FIRST_OID}),
    'scans', (
        SELECT pg_catalog.json_object_agg(oid::bigint::text, scans) FROM (
            SELECT oid, pg_catalog.pg_stat_get_xact_numscans(oid) + CASE
                WHEN pg_catalog.current_setting('server_version_num')::integer >= 150000
                THEN pg_catalog.pg_stat_get_numscans(oid) ELSE 0 END AS scans
            FROM pg_catalog.pg_class
            WHERE oid::bigint >= {FIRST_OID} AND relkind IN ('r', 'm')) AS found
        WHERE scans > 0),
    'writes', (
        SELECT sum(
            pg_catalog.pg_stat_get_xact_tuples_inserted(oid)
            + pg_catalog.pg_stat_get_xact_tuples_updated(oid)
            + pg_catalog.pg_stat_get_xact_tuples_deleted(oid))
        FROM pg_catalog.pg_class
        WHERE oid = ANY (ARRAY{list(CATALOGS)}::pg_catalog.regclass[]))
)::text
"""

# Each object: its kind, what identifies it, its name, the object that it is a part of, and details.
OBJECTS = f"""\
WITH relations AS (
    SELECT c.oid::bigint AS id, n.nspname || '.' || c.relname AS name, c.relkind::text AS kind,
           c.relfilenode::bigint AS file, c.reltablespace::bigint AS space,
           CASE WHEN pg_catalog.pg_table_is_visible(c.oid) THEN '' ELSE n.nspname || '.' END
           || c.relname AS shown, (
               SELECT inhparent::bigint FROM pg_catalog.pg_inherits
               WHERE inhrelid = c.oid AND inhseqno = 1) AS parent
    FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.oid::bigint >= {FIRST_OID} AND n.nspname NOT LIKE 'pg\\_%'
), objects (kind, id, name, parent, detail) AS (
    SELECT CASE kind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' WHEN 'S' THEN 'sequence'
               WHEN 'f' THEN 'foreign table' ELSE 'table' END,
           'pg_class ' || id, name, NULL::text,
           pg_catalog.json_build_object(
               'oid', id, 'file', file, 'space', space, 'shown', shown, 'parent', parent)
    FROM relations WHERE kind IN ('r', 'p', 'v', 'm', 'S', 'f')
    UNION ALL
    SELECT 'index', 'pg_class ' || r.id, r.name, 'pg_class ' || i.indrelid::bigint,
           pg_catalog.json_build_object('oid', r.id, 'valid', i.indisvalid, 'constraint', (
               SELECT c.oid::bigint FROM pg_catalog.pg_constraint AS c
               WHERE c.conindid = i.indexrelid AND c.contype IN ('p', 'u', 'x') LIMIT 1))
    FROM relations AS r JOIN pg_catalog.pg_index AS i ON i.indexrelid::bigint = r.id
    UNION ALL
    SELECT 'column', 'column ' || r.id || ' ' || a.attnum, r.name || '.' || a.attname,
           'pg_class ' || r.id, CASE
               WHEN a.attnotnull AND NOT a.atthasdef AND a.attidentity = ''
               THEN pg_catalog.json_build_object('required', true) END
    FROM relations AS r JOIN pg_catalog.pg_attribute AS a ON a.attrelid::bigint = r.id
    WHERE r.kind IN ('r', 'p', 'm', 'f') AND a.attnum > 0 AND NOT a.attisdropped
    UNION ALL
    SELECT 'constraint', 'pg_constraint ' || c.oid::bigint, r.name || '.' || c.conname,
           'pg_class ' || r.id, NULL
    FROM relations AS r JOIN pg_catalog.pg_constraint AS c ON c.conrelid::bigint = r.id
    WHERE c.contype IN ('c', 'f', 'p', 'u', 'x')
    UNION ALL
    SELECT 'trigger', 'pg_trigger ' || t.oid::bigint, r.name || '.' || t.tgname,
           'pg_class ' || r.id, NULL
    FROM relations AS r JOIN pg_catalog.pg_trigger AS t ON t.tgrelid::bigint = r.id
    WHERE NOT t.tgisinternal
    UNION ALL
    SELECT 'policy', 'pg_policy ' || p.oid::bigint, r.name || '.' || p.polname,
           'pg_class ' || r.id, NULL
    FROM relations AS r JOIN pg_catalog.pg_policy AS p ON p.polrelid::bigint = r.id
    UNION ALL
    SELECT 'rule', 'pg_rewrite ' || w.oid::bigint, r.name || '.' || w.rulename,
           'pg_class ' || r.id, NULL
    FROM relations AS r JOIN pg_catalog.pg_rewrite AS w ON w.ev_class::bigint = r.id
    WHERE w.rulename <> '_RETURN'
    UNION ALL
    SELECT CASE p.prokind WHEN 'p' THEN 'procedure' WHEN 'a' THEN 'aggregate' ELSE 'function' END,
           'pg_proc ' || p.oid::bigint, n.nspname || '.' || p.proname || '('
           || pg_catalog.pg_get_function_identity_arguments(p.oid) || ')', NULL, NULL
    FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
    WHERE p.oid::bigint >= {FIRST_OID} AND n.nspname NOT LIKE 'pg\\_%'
    UNION ALL
    SELECT CASE t.typtype WHEN 'd' THEN 'domain' ELSE 'type' END, 'pg_type ' || t.oid::bigint,
           n.nspname || '.' || t.typname, NULL, NULL
    FROM pg_catalog.pg_type AS t JOIN pg_catalog.pg_namespace AS n ON n.oid = t.typnamespace
    LEFT JOIN pg_catalog.pg_class AS c ON c.oid = t.typrelid
    WHERE t.oid::bigint >= {FIRST_OID} AND n.nspname NOT LIKE 'pg\\_%'
      AND (t.typtype IN ('d', 'e', 'r') OR c.relkind = 'c')
    UNION ALL
    SELECT 'schema', 'pg_namespace ' || oid::bigint, nspname, NULL, NULL
    FROM pg_catalog.pg_namespace WHERE nspname NOT LIKE 'pg\\_%'
    UNION ALL
    SELECT 'extension', 'pg_extension ' || oid::bigint, extname, NULL, NULL
    FROM pg_catalog.pg_extension
)
SELECT pg_catalog.json_agg(
    pg_catalog.json_build_array(kind, id, name, parent, detail) ORDER BY kind, name)::text
FROM objects
"""
MEMBERS = f"""\
SELECT pg_catalog.json_agg(classid::pg_catalog.regclass::text || ' ' || objid::bigint)::text
FROM pg_catalog.pg_depend WHERE deptype = 'e' AND objid::bigint >= {FIRST_OID}
"""


class StatementObserver:
    """Observes the statements of each revision, and reports them at its end.

    Args:
        write_event: Writes an event.
        commits: Whether a statement contains a COMMIT.
    """

    def __init__(self, write_event: Callable[..., None], commits: Callable[[str], bool]) -> None:
        from sqlalchemy import event
        from sqlalchemy.engine import Engine

        self._write_event = write_event
        self._commits = commits
        self._revision: _Revision | None = None
        # What the last revision left: its connection, its changes of the catalogs, and the objects.
        self._known: tuple[Any, Any, _Objects] = (None, None, _Objects([]))
        event.listen(Engine, "before_cursor_execute", self._executing)
        event.listen(Engine, "after_cursor_execute", self._executed)
        event.listen(Engine, "handle_error", self._failed)
        event.listen(Engine, "commit", self._committing)

    def begin_revision(self, connection: Any, revision: str, file: str) -> None:
        """Read what exists before a revision.

        Args:
            connection: Alembic's connection, of SQLAlchemy.
            revision: The revision that begins.
            file: The path of its file.
        """
        driver = connection.connection.dbapi_connection
        state = _read(driver, STATE)
        known_by, writes, objects = self._known
        if known_by is not driver or writes != state["writes"]:
            objects = _Objects(_read(driver, OBJECTS))
        members = set(_read(driver, MEMBERS) or ())
        if not connection.in_transaction() and not getattr(driver, "autocommit", False):
            driver.rollback()
        self._revision = _Revision(revision, driver, objects, objects.without(members), state)
        self._revision.file = file

    def end_revision(self) -> None:
        """Report the statements of a revision that ended or failed."""
        revision, self._revision = self._revision, None
        if revision:
            # After an error the transaction answers no query.
            with suppress(Exception):
                revision.observe_rest()
                self._known = revision.left()
            statements = revision.reported()
            self._write_event(
                "observed",
                revision=revision.name,
                statements=statements,
                tables=revision.tables(statements),
            )

    def _executing(
        self, connection: Any, cursor: object, statement: str, parameters: Any, *_: object
    ) -> None:
        if self._revision:
            driver = connection.connection.dbapi_connection
            self._revision.begin_statement(driver, statement, parameters)

    def _executed(self, connection: Any, cursor: object, statement: str, *_: object) -> None:
        if self._revision:
            driver = connection.connection.dbapi_connection
            # The query of a failed transaction fails as well.
            with suppress(Exception):
                self._revision.observe(driver, statement, commits=self._commits(statement))

    def _failed(self, context: Any) -> None:
        if not (self._revision and context.statement):
            return
        driver = context.connection.connection.dbapi_connection if context.connection else None
        if getattr(driver, "autocommit", False):
            # It may have left something, such as an invalid index.
            self._executed(context.connection, None, str(context.statement))
        else:
            self._revision.add(str(context.statement), {})

    def _committing(self, connection: Any) -> None:
        if self._revision:
            self._revision.commit()


class _Objects:
    """What the catalogs contain: the kind, name, parent and details of each object."""

    def __init__(self, rows: Iterable[list[Any]]) -> None:
        self.by_id = {row[1]: (row[0], row[2], row[3], row[4] or {}) for row in rows or ()}
        self._tables: dict[int, str] | None = None

    def without(self, ids: Iterable[str]) -> _Objects:
        """Return the objects without some."""
        remaining = _Objects([])
        left_out = set(ids)
        remaining.by_id = {
            key: found
            for key, found in self.by_id.items()
            if key not in left_out and found[2] not in left_out
        }
        return remaining

    @property
    def names(self) -> set[tuple[str, str]]:
        """Kind and name of each object."""
        return {(kind, name) for kind, name, _, _ in self.by_id.values()}

    @property
    def tables(self) -> dict[int, str]:
        """The names of tables, by their OIDs and those of their indexes."""
        if self._tables is None:
            self._tables = {}
            for kind, name, parent, detail in self.by_id.values():
                table = self.by_id.get(parent) if kind == "index" else (kind, name)
                if table and table[0] in TABLES and "oid" in detail:
                    self._tables[detail["oid"]] = table[1]
        return self._tables

    @property
    def materialized_views(self) -> set[str]:
        """The names of materialized views."""
        return {name for kind, name, _, _ in self.by_id.values() if kind == "materialized view"}

    def count_indexes(self, table: str) -> int:
        """Return the number of indexes of a table."""
        return sum(
            kind == "index" and parent == table for kind, _, parent, _ in self.by_id.values()
        )

    def own_name(self, key: str) -> str:
        """Return the name of an object without that of the table that it is a part of."""
        kind, name, parent, _ = self.by_id[key]
        if kind == "index" or parent not in self.by_id:
            return str(name)
        return str(name[len(self.by_id[parent][1]) :])

    def root(self, key: str) -> str:
        """Return the id of the table that a partition or an inheriting table belongs to."""
        while (parent := f"pg_class {self.by_id[key][3].get('parent')}") in self.by_id:
            key = parent
        return key

    @property
    def invalid_indexes(self) -> set[str]:
        """The ids of indexes that are not valid."""
        return {key for key, found in self.by_id.items() if not found[3].get("valid", True)}


class _Revision:
    """The statements of one revision so far.

    Args:
        driver: Alembic's connection, of the driver.
        now: What the catalogs contain when it begins.
        before: The same, without what belongs to extensions.
        state: The state of the session before it.
    """

    def __init__(
        self, name: str, driver: Any, now: _Objects, before: _Objects, state: dict[str, Any]
    ) -> None:
        self.name = name
        self.file = ""
        self.started = time.monotonic()
        self._line: int | None = None
        self._driver = driver
        self._before = before
        self._now = now
        # Whether SQL may have ended the transaction that the driver has begun.
        self._has_ended = False
        # The locks of a statement outside of a transaction; None if they are not known.
        self._tried: list[list[Any]] | None = None
        # Sessions differ in their locks and in their counters.
        self._states: list[tuple[Any, dict[str, Any]]] = [(driver, state)]
        self._statements: list[dict[str, Any]] = []

    def begin_statement(self, driver: Any, sql: str, parameters: Any) -> None:
        """Note when a statement began, and the line of the revision file that sends it.

        If it will be outside of a transaction, its locks are read before.
        """
        self._line = _line_of(self.file)
        self._tried = None
        is_outside = getattr(driver, "autocommit", False) or self._has_ended
        if is_outside and TRIED.match(sql):
            # It may be refused in a transaction.
            with suppress(Exception):
                self._try(driver, sql, parameters)
        self.started = time.monotonic()

    def add(self, sql: str, facts: dict[str, Any], xid: str | None = None) -> None:
        """Add a statement; one that is repeated without an effect is added once."""
        seconds = max(0.0, time.monotonic() - self.started)
        last = self._statements[-1] if self._statements else {}
        if not any(facts.values()) and last.get("sql") == sql and last.get("xid") == xid:
            last["seconds"] += seconds
            return
        statement = {"sql": sql, "line": self._line, "seconds": seconds, "xid": xid}
        self._statements.append({**statement, "is_committed": False, **facts})

    def observe(self, driver: Any, sql: str, *, commits: bool) -> None:
        """Add a statement that was executed, with its effects."""
        ended = time.monotonic()
        facts, state = self._effects(driver, sql)
        self.started += time.monotonic() - ended
        self.add(sql, facts, state["xid"])
        self._has_ended = self._has_ended or commits
        if commits or self._tried is not None or getattr(driver, "autocommit", False):
            self._statements[-1]["is_committed"] = True

    def observe_rest(self) -> None:
        """Add what was done on Alembic's connection without SQLAlchemy since the last statement."""
        self._line, self._tried, self.started = None, None, time.monotonic()
        facts, state = self._effects(self._driver, "")
        if any(facts.values()):
            self.add("", facts, state["xid"])

    def left(self) -> tuple[Any, Any, _Objects]:
        """Return its connection, its number of changes of the catalogs, and what they contain."""
        (state,) = [one for own, one in self._states if own is self._driver]
        return self._driver, state["writes"], self._now

    def commit(self) -> None:
        """Note that SQLAlchemy commits the statements so far."""
        for statement in self._statements:
            statement["is_committed"] = True

    def reported(self) -> list[dict[str, Any]]:
        """Return the statements, as they are written."""
        names = self._now.names
        for statement in self._statements:
            statement.pop("xid")
            statement["seconds"] = round(statement["seconds"], 4)
            for removed in statement.get("removed", ()):
                removed["is_recreated"] = (removed["kind"], removed["name"]) in names
            for renamed in statement.get("renamed", ()):
                renamed["is_replaced"] = self._is_replaced(renamed, renamed.pop("id"), names)
        return self._statements

    def tables(self, statements: list[dict[str, Any]]) -> dict[str, list[str]]:
        """Return how the tables in statements are shown, and the tables that they belong to."""
        named = {lock["table"] for one in statements for lock in one.get("locks", ())}
        for statement in statements:
            named.update(*(statement.get(facts, ()) for facts in TABLE_FACTS))
            for changed in (*statement.get("removed", ()), *statement.get("renamed", ())):
                named.add(changed["table"] or changed["name"])
            named.update(column["table"] for column in statement.get("required_columns", ()))
        by_id = self._before.by_id
        return {
            found[1]: [found[3]["shown"], by_id[self._before.root(key)][1]]
            for key, found in by_id.items()
            if found[1] in named and "shown" in found[3]
        }

    def _is_replaced(self, renamed: dict[str, str], key: str, names: set[tuple[str, str]]) -> bool:
        """Whether the old name of an object can still be used at the end of the revision."""
        kind, name = renamed["kind"], renamed["name"]
        if kind != "table":
            return (kind, name) in names
        has_it_again = self._now.by_id.get(key, ("", ""))[1] == name
        return has_it_again or any((view, name) in names for view in VIEWS)

    def _try(self, driver: Any, sql: str, parameters: Any) -> None:
        """Read the locks of a statement in a transaction that is rolled back.

        Whole reads in that transaction are counted, so the counters are read afterwards.
        """
        known = self._state_of(driver)
        begun = _read(driver, STATE)
        if begun["transaction"] == known.get("transaction"):
            # A transaction that SQL has begun.
            return
        self._note_end(driver, known.get("xid"))
        cursor = driver.cursor()
        try:
            cursor.execute("BEGIN")
            try:
                cursor.execute(sql, parameters)
                self._tried = _read(driver, STATE)["locks"] or []
            finally:
                cursor.execute("ROLLBACK")
                self._keep_state(driver, _read(driver, STATE))
        finally:
            cursor.close()

    def _state_of(self, driver: Any) -> dict[str, Any]:
        return next((one for own, one in self._states if own is driver), {})

    def _keep_state(self, driver: Any, state: dict[str, Any]) -> None:
        self._states = [(own, one) for own, one in self._states if own is not driver]
        self._states.append((driver, state))

    def _effects(self, driver: Any, sql: str) -> tuple[dict[str, Any], dict[str, Any]]:
        last, state = self._state_of(driver), _read(driver, STATE)
        self._keep_state(driver, state)
        if last.get("transaction") != state["transaction"]:
            self._note_end(driver, last.get("xid"))
            last = {**last, "locks": None}
        scans = self._scans(last, state)
        locks = self._locks(last.get("locks"), state["locks"])
        if self._tried is not None:
            locks = self._locks(None, self._tried)
        elif getattr(driver, "autocommit", False) and REINDEX.search(sql):
            locks = [{"table": table, "mode": "SHARE"} for table in sorted(scans)]
        facts: dict[str, Any] = {"locks": locks, "read_whole": sorted(scans)}
        if last.get("writes") != state["writes"]:
            now = _Objects(_read(driver, OBJECTS))
            facts.update(self._changes(now))
            facts.update(self._rewrites(now, scans, is_clustering=bool(CLUSTER.search(sql))))
            self._now = now
        return facts, state

    def _note_end(self, driver: Any, xid: str | None) -> None:
        """Note whether the transaction of earlier statements was committed."""
        if not xid:
            return
        is_committed = _read(
            driver, f"SELECT pg_catalog.to_json(pg_catalog.txid_status({int(xid)}))::text"
        )
        for statement in self._statements:
            if statement["xid"] == xid and is_committed == "committed":
                statement["is_committed"] = True

    def _locks(
        self, held_before: list[list[Any]] | None, held_now: list[list[Any]] | None
    ) -> list[dict[str, str]]:
        tables = self._before.tables
        held, locks = (
            {
                (tables[oid], MODES[mode])
                for oid, mode in found or ()
                if oid in tables and mode in MODES and self._is_reported(tables[oid], mode)
            }
            for found in (held_before, held_now)
        )
        return [
            {"table": table, "mode": mode}
            for table, mode in sorted(locks - held, key=lambda lock: (-STRENGTHS[lock[1]], lock[0]))
        ]

    def _is_reported(self, table: str, mode: str) -> bool:
        # Only REFRESH writes to a materialized view, so that a weaker lock blocks nothing else.
        return mode == "AccessExclusiveLock" or table not in self._before.materialized_views

    def _scans(self, last: dict[str, Any], state: dict[str, Any]) -> dict[str, int]:
        """Return how often each table was read whole."""
        before, after = last.get("scans") or {}, state["scans"] or {}
        found = {}
        for oid, name in self._before.tables.items():
            earlier, now = (int(scans.get(str(oid), 0)) for scans in (before, after))
            # Counters begin again when the statistics were sent to the server.
            if times := now - earlier if now >= earlier else now:
                found[name] = times
        return found

    def _changes(self, now: _Objects) -> dict[str, Any]:
        before, after = self._now.by_id, now.by_id
        # What the revision itself has created is of no interest.
        old = [key for key in self._before.by_id if key in before]
        gone = [key for key in old if key not in after]
        return {
            "removed": [self._named(key) for key in gone if not self._is_part(key, now, gone)],
            "renamed": [
                {**self._named(key), "id": key, "new_name": self._new_name(key, now)}
                for key in old
                if key in after and self._now.own_name(key) != now.own_name(key)
            ],
            "invalid_indexes": sorted(
                after[key][1] for key in now.invalid_indexes - self._now.invalid_indexes
            ),
            "required_columns": [
                {"table": self._before.by_id[found[2]][1], "name": now.own_name(key)[1:]}
                for key, found in after.items()
                if key not in before and found[2] in self._before.by_id and "required" in found[3]
            ],
        }

    def _named(self, key: str) -> dict[str, str]:
        """Return the kind of an object, its name before the revision, and a column's table."""
        kind, name, parent, _ = self._before.by_id[key]
        table = self._before.by_id[parent][1] if kind == "column" else ""
        return {"kind": kind, "name": name, "table": table}

    def _new_name(self, key: str, now: _Objects) -> str:
        """Return the new name of an object; a column's is that with the old name of its table."""
        kind, name, parent, _ = now.by_id[key]
        table = self._before.by_id[parent][1] if kind == "column" else ""
        return f"{table}{now.own_name(key)}" if table else str(name)

    def _rewrites(
        self, now: _Objects, scans: dict[str, int], *, is_clustering: bool
    ) -> dict[str, list[str]]:
        """Return the tables with another file, and those that were read whole to fill it."""
        rewritten: set[str] = set()
        truncated: set[str] = set()
        for key in self._before.by_id:
            kind, _, _, old = self._now.by_id.get(key, ("", "", "", {}))
            name = self._before.by_id[key][1]
            new = now.by_id[key][3] if key in now.by_id else old
            if kind not in TABLES or new["file"] == old["file"]:
                continue
            # TRUNCATE reads the table only once for each of its indexes.
            is_filled = scans.get(name, 0) > now.count_indexes(key) or old["space"] != new["space"]
            is_rewritten = is_filled or is_clustering or kind != "table"
            (rewritten if is_rewritten else truncated).add(name)
        return {
            "rewritten": sorted(rewritten),
            "truncated": sorted(truncated),
            "read_whole": sorted(scans.keys() - truncated),
        }

    def _is_part(self, key: str, now: _Objects, gone: list[str]) -> bool:
        """Whether an object is gone with one that is reported, or was replaced by its like."""
        kind, name, parent, detail = self._now.by_id[key]
        constraint = f"pg_constraint {detail.get('constraint')}"
        is_replaced = kind not in WITH_CONTENT and (kind, name) in now.names
        return parent in gone or constraint in gone or is_replaced


def _line_of(file: str) -> int | None:
    """Return the line of a file that is executed; None if its code called none of this."""
    frame = sys._getframe()  # noqa: SLF001  # documented, and much faster than inspect.stack()
    while frame and frame.f_code.co_filename != file:
        frame = frame.f_back  # type: ignore[assignment]  # None above the first frame
    return frame.f_lineno if frame else None


def _read(driver: Any, query: str) -> Any:
    """Return the only value of a query's result, a JSON document; a row may be a dictionary."""
    cursor = driver.cursor()
    try:
        cursor.execute(query)
        row = cursor.fetchone()
    finally:
        cursor.close()
    value = next(iter(row.values() if hasattr(row, "values") else row))
    return None if value is None else json.loads(value)
