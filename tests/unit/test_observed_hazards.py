"""Judgements of what the statements of a revision did."""

from dataclasses import replace

import pytest

from huleedu_tasks.migrations.hazard_rules import RULES
from huleedu_tasks.migrations.observed_hazards import (
    SMALL,
    find_observed_hazards,
    held_after,
    relations_after,
)
from huleedu_tasks.migrations.observed_statements import (
    ObservedRevision,
    ObservedStatement,
    ObservedTable,
    RemovedObject,
    RenamedObject,
    TableLock,
)
from huleedu_tasks.postgres.inspection import Relation
from huleedu_tasks.report import Level, Problem

NOTE, MEMO = "public.note", "public.memo"
EXCLUSIVE = (TableLock(table=NOTE, mode="ACCESS EXCLUSIVE"),)
SHARE = (TableLock(table=NOTE, mode="SHARE"),)
SHARED = (TableLock(table=NOTE, mode="SHARE UPDATE EXCLUSIVE"),)
UNKNOWN = {
    NOTE: Relation(name="note", rows=None, size=None),
    MEMO: Relation(name="memo", rows=None, size=None),
}
EMPTY = {NOTE: Relation(name="note", rows=0, size=0)}
LITTLE = {NOTE: Relation(name="note", rows=9, size=SMALL)}
LARGE = {NOTE: Relation(name="note", rows=10**7, size=2 * 1024**3)}
REWRITE = ObservedStatement(
    sql="ALTER TABLE note ALTER id TYPE bigint", locks=EXCLUSIVE, rewritten=(NOTE,)
)
ADD = ObservedStatement(sql="ALTER TABLE note ADD body text", locks=EXCLUSIVE)
UPDATE = ObservedStatement(
    sql="UPDATE note SET body = ''",
    locks=(TableLock(table=NOTE, mode="ROW EXCLUSIVE"),),
    read_whole=(NOTE,),
)
INDEX = ObservedStatement(
    sql="CREATE INDEX by_body ON note (body)", locks=SHARE, read_whole=(NOTE,)
)


def judge(
    *statements: ObservedStatement, relations: dict[str, Relation] = UNKNOWN, failure: str = ""
) -> tuple[Problem, ...]:
    revision = ObservedRevision(revision="b2", statements=statements, failure=failure)
    return find_observed_hazards(revision, relations)


def found(*statements: ObservedStatement, relations: dict[str, Relation] = UNKNOWN) -> list[str]:
    return [
        problem.code
        for problem in judge(*statements, relations=relations)
        if problem.level is not Level.INFO
    ]


def renaming(sql: str, kind: str, name: str, new_name: str) -> ObservedStatement:
    table = NOTE if kind == "column" else ""
    renamed = RenamedObject(kind=kind, name=name, new_name=new_name, table=table)
    return ObservedStatement(sql=sql, locks=EXCLUSIVE, renamed=(renamed,))


def removal(sql: str, kind: str, name: str) -> ObservedStatement:
    removed = RemovedObject(kind=kind, name=name, table=NOTE if kind == "column" else "")
    return ObservedStatement(sql=sql, locks=EXCLUSIVE, removed=(removed,))


@pytest.mark.parametrize(
    ("relations", "levels"),
    [
        (UNKNOWN, [Level.ERROR]),
        (LARGE, [Level.ERROR]),
        (LITTLE, [Level.WARNING]),
        (EMPTY, []),
        ({}, []),
    ],
    ids=["unknown", "large", "small", "empty", "new"],
)
def test_a_rewrite_is_judged_by_the_size_of_the_table(
    relations: dict[str, Relation], levels: list[Level]
) -> None:
    assert [problem.level for problem in judge(REWRITE, relations=relations)] == levels


def test_a_finding_names_the_table_its_size_the_lock_and_the_recipe() -> None:
    (problem,) = judge(REWRITE, relations=LARGE)
    assert problem.cause == (
        "rewrites 'note' (about 10000000 rows, 2 GB) under ACCESS EXCLUSIVE, which blocks reads "
        "and writes meanwhile"
    )
    assert problem.advice.splitlines()[:2] == [
        "A safer approach is to:",
        "1. Add a new column of the new form, without a default that is computed for each row.",
    ]
    assert problem.statement == REWRITE.sql


def test_a_table_of_unknown_size_is_said_to_be_one() -> None:
    (problem,) = judge(REWRITE)
    assert problem.cause.startswith("rewrites 'note' (of unknown size) under")


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        (INDEX, ["scans-table-under-lock"]),
        (ObservedStatement(sql=INDEX.sql, locks=SHARED, read_whole=(NOTE,)), []),
        (ADD, []),
        (UPDATE, ["updates-all-rows"]),
        (ObservedStatement(sql="DO $$ $$", locks=UPDATE.locks), []),
        (renaming("ALTER", "table", NOTE, "public.n"), ["renames-table"]),
        (renaming("ALTER", "table", NOTE, "old.note"), ["moves-table"]),
        (renaming("ALTER", "column", f"{NOTE}.a.b", f"{NOTE}.c"), ["renames-column"]),
        (renaming("ALTER", "view", "public.v", "public.w"), ["renames-object"]),
        (renaming("ALTER", "index", "public.i", "public.j"), []),
        (ObservedStatement(sql="TRUNCATE note", truncated=(NOTE,)), ["truncates-table"]),
        (ObservedStatement(sql="DO $$ $$", rewritten=(NOTE,)), ["rewrites-table"]),
        (removal("DROP TABLE note", "table", NOTE), ["drops-table"]),
        (removal("ALTER TABLE note DROP a", "column", f"{NOTE}.a"), ["drops-column"]),
        (removal("DROP VIEW v", "view", "public.v"), ["drops-object"]),
        (removal("DROP INDEX i", "index", "public.i"), []),
        (ObservedStatement(sql="SELECT 1", invalid_indexes=("i",)), ["leaves-invalid-index"]),
    ],
    ids=lambda value: value.sql if isinstance(value, ObservedStatement) else "",
)
def test_a_statement_is_judged_by_what_it_did(
    statement: ObservedStatement, expected: list[str]
) -> None:
    assert found(statement) == expected


def test_a_table_with_its_sequence_is_one_finding() -> None:
    parts = [("table", NOTE), ("sequence", "public.note_id_seq")]
    removed = tuple(RemovedObject(kind=kind, name=name) for kind, name in parts)
    drop = ObservedStatement(sql="DROP TABLE note", locks=EXCLUSIVE, removed=removed)
    assert [problem.code for problem in judge(drop)] == ["drops-table"]


def test_a_view_that_the_revision_creates_again_is_no_finding() -> None:
    removed = (RemovedObject(kind="view", name="public.v", is_recreated=True),)
    assert found(ObservedStatement(sql="DROP VIEW v", removed=removed)) == []


def test_a_table_that_the_revision_creates_again_has_lost_its_rows() -> None:
    removed = (RemovedObject(kind="table", name=NOTE, is_recreated=True),)
    assert found(ObservedStatement(sql="DROP TABLE note", removed=removed)) == ["drops-table"]


def test_a_renamed_table_that_is_still_a_view_of_the_old_name_is_no_finding() -> None:
    renamed = RenamedObject(kind="table", name=NOTE, new_name="public.n", is_replaced=True)
    assert found(ObservedStatement(sql="ALTER", locks=EXCLUSIVE, renamed=(renamed,))) == []


def test_a_later_revision_is_judged_by_the_new_name_of_a_table() -> None:
    rename = ObservedRevision(
        revision="b2", statements=(renaming("ALTER", "table", NOTE, "public.n"),)
    )
    drop = ObservedRevision(revision="c3", statements=(removal("DROP TABLE memo", "table", MEMO),))
    after = relations_after(drop, relations_after(rename, UNKNOWN))
    assert after["public.n"] == after["n"] == replace(UNKNOWN[NOTE], name="n")
    assert len(after) == 2


def test_tables_that_exchange_their_names_keep_their_rows() -> None:
    swap = (
        renaming("ALTER", "table", NOTE, "public.tmp"),
        renaming("ALTER", "table", MEMO, NOTE),
        renaming("ALTER", "table", NOTE, MEMO),
    )
    after = relations_after(ObservedRevision(revision="b2", statements=swap), LARGE)
    assert {one.rows for one in after.values()} == {LARGE[NOTE].rows}
    assert sorted(after) == ["memo", "public.memo"]


def test_the_lock_of_an_earlier_statement_counts_for_later_ones() -> None:
    assert found(ADD, UPDATE) == ["updates-all-rows", "holds-lock"]
    validate = ObservedStatement(
        sql="ALTER TABLE note VALIDATE CONSTRAINT c", locks=SHARED, read_whole=(NOTE,)
    )
    assert found(validate) == []
    assert found(ADD, validate) == ["scans-table-under-lock"]


def test_a_commit_ends_the_locks_of_earlier_statements() -> None:
    committed = ObservedStatement(
        sql="ALTER TABLE note ADD IF NOT EXISTS a text", locks=EXCLUSIVE, is_committed=True
    )
    assert found(committed, UPDATE) == ["updates-all-rows"]


def test_exclusive_locks_on_several_tables_are_one_finding() -> None:
    other = ObservedStatement(
        sql="ALTER TABLE memo ADD body text",
        locks=(TableLock(table=MEMO, mode="ACCESS EXCLUSIVE"),),
    )
    assert found(ADD, other, ADD) == ["locks-several-tables"]
    assert found(ADD, other, relations={NOTE: UNKNOWN[NOTE]}) == []


def test_a_table_and_its_partitions_are_one_finding() -> None:
    parts = ("public.part_1", "public.part_2")
    relations = {name: Relation(name=name[7:], rows=None, size=9) for name in (*parts, NOTE)}
    root = "public.part"
    relations[root] = Relation(name="part", rows=None, size=2 * SMALL)
    tables = {name: ObservedTable(shown=name[7:], root=root) for name in (root, *parts)}
    mode = "ACCESS EXCLUSIVE"
    both = ObservedStatement(
        sql="ALTER TABLE part ALTER id TYPE bigint",
        locks=tuple(TableLock(table=table, mode=mode) for table in (root, *parts)),
        rewritten=parts,
    )
    one = replace(both, rewritten=parts[:1])
    columns = tuple(
        RemovedObject(kind="column", name=f"{table}.a", table=table) for table in (root, *parts)
    )
    drop = ObservedStatement(sql="ALTER TABLE part DROP a", removed=columns)
    revision = ObservedRevision(revision="b2", statements=(both, one, drop), tables=tables)
    found = find_observed_hazards(revision, relations)
    causes = [problem.cause.partition(" under ")[0] for problem in found]
    assert causes == [
        "rewrites 2 child tables of 'part' (2 MB)",
        "rewrites 'part_1' (9 bytes)",
        "drops the column 'a' of 'part' (2 MB) and its 2 child tables",
    ]
    assert {problem.level for problem in found} == {Level.ERROR}


def test_a_table_of_another_schema_has_it_in_its_name() -> None:
    relations = {NOTE: Relation(name="note", rows=None, size=None, schema="old")}
    (problem,) = judge(REWRITE, relations=relations)
    assert problem.cause.startswith("rewrites 'old.note' (of unknown size) under")


def test_a_committed_statement_is_a_finding_if_it_cannot_be_repeated() -> None:
    build = ObservedStatement(sql="CREATE INDEX CONCURRENTLY i ON note (a)", is_committed=True)
    again = ObservedStatement(sql="DROP INDEX IF EXISTS i", is_committed=True)
    assert found(again, build) == []
    assert found(build, ObservedStatement(sql="SET lock_timeout = 0")) == []
    assert found(build, ADD) == ["commits-early"]


def test_a_failed_revision_is_an_error_at_its_last_statement() -> None:
    *_, problem = judge(ADD, failure='relation "memo" does not exist')
    assert (problem.code, problem.level, problem.statement) == (
        "upgrade-failed",
        Level.ERROR,
        ADD.sql,
    )
    assert problem.cause.endswith('relation "memo" does not exist')


def test_a_short_strong_lock_is_information() -> None:
    (problem,) = judge(ADD)
    assert (problem.code, problem.level) == ("takes-strong-lock", Level.INFO)


def test_each_rule_says_what_to_do() -> None:
    assert all(rule.steps or rule.remedy for rule in RULES.values())


def test_a_lock_of_an_earlier_revision_is_held_for_the_next_one_of_its_transaction() -> None:
    rename = renaming("ALTER", "table", NOTE, "public.n")
    first = ObservedRevision(revision="b2", statements=(ADD, rename))
    held, after = held_after(first, UNKNOWN, {}), relations_after(first, UNKNOWN)
    share = TableLock(table="public.n", mode="SHARE")
    build = replace(INDEX, locks=(share,), read_whole=("public.n",))
    second = ObservedRevision(revision="c3", statements=(build,))
    (alone,) = find_observed_hazards(second, after)
    (together,) = find_observed_hazards(second, after, held)
    assert "under SHARE, which blocks writes" in alone.cause
    assert "under the ACCESS EXCLUSIVE of b2, which blocks reads and writes" in together.cause


def test_no_lock_is_held_after_a_commit_or_for_a_table_that_was_dropped() -> None:
    committed = ObservedRevision(revision="b2", statements=(replace(ADD, is_committed=True),))
    assert held_after(committed, UNKNOWN, {}) == {}
    drop = removal("DROP TABLE note", "table", NOTE)
    assert held_after(ObservedRevision(revision="b2", statements=(ADD, drop)), UNKNOWN, {}) == {}
