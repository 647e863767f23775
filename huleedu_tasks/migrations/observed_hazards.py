"""Judges what the statements of a revision did in a throwaway database.

Nothing is guessed from the text of a statement that PostgreSQL has answered: a `DO` block and a
function are judged like the statements in them. The text only chooses the words and the recipe.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from huleedu_tasks.migrations import hazard_rules as rules
from huleedu_tasks.migrations.hazards import described, without_comments
from huleedu_tasks.migrations.observed_statements import (
    ObservedRevision,
    ObservedStatement,
    RemovedObject,
    RenamedObject,
    TableLock,
)
from huleedu_tasks.postgres.inspection import Relation
from huleedu_tasks.report import Level, Problem

ACCESS_EXCLUSIVE = "ACCESS EXCLUSIVE"
# The modes that block others, each with what it blocks; strongest first.
BLOCKED = {
    ACCESS_EXCLUSIVE: "reads and writes",
    "EXCLUSIVE": "writes",
    "SHARE ROW EXCLUSIVE": "writes",
    "SHARE": "writes",
}
# PostgreSQL reads or rewrites a table of this size in milliseconds.
SMALL = 1024**2
# What code may use by its name. A constraint, an index or a trigger that is dropped breaks nothing.
USED_BY_NAME = frozenset(
    {
        "aggregate",
        "domain",
        "extension",
        "foreign table",
        "function",
        "materialized view",
        "procedure",
        "schema",
        "sequence",
        "type",
        "view",
    }
)
_STARTS = re.compile(r"\s*(\w+)")
_CHANGES_ROWS = ("DELETE", "INSERT", "MERGE", "SELECT", "UPDATE", "WITH")
# They have no effect on data, or only on the session.
_HARMLESS = ("BEGIN", "COMMIT", "RESET", "SELECT", "SET", "SHOW", "START")
_READS_BODIES = ("CALL", "DO", "SELECT")
_WRITES = "ROW EXCLUSIVE"
_REPEATABLE = re.compile(r"\b(IF (NOT )?EXISTS|OR REPLACE)\b", re.IGNORECASE)
_CREATES_VIEW = r"\bCREATE\s+(OR\s+REPLACE\s+)?(TEMP\w*\s+)?VIEW\s+"
_SCANS = (
    (r"\bVALIDATE\s+CONSTRAINT\b", rules.VALIDATE_STEPS),
    (r"\bREINDEX\b", rules.REINDEX_STEPS),
    (r"\bCREATE\s+(UNIQUE\s+)?INDEX\b", rules.INDEX_STEPS),
    (r"\bATTACH\s+PARTITION\b", rules.PARTITION_STEPS),
    (r"\bSET\s+NOT\s+NULL\b", rules.NOT_NULL_STEPS),
    (r"\bEXCLUDE\b", rules.EXCLUDE_STEPS),
    (r"\b(UNIQUE|PRIMARY\s+KEY)\b", rules.UNIQUE_STEPS),
    (r"\b(CHECK|FOREIGN\s+KEY|REFERENCES)\b", rules.CONSTRAINT_STEPS),
)
_REWRITES = (
    (r"\bREFRESH\s+MATERIALIZED\b", rules.REFRESH_STEPS),
    (r"\b(CLUSTER|VACUUM)\b", rules.REORDER_STEPS),
    (r"\bSET\s+(UN)?LOGGED\b", rules.LOGGED_STEPS),
    (r"\bGENERATED\b|\b(BIG|SMALL)?SERIAL\b", rules.GENERATED_STEPS),
    (r"\bADD\s+(?!CONSTRAINT).*\bDEFAULT\b", rules.DEFAULT_STEPS),
)


def find_observed_hazards(
    revision: ObservedRevision, relations: Mapping[str, Relation]
) -> tuple[Problem, ...]:
    """Return the hazards of a revision that ran; empty if there are none.

    Args:
        relations: The relations of the database to be migrated, by `schema.name` and by `name`. A
            table that is not among them is created by an earlier one of the same revisions, so it
            is not in use yet.
    """
    found = [*_Judgement(revision=revision, relations=relations).problems()]
    return tuple(dict.fromkeys(found))


def relations_after(
    revision: ObservedRevision, relations: Mapping[str, Relation]
) -> dict[str, Relation]:
    """Return the relations with the names that they have after a revision."""
    names = dict(relations)
    for statement in revision.statements:
        for renamed in statement.renamed:
            if renamed.name in names:
                names[renamed.new_name] = names.pop(renamed.name)
        for removed in statement.removed:
            names.pop(removed.name, None)
    return names


@dataclass(kw_only=True)
class _Judgement:
    """The judgement of one revision.

    Attributes:
        held: The strong locks of the open transaction on tables in use, by table, each with the
            number of the statement that took it.
        written: The tables in use to which the open transaction may have written.
    """

    revision: ObservedRevision
    relations: Mapping[str, Relation]
    held: dict[str, tuple[str, int]] = field(default_factory=dict)
    written: set[str] = field(default_factory=set)

    def problems(self) -> Iterator[Problem]:
        statements = self.revision.statements
        several: Problem | None = None
        for number, statement in enumerate(statements):
            for lock in statement.locks:
                if _blocks(lock, statement) and self._in_use(lock.table):
                    self.held.setdefault(lock.table, (lock.mode, number))
                elif lock.mode == _WRITES and self._in_use(lock.table):
                    self.written.add(lock.table)
            locked = self._locked_exclusively()
            for problem in self._judge(number, statement):
                yield _placed(problem, statement)
            if several is None and len(locked) > 1 and _takes_new(statement, locked):
                several = _placed(self._several(locked), statement)
            if statement.is_committed:
                self.held.clear()
                self.written.clear()
        if several:
            yield several
        if self.revision.failure:
            yield self._failure()

    def _judge(self, number: int, statement: ObservedStatement) -> Iterator[Problem]:
        judged: set[str] = set()
        for table in statement.truncated:
            if relation := self._in_use(table):
                judged.add(table)
                yield rules.TRUNCATES_TABLE.problem(f"truncates {described(relation)}")
        for table in statement.rewritten:
            if relation := self._in_use(table):
                judged.add(table)
                yield _rewrite(statement, relation)
        dropped = {one.name for one in statement.removed if one.kind == "table"}
        for table in statement.read_whole:
            if (relation := self._in_use(table)) and table not in {*judged, *dropped}:
                yield from self._scan(number, statement, table, relation, judged)
        yield from self._removals(statement)
        yield from self._renames(statement)
        for index in statement.invalid_indexes:
            yield rules.LEAVES_INVALID_INDEX.problem(f"leaves the index {index!r} invalid")
        if self._commits_early(number, statement):
            yield rules.COMMITS_EARLY.problem(
                "is committed before the end of the revision: if a later statement fails, the "
                "revision is partially applied, and this statement fails when it is repeated"
            )
        if not judged and not dropped and not statement.removed and not statement.renamed:
            yield from self._short_locks(statement)

    def _scan(
        self,
        number: int,
        statement: ObservedStatement,
        table: str,
        relation: Relation,
        judged: set[str],
    ) -> Iterator[Problem]:
        mode, since = self.held.get(table, ("", number))
        where, first = described(relation), _first_word(statement.sql)
        if mode and (since == number or first not in _CHANGES_ROWS):
            judged.add(table)
            yield rules.SCANS_TABLE.problem(
                f"reads all rows of {where} under {mode}, which blocks {BLOCKED[mode]} meanwhile",
                level=_level(relation),
                steps=_steps(statement.sql, _SCANS),
            )
            return
        if self._may_change(statement, table):
            judged.add(table)
            yield rules.UPDATES_ALL_ROWS.problem(
                f"reads all rows of {where} to change some or all of them, which stay locked until "
                "the end of the transaction",
            )
        if holding := self._strongest_before(number):
            judged.add(table)
            held, mode = holding
            yield rules.HOLDS_LOCK.problem(
                f"reads all rows of {where} while the transaction still holds {mode} on "
                f"{described(self.relations[held])}, which blocks {BLOCKED[mode]}"
            )

    def _may_change(self, statement: ObservedStatement, table: str) -> bool:
        """Whether a statement that reads a table whole may change its rows as well."""
        first = _first_word(statement.sql)
        if first in _READS_BODIES:
            own = {lock.table for lock in statement.locks if lock.mode == _WRITES}
            return table in own
        return first in _CHANGES_ROWS and first != "INSERT" and table in self.written

    def _strongest_before(self, number: int) -> tuple[str, str] | None:
        """Return the strongest lock of earlier statements: its table and mode; None without one."""
        earlier = [(table, mode) for table, (mode, first) in self.held.items() if first < number]
        return min(earlier, key=lambda one: [*BLOCKED].index(one[1]), default=None)

    def _removals(self, statement: ObservedStatement) -> Iterator[Problem]:
        has_parent = any(one.kind in ("table", "column") for one in statement.removed)
        for removed in statement.removed:
            if removed.kind == "table":
                yield from self._dropped_table(removed)
            elif removed.kind == "column":
                yield from self._dropped_column(removed)
            elif removed.kind == "sequence" and has_parent:
                # It belongs to the table or the column.
                continue
            elif removed.kind in USED_BY_NAME and not removed.is_recreated:
                yield rules.DROPS_OBJECT.problem(f"drops the {removed.kind} {removed.name!r}")

    def _dropped_table(self, removed: RemovedObject) -> Iterator[Problem]:
        if relation := self.relations.get(removed.name):
            yield rules.DROPS_TABLE.problem(
                f"drops {described(relation)}",
                level=Level.WARNING if relation.is_empty else Level.ERROR,
            )

    def _dropped_column(self, removed: RemovedObject) -> Iterator[Problem]:
        table, column = self._split_column(removed.name)
        if relation := self.relations.get(table):
            yield rules.DROPS_COLUMN.problem(
                f"drops the column {column!r} of {described(relation)}",
                level=Level.WARNING if relation.is_empty else Level.ERROR,
            )

    def _renames(self, statement: ObservedStatement) -> Iterator[Problem]:
        for renamed in statement.renamed:
            if renamed.kind == "table":
                yield from self._renamed_table(renamed)
            elif renamed.kind == "column":
                table, column = self._split_column(renamed.name)
                if relation := self.relations.get(table):
                    new = self._split_column(renamed.new_name)[1]
                    yield rules.RENAMES_COLUMN.problem(
                        f"renames {column!r} of {described(relation)} to {new!r}"
                    )
            elif renamed.kind in USED_BY_NAME:
                yield rules.RENAMES_OBJECT.problem(
                    f"renames the {renamed.kind} {renamed.name!r} to {renamed.new_name!r}"
                )

    def _renamed_table(self, renamed: RenamedObject) -> Iterator[Problem]:
        relation = self.relations.get(renamed.name)
        if relation is None or self._has_view_of(renamed.name):
            return
        if renamed.name.rpartition(".")[2] == renamed.new_name.rpartition(".")[2]:
            yield rules.MOVES_TABLE.problem(f"moves {described(relation)} to {renamed.new_name!r}")
        else:
            yield rules.RENAMES_TABLE.problem(
                f"renames {described(relation)} to {renamed.new_name.rpartition('.')[2]!r}"
            )

    def _has_view_of(self, table: str) -> bool:
        """Whether the revision creates a view with the old name of a table."""
        name = re.escape(table.rpartition(".")[2])
        creates = re.compile(rf'{_CREATES_VIEW}(\S+\.)?"?{name}"?[\s(]', re.IGNORECASE)
        return any(creates.search(statement.sql) for statement in self.revision.statements)

    def _split_column(self, name: str) -> tuple[str, str]:
        """Return the table and the column, both of which may contain dots."""
        parts = name.split(".")
        places = [(".".join(parts[:n]), ".".join(parts[n:])) for n in range(2, len(parts))]
        known = (place for place in places if place[0] in self.relations)
        return next(known, (name.rpartition(".")[0], name.rpartition(".")[2]))

    def _short_locks(self, statement: ObservedStatement) -> Iterator[Problem]:
        taken = [
            (lock.mode, relation)
            for lock in statement.locks
            if _blocks(lock, statement) and (relation := self._in_use(lock.table))
        ]
        tables = dict.fromkeys(relation for _, relation in taken)
        if tables:
            mode, _ = min(taken, key=lambda one: [*BLOCKED].index(one[0]))
            yield rules.TAKES_STRONG_LOCK.problem(
                f"takes {mode} on {', '.join(map(described, tables))}, which blocks "
                f"{BLOCKED[mode]} until the end of the transaction"
            )

    def _commits_early(self, number: int, statement: ObservedStatement) -> bool:
        """Whether a failure behind a statement would leave it committed, and not repeatable."""
        later = self.revision.statements[number + 1 :]
        return (
            statement.is_committed
            and _first_word(statement.sql) not in _HARMLESS
            and not _REPEATABLE.search(statement.sql)
            and any(_first_word(one.sql) not in _HARMLESS for one in later)
        )

    def _locked_exclusively(self) -> list[str]:
        return [table for table, (mode, _) in self.held.items() if mode == ACCESS_EXCLUSIVE]

    def _several(self, tables: list[str]) -> Problem:
        names = ", ".join(described(self.relations[table]) for table in tables)
        return rules.LOCKS_SEVERAL_TABLES.problem(
            f"the transaction holds {ACCESS_EXCLUSIVE} on {names}: while it waits for one of them, "
            "the others stay blocked, and a session that uses them in another order deadlocks"
        )

    def _failure(self) -> Problem:
        last = self.revision.statements[-1] if self.revision.statements else None
        problem = rules.UPGRADE_FAILED.problem(
            f"the upgrade of {self.revision.revision} failed: {self.revision.failure}"
        )
        return _placed(problem, last) if last else problem

    def _in_use(self, table: str) -> Relation | None:
        """Return a table that may have rows; None if it is new or known to be empty."""
        relation = self.relations.get(table)
        return None if relation is None or relation.is_empty else relation


def _rewrite(statement: ObservedStatement, relation: Relation) -> Problem:
    where = described(relation)
    return rules.REWRITES_TABLE.problem(
        f"rewrites {where} under {ACCESS_EXCLUSIVE}, which blocks {BLOCKED[ACCESS_EXCLUSIVE]} "
        "meanwhile",
        level=_level(relation),
        steps=_steps(statement.sql, _REWRITES),
    )


def _placed(problem: Problem, statement: ObservedStatement) -> Problem:
    return replace(problem, statement=without_comments(statement.sql), line=statement.line)


def _blocks(lock: TableLock, statement: ObservedStatement) -> bool:
    # Only REFRESH writes to a materialized view, so that EXCLUSIVE blocks nothing else.
    is_refresh = lock.mode == "EXCLUSIVE" and _first_word(statement.sql) == "REFRESH"
    return lock.mode in BLOCKED and not is_refresh


def _takes_new(statement: ObservedStatement, tables: list[str]) -> bool:
    return any(lock.table in tables and lock.mode == ACCESS_EXCLUSIVE for lock in statement.locks)


def _steps(sql: str, recipes: tuple[tuple[str, tuple[str, ...]], ...]) -> tuple[str, ...]:
    """Return the recipe for a statement; empty for that of the rule."""
    for pattern, steps in recipes:
        if re.search(pattern, sql, re.IGNORECASE | re.DOTALL):
            return steps
    return ()


def _level(relation: Relation) -> Level:
    is_small = relation.size is not None and relation.size <= SMALL
    return Level.WARNING if is_small else Level.ERROR


def _first_word(sql: str) -> str:
    found = _STARTS.match(without_comments(sql))
    return found[1].upper() if found else ""
