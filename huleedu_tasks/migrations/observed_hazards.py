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
_REPEATABLE = re.compile(r"\b(IF (NOT )?EXISTS|OR REPLACE)\b", re.IGNORECASE)
_RECREATES = r"\bCREATE\s+(OR\s+REPLACE\s+)?(RECURSIVE\s+|MATERIALIZED\s+)?{kind}\s+{name}\b"
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


@dataclass(kw_only=True)
class _Judgement:
    """The judgement of one revision.

    Attributes:
        held: The strong locks of the open transaction on tables in use, by table, each with the
            number of the statement that took it.
    """

    revision: ObservedRevision
    relations: Mapping[str, Relation]
    held: dict[str, tuple[str, int]] = field(default_factory=dict)

    def problems(self) -> Iterator[Problem]:
        statements = self.revision.statements
        several: Problem | None = None
        for number, statement in enumerate(statements):
            for lock in statement.locks:
                if lock.mode in BLOCKED and self._in_use(lock.table):
                    self.held.setdefault(lock.table, (lock.mode, number))
            locked = self._locked_exclusively()
            for problem in self._judge(number, statement):
                yield _placed(problem, statement)
            if several is None and len(locked) > 1 and _takes_new(statement, locked):
                several = _placed(self._several(locked), statement)
            if statement.is_committed:
                self.held.clear()
        if several:
            yield several
        if self.revision.failure:
            yield self._failure()

    def _judge(self, number: int, statement: ObservedStatement) -> Iterator[Problem]:
        judged: set[str] = set()
        for table in statement.rewritten:
            if relation := self._in_use(table):
                judged.add(table)
                yield _rewrite(statement, relation)
        dropped = {one.name for one in statement.removed if one.kind == "table"}
        for table in statement.read_whole:
            if (relation := self._in_use(table)) and table not in {*judged, *dropped}:
                yield from self._scan(number, statement, table, relation, judged)
        yield from self._removals(statement)
        for index in statement.invalid_indexes:
            yield rules.LEAVES_INVALID_INDEX.problem(f"leaves the index {index!r} invalid")
        if self._commits_early(number, statement):
            yield rules.COMMITS_EARLY.problem(
                "is committed before the end of the revision: if a later statement fails, the "
                "revision is partially applied, and this statement fails when it is repeated"
            )
        if not judged and not dropped:
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
        changes_rows = _first_word(statement.sql) in _CHANGES_ROWS
        if mode and (since == number or not changes_rows):
            judged.add(table)
            yield rules.SCANS_TABLE.problem(
                f"reads all rows of {described(relation)} under {mode}, which blocks "
                f"{BLOCKED[mode]} meanwhile{_if_filled(relation)}",
                level=_level(relation),
                steps=_steps(statement.sql, _SCANS),
            )
            return
        earlier = {held for held, (_, first) in self.held.items() if first < number}
        if earlier and (waiting := _strongest(self.held, earlier)):
            held, mode = waiting
            judged.add(table)
            yield rules.HOLDS_LOCK.problem(
                f"reads all rows of {described(relation)} while the transaction still holds {mode} "
                f"on {described(self.relations[held])}, which blocks {BLOCKED[mode]}"
                f"{_if_filled(relation)}",
                level=min(_level(relation), Level.WARNING, key=_severity),
            )

    def _removals(self, statement: ObservedStatement) -> Iterator[Problem]:
        tables = {one.name for one in statement.removed if one.kind == "table"}
        has_parent = bool(tables) or any(one.kind == "column" for one in statement.removed)
        for removed in statement.removed:
            if removed.kind == "table":
                yield from self._dropped_table(removed)
            elif removed.kind == "column":
                yield from self._dropped_column(removed, tables)
            elif removed.kind == "sequence" and has_parent:
                # It belongs to the table or the column.
                continue
            elif removed.kind in USED_BY_NAME and not self._is_recreated(removed):
                yield rules.DROPS_OBJECT.problem(f"drops the {removed.kind} {removed.name!r}")

    def _dropped_table(self, removed: RemovedObject) -> Iterator[Problem]:
        if relation := self.relations.get(removed.name):
            yield rules.DROPS_TABLE.problem(
                f"drops {described(relation)}",
                level=Level.WARNING if relation.is_empty else Level.ERROR,
            )

    def _dropped_column(self, removed: RemovedObject, tables: set[str]) -> Iterator[Problem]:
        table, _, column = removed.name.rpartition(".")
        relation = self.relations.get(table)
        if relation and table not in tables:
            yield rules.DROPS_COLUMN.problem(
                f"drops the column {column!r} of {described(relation)}",
                level=Level.WARNING if relation.is_empty else Level.ERROR,
            )

    def _is_recreated(self, removed: RemovedObject) -> bool:
        """Whether the revision creates an object of that kind and name."""
        name = re.escape(removed.name.rpartition(".")[2].partition("(")[0])
        kind = removed.kind.rpartition(" ")[2]
        creates = re.compile(
            _RECREATES.format(kind=kind, name=rf'(\S+\.)?"?{name}"?'), re.IGNORECASE
        )
        return any(creates.search(statement.sql) for statement in self.revision.statements)

    def _short_locks(self, statement: ObservedStatement) -> Iterator[Problem]:
        taken = [
            (lock.mode, relation)
            for lock in statement.locks
            if lock.mode in BLOCKED and (relation := self._in_use(lock.table))
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
    where, unless = described(relation), _if_filled(relation)
    first = _first_word(statement.sql)
    if first == "TRUNCATE":
        return rules.TRUNCATES_TABLE.problem(f"truncates {where}")
    verb = "rewrites"
    if first in ("CALL", "DO", "SELECT", "WITH"):
        verb = "rewrites or truncates"
    return rules.REWRITES_TABLE.problem(
        f"{verb} {where} under {ACCESS_EXCLUSIVE}, which blocks {BLOCKED[ACCESS_EXCLUSIVE]} "
        f"meanwhile{unless}",
        level=_level(relation),
        steps=_steps(statement.sql, _REWRITES),
    )


def _placed(problem: Problem, statement: ObservedStatement) -> Problem:
    return replace(problem, statement=without_comments(statement.sql), line=statement.line)


def _takes_new(statement: ObservedStatement, tables: list[str]) -> bool:
    return any(lock.table in tables and lock.mode == ACCESS_EXCLUSIVE for lock in statement.locks)


def _strongest(held: Mapping[str, tuple[str, int]], tables: set[str]) -> tuple[str, str] | None:
    """Return the table with the strongest lock, and its mode."""
    ranked = sorted(tables, key=lambda table: [*BLOCKED].index(held[table][0]))
    return (ranked[0], held[ranked[0]][0]) if ranked else None


def _steps(sql: str, recipes: tuple[tuple[str, tuple[str, ...]], ...]) -> tuple[str, ...]:
    """Return the recipe for a statement; empty for that of the rule."""
    for pattern, steps in recipes:
        if re.search(pattern, sql, re.IGNORECASE | re.DOTALL):
            return steps
    return ()


def _level(relation: Relation) -> Level:
    is_small = relation.size is not None and relation.size <= SMALL
    return Level.WARNING if is_small else Level.ERROR


def _severity(level: Level) -> int:
    return -[*Level].index(level)


def _if_filled(relation: Relation) -> str:
    return "" if relation.size is not None else ", if it has rows"


def _first_word(sql: str) -> str:
    found = _STARTS.match(without_comments(sql))
    return found[1].upper() if found else ""
