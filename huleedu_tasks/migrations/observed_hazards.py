"""Judges what the statements of a revision did in a throwaway database.

Nothing is guessed from the text of a statement that PostgreSQL has answered: a `DO` block and a
function are judged like the statements in them. The text only chooses the words and the recipe.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from huleedu_tasks.migrations import hazard_rules as rules
from huleedu_tasks.migrations.hazards import described, without_comments
from huleedu_tasks.migrations.observed_statements import (
    ObservedRevision,
    ObservedStatement,
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


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldLock:
    """A strong lock that a transaction holds on a table in use.

    Attributes:
        revision: The revision that took it.
        statement: The number of the statement that took it, among those of its revision.
    """

    mode: str
    revision: str
    statement: int


def find_observed_hazards(
    revision: ObservedRevision,
    relations: Mapping[str, Relation],
    held: Mapping[str, HeldLock] = MappingProxyType({}),
) -> tuple[Problem, ...]:
    """Return the hazards of a revision that ran; empty if there are none.

    Args:
        relations: The relations of the database to be migrated, by `schema.name` and by `name`. A
            table that is not among them is created by an earlier one of the same revisions, so it
            is not in use yet.
        held: The locks that its transaction holds already, by table.
    """
    found = [*_Judgement(revision=revision, relations=relations, held=dict(held)).problems()]
    return tuple(dict.fromkeys(found))


def held_after(
    revision: ObservedRevision,
    relations: Mapping[str, Relation],
    held: Mapping[str, HeldLock],
) -> dict[str, HeldLock]:
    """Return the locks that a transaction holds after a revision, by the new names of the tables.

    Args:
        relations: As for `find_observed_hazards`.
        held: The locks that it held before.
    """
    judgement = _Judgement(revision=revision, relations=relations, held=dict(held))
    for number, statement in enumerate(revision.statements):
        judgement.begin(number, statement)
        judgement.end(statement)
    left = relations_after(revision, relations)
    renamed = {
        one.name: one.new_name for statement in revision.statements for one in statement.renamed
    }
    named = {renamed.get(table, table): lock for table, lock in judgement.held.items()}
    return {table: lock for table, lock in named.items() if table in left}


def relations_after(
    revision: ObservedRevision, relations: Mapping[str, Relation]
) -> dict[str, Relation]:
    """Return the relations with the names that they have after a revision."""
    left = dict(relations)
    new_names: dict[str, str] = {}
    for statement in revision.statements:
        new_names |= {one.name: one.new_name for one in statement.renamed}
        for removed in statement.removed:
            _pop(left, removed.name)
    # All at once, because two tables may have exchanged their names.
    renamed = {name: _pop(left, name) for name in new_names}
    for name, relation in renamed.items():
        if relation:
            new = _renamed(relation, name, new_names[name])
            left |= {new.shown: new, new_names[name]: new}
    return left


def _pop(relations: dict[str, Relation], name: str) -> Relation | None:
    """Remove a relation under both of its names, and return it; None if it is not there."""
    relation = relations.pop(name, None)
    if relation:
        relations.pop(relation.shown, None)
    return relation


def _renamed(relation: Relation, name: str, new_name: str) -> Relation:
    """Return a relation with a new name.

    Args:
        name: Its name with its schema.
        new_name: The same for its new name.
    """
    schema = name.removesuffix(f".{relation.name}")
    if new_name.startswith(f"{schema}."):
        return replace(relation, name=new_name.removeprefix(f"{schema}."))
    new_schema, _, own = new_name.partition(".")
    return replace(relation, name=own, schema=new_schema)


@dataclass(kw_only=True)
class _Judgement:
    """The judgement of one revision.

    Attributes:
        held: The strong locks of the open transaction on tables in use, by table.
        written: The tables in use to which the open transaction may have written.
    """

    revision: ObservedRevision
    relations: Mapping[str, Relation]
    held: dict[str, HeldLock] = field(default_factory=dict)
    written: set[str] = field(default_factory=set)

    def problems(self) -> Iterator[Problem]:
        statements = self.revision.statements
        several: Problem | None = None
        for number, statement in enumerate(statements):
            self.begin(number, statement)
            locked = self._locked_exclusively()
            for problem in self._judge(number, statement):
                yield _placed(problem, statement)
            families = [*self._families(locked)]
            if several is None and len(families) > 1 and _takes_new(statement, locked):
                several = _placed(self._several(families), statement)
            self.end(statement)
        if several:
            yield several
        if self.revision.failure:
            yield self._failure()

    def begin(self, number: int, statement: ObservedStatement) -> None:
        """Note the locks that a statement took."""
        for lock in statement.locks:
            if _blocks(lock) and self._in_use(lock.table):
                self._hold(lock, number)
            elif lock.mode == _WRITES and self._in_use(lock.table):
                self.written.add(lock.table)

    def end(self, statement: ObservedStatement) -> None:
        """Forget the locks that a commit has released."""
        if statement.is_committed:
            self.held.clear()
            self.written.clear()

    def _judge(self, number: int, statement: ObservedStatement) -> Iterator[Problem]:
        found = [
            *self._truncations(statement),
            *self._rewrites(statement),
            *self._scans(number, statement),
            *self._removals(statement),
            *self._renames(statement),
            *self._required_columns(statement),
        ]
        yield from found or self._short_locks(statement)
        for index in statement.invalid_indexes:
            yield rules.LEAVES_INVALID_INDEX.problem(f"leaves the index {index!r} invalid")
        if self._commits_early(number, statement):
            yield rules.COMMITS_EARLY.problem(
                "is committed before the end of the revision: if a later statement fails, the "
                "revision is partially applied, and this statement fails when it is repeated"
            )

    def _truncations(self, statement: ObservedStatement) -> Iterator[Problem]:
        for family in self._families(statement.truncated):
            yield rules.TRUNCATES_TABLE.problem(f"truncates {self._described(family)}")

    def _rewrites(self, statement: ObservedStatement) -> Iterator[Problem]:
        for family in self._families(statement.rewritten):
            yield rules.REWRITES_TABLE.problem(
                f"rewrites {self._described(family)} under {ACCESS_EXCLUSIVE}, which blocks "
                f"{BLOCKED[ACCESS_EXCLUSIVE]} meanwhile",
                level=self._level(family),
                steps=_steps(statement.sql, _REWRITES),
            )

    def _scans(self, number: int, statement: ObservedStatement) -> Iterator[Problem]:
        changed, others = [], []
        under: dict[tuple[str, str], list[str]] = {}
        for table in self._read_whole(statement):
            lock = self.held.get(table)
            is_own = lock is not None and self._took(lock, number)
            if lock and (is_own or _first_word(statement.sql) not in _CHANGES_ROWS):
                under.setdefault((lock.mode, self._named(lock)), []).append(table)
                continue
            others.append(table)
            if self._may_change(statement, table):
                changed.append(table)
        for (mode, named), tables in under.items():
            for family in self._families(tables):
                yield rules.SCANS_TABLE.problem(
                    f"reads all rows of {self._described(family)} under {named}, which blocks "
                    f"{BLOCKED[mode]} meanwhile",
                    level=self._level(family),
                    steps=_steps(statement.sql, _SCANS),
                )
        for family in self._families(changed):
            yield rules.UPDATES_ALL_ROWS.problem(
                f"reads all rows of {self._described(family)} to change or delete some or all of "
                "them, which stay locked until the end of the transaction",
            )
        if holding := self._strongest_before(number):
            held, lock = holding
            for family in self._families(others):
                yield rules.HOLDS_LOCK.problem(
                    f"reads all rows of {self._described(family)} while the transaction still "
                    f"holds {self._named(lock)} on {described(self.relations[held])}, which blocks "
                    f"{BLOCKED[lock.mode]}"
                )

    def _read_whole(self, statement: ObservedStatement) -> Iterator[str]:
        """Yield the tables that were read, and neither rewritten nor dropped."""
        dropped = {one.name for one in statement.removed if one.kind == "table"}
        judged = {*dropped, *statement.rewritten, *statement.truncated}
        yield from (table for table in statement.read_whole if table not in judged)

    def _may_change(self, statement: ObservedStatement, table: str) -> bool:
        """Whether a statement that reads a table whole may change its rows as well."""
        first = _first_word(statement.sql)
        if first in _READS_BODIES:
            own = {lock.table for lock in statement.locks if lock.mode == _WRITES}
            return table in own
        return first in _CHANGES_ROWS and first != "INSERT" and table in self.written

    def _hold(self, lock: TableLock, number: int) -> None:
        """Note a lock, unless one on the same table that is as strong is held."""
        known = self.held.get(lock.table)
        if known is None or _place(lock.mode) < _place(known.mode):
            taken = HeldLock(mode=lock.mode, revision=self.revision.revision, statement=number)
            self.held[lock.table] = taken

    def _took(self, lock: HeldLock, number: int) -> bool:
        """Whether a statement of this revision took a lock."""
        return (lock.revision, lock.statement) == (self.revision.revision, number)

    def _named(self, lock: HeldLock) -> str:
        """Return a lock for messages, with the revision that took it if that is another one."""
        is_own = lock.revision == self.revision.revision
        return lock.mode if is_own else f"the {lock.mode} of {lock.revision}"

    def _strongest_before(self, number: int) -> tuple[str, HeldLock] | None:
        """Return the table with the strongest lock of earlier statements; None without one."""
        earlier = [one for one in self.held.items() if not self._took(one[1], number)]
        return min(earlier, key=lambda one: _place(one[1].mode), default=None)

    def _removals(self, statement: ObservedStatement) -> Iterator[Problem]:
        dropped = [one.name for one in statement.removed if one.kind == "table"]
        for family in self._families(dropped, is_empty_too=True):
            yield rules.DROPS_TABLE.problem(
                f"drops {self._described(family)}", level=self._level_of_loss(family)
            )
        columns: dict[str, list[str]] = {}
        for removed in statement.removed:
            if removed.kind == "column":
                columns.setdefault(_column(removed.name, removed.table), []).append(removed.table)
            elif removed.kind == "sequence" and (dropped or columns):
                # It belongs to the table or the column.
                continue
            elif removed.kind in USED_BY_NAME and not removed.is_recreated:
                yield rules.DROPS_OBJECT.problem(f"drops the {removed.kind} {removed.name!r}")
        for column, tables in columns.items():
            for family in self._families(tables, is_empty_too=True):
                yield rules.DROPS_COLUMN.problem(
                    f"drops the column {column!r} of {self._described(family)}",
                    level=self._level_of_loss(family),
                )

    def _renames(self, statement: ObservedStatement) -> Iterator[Problem]:
        columns: dict[tuple[str, str], list[str]] = {}
        for renamed in statement.renamed:
            if renamed.is_replaced:
                continue
            if renamed.kind == "table":
                yield from self._renamed_table(renamed)
            elif renamed.kind == "column":
                names = (renamed.name, renamed.new_name)
                old, new = (_column(name, renamed.table) for name in names)
                columns.setdefault((old, new), []).append(renamed.table)
            elif renamed.kind in USED_BY_NAME:
                yield rules.RENAMES_OBJECT.problem(
                    f"renames the {renamed.kind} {renamed.name!r} to {renamed.new_name!r}"
                )
        for (old, new), tables in columns.items():
            for family in self._families(tables, is_empty_too=True):
                yield rules.RENAMES_COLUMN.problem(
                    f"renames {old!r} of {self._described(family)} to {new!r}"
                )

    def _renamed_table(self, renamed: RenamedObject) -> Iterator[Problem]:
        relation = self.relations.get(renamed.name)
        if relation is None:
            return
        new = _renamed(relation, renamed.name, renamed.new_name)
        if new.name == relation.name:
            yield rules.MOVES_TABLE.problem(f"moves {described(relation)} to {renamed.new_name!r}")
        else:
            yield rules.RENAMES_TABLE.problem(f"renames {described(relation)} to {new.shown!r}")

    def _required_columns(self, statement: ObservedStatement) -> Iterator[Problem]:
        columns: dict[str, list[str]] = {}
        for column in statement.required_columns:
            columns.setdefault(column.name, []).append(column.table)
        for name, tables in columns.items():
            for family in self._families(tables):
                yield rules.ADDS_REQUIRED_COLUMN.problem(
                    f"adds {name!r} NOT NULL without a default to {self._described(family)}, "
                    "which fails if the table has rows"
                )

    def _short_locks(self, statement: ObservedStatement) -> Iterator[Problem]:
        taken = {lock.table: lock.mode for lock in reversed(statement.locks) if _blocks(lock)}
        if families := [*self._families(taken)]:
            modes = [taken[table] for family in families for table in family]
            mode = min(modes, key=[*BLOCKED].index)
            yield rules.TAKES_STRONG_LOCK.problem(
                f"takes {mode} on {', '.join(map(self._described, families))}, which blocks "
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
        return [table for table, lock in self.held.items() if lock.mode == ACCESS_EXCLUSIVE]

    def _several(self, families: list[list[str]]) -> Problem:
        names = ", ".join(map(self._described, families))
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

    def _families(
        self, tables: Iterable[str], *, is_empty_too: bool = False
    ) -> Iterator[list[str]]:
        """Yield the tables that are in use, those of one hierarchy together.

        A partitioned table and its partitions, or a table and those that inherit from it, are one
        table to a reader, and a statement acts on all of them.

        Args:
            is_empty_too: Whether to yield tables that are known to be empty.
        """
        families: dict[str, list[str]] = {}
        for table in tables:
            if self.relations.get(table) if is_empty_too else self._in_use(table):
                families.setdefault(self._root(table), []).append(table)
        yield from families.values()

    def _root(self, table: str) -> str:
        known = self.revision.tables.get(table)
        return known.root if known else table

    def _described(self, family: list[str]) -> str:
        """Return the names and sizes of the tables of a hierarchy, for messages."""
        root = self._root(family[0])
        if len(family) == 1 or root not in self.relations:
            return ", ".join(described(self.relations[table]) for table in family)
        others = sum(table != root for table in family)
        whole = described(self.relations[root])
        if root not in family:
            return f"{others} child tables of {whole}"
        return f"{whole} and its {'child table' if others == 1 else f'{others} child tables'}"

    def _level(self, family: list[str]) -> Level:
        # The size of a partitioned table is that of all its partitions.
        sized = [self.relations.get(table) for table in (*family, self._root(family[0]))]
        levels = [_level(relation) for relation in sized if relation]
        return Level.ERROR if Level.ERROR in levels else Level.WARNING

    def _level_of_loss(self, family: list[str]) -> Level:
        is_empty = all(self.relations[table].is_empty for table in family)
        return Level.WARNING if is_empty else Level.ERROR


def _placed(problem: Problem, statement: ObservedStatement) -> Problem:
    return replace(problem, statement=without_comments(statement.sql), line=statement.line)


def _place(mode: str) -> int:
    """Return the place of a mode among those that block others: 0 for the strongest."""
    return [*BLOCKED].index(mode)


def _blocks(lock: TableLock) -> bool:
    return lock.mode in BLOCKED


def _column(name: str, table: str) -> str:
    """Return the own name of a column, which has its table before it."""
    return name.removeprefix(f"{table}.")


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
