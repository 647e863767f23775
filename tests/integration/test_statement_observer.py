"""What each statement of a revision does is read from a real server while it runs."""

from typing import Any

import pytest

from huleedu_tasks.migrations.observed_statements import (
    ObservedRevision,
    ObservedStatement,
    ObservedTable,
    RemovedObject,
    RenamedObject,
    RequiredColumn,
)
from huleedu_tasks.migrations.observing import observe
from tests.integration.test_rollback import SYNCHRONOUS
from tests.support.alembic_bench import Bench, Case, sql
from tests.support.monorepo import ENV_PY

DRIVERS = ("asyncpg", "psycopg2")
EXCLUSIVE = "ACCESS EXCLUSIVE"
NOT_NULL = "ALTER TABLE note ALTER size SET NOT NULL"
NOTE = (
    "CREATE TABLE note (id integer PRIMARY KEY, text text, size integer)",
    "CREATE TABLE page (id integer PRIMARY KEY, note integer)",
    "CREATE VIEW notes AS SELECT id FROM note",
    "CREATE FUNCTION grow() RETURNS void LANGUAGE plpgsql AS "
    "$$BEGIN ALTER TABLE note ALTER size TYPE bigint; END$$",
    'CREATE TABLE "Odd.""name; --%" ("a ""b" integer)',
)


async def observed(case: Case) -> tuple[ObservedRevision, ...]:
    """Observe all revisions of a service."""
    order = [revision.id for revision in case.history.between((), case.history.heads)]
    return await observe(case.alembic, await case.session({}), order)


def locks(statement: ObservedStatement) -> dict[str, str]:
    """Return the strongest lock on each table that is not merely read."""
    weak = ("ACCESS SHARE", "ROW SHARE", "ROW EXCLUSIVE")
    strong = [lock for lock in statement.locks if lock.mode not in weak]
    return {lock.table: lock.mode for lock in reversed(strong)}


async def test_each_statement_is_reported_with_what_it_did(bench: Bench) -> None:
    cases: dict[str, dict[str, Any]] = {
        "ALTER TABLE note ALTER size TYPE bigint": {
            "locks": {"public.note": EXCLUSIVE},
            "rewritten": ("public.note",),
            "read_whole": ("public.note",),
        },
        "ALTER TABLE note ALTER text SET NOT NULL": {"read_whole": ("public.note",)},
        "ALTER TABLE note ADD more text": {},
        "CREATE INDEX by_text ON note (text)": {"read_whole": ("public.note",)},
        "ALTER TABLE page ADD CONSTRAINT fk FOREIGN KEY (note) REFERENCES note": {
            "locks": {"public.note": "SHARE ROW EXCLUSIVE", "public.page": "SHARE ROW EXCLUSIVE"},
            "read_whole": ("public.page",),
        },
        "UPDATE page SET note = 1": {"read_whole": ("public.page",)},
        "UPDATE page SET note = 1 WHERE id = 2": {},
        "TRUNCATE page": {"locks": {"public.page": EXCLUSIVE}, "truncated": ("public.page",)},
        "ALTER TABLE page RENAME note TO to_note": {
            "renamed": (
                RenamedObject(
                    kind="column",
                    name="public.page.note",
                    table="public.page",
                    new_name="public.page.to_note",
                ),
            )
        },
        "DROP VIEW notes": {
            "removed": (RemovedObject(kind="view", name="public.notes", is_recreated=True),)
        },
        "ALTER TABLE note DROP COLUMN text": {
            "removed": (RemovedObject(kind="column", name="public.note.text", table="public.note"),)
        },
        "CREATE VIEW notes AS SELECT size FROM note": {},
        "DROP FUNCTION grow()": {
            "removed": (RemovedObject(kind="function", name="public.grow()"),)
        },
        "DO $$BEGIN EXECUTE 'DROP TABLE page'; END$$": {
            "locks": {},
            "removed": (RemovedObject(kind="table", name="public.page"),),
        },
        'DROP TABLE "Odd.""name; --%"': {
            "removed": (RemovedObject(kind="table", name='public.Odd."name; --%'),)
        },
        "CREATE TABLE own (id integer)": {},
        "DROP TABLE own": {},
    }
    case = await bench.case(a1=sql(*NOTE), b2=sql(*cases))
    first, second = await observed(case)
    assert [found for one in first.statements for found in (one.locks, one.removed)] == [()] * 10
    assert [one.sql for one in second.statements] == list(cases)
    assert not second.failure
    text = case.history.revisions["b2"].path.read_text().splitlines()
    for statement in second.statements:
        assert statement.line is not None
        assert repr(statement.sql) in text[statement.line - 1]
    for statement, expected in zip(second.statements, cases.values(), strict=True):
        for name in ("rewritten", "truncated", "read_whole", "removed", "renamed"):
            assert getattr(statement, name) == expected.get(name, ()), (name, statement)
        if "locks" in expected:
            assert locks(statement) == expected["locks"], statement
        assert not statement.is_committed


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
async def test_each_way_to_send_a_statement_is_observed_with_each_driver(
    bench: Bench, driver: str
) -> None:
    body = """\
import sqlalchemy as sa

bind = op.get_bind()
op.add_column("note", sa.Column("more", sa.Text))
op.bulk_insert(sa.table("page", sa.column("id", sa.Integer)), [dict(id=1), dict(id=2)])
bind.execute(sa.text("UPDATE page SET note = :note"), dict(note=3))
bind.exec_driver_sql("DROP VIEW notes; ALTER TABLE note DROP text")
with bind.begin_nested():
    try:
        with bind.begin_nested():
            op.execute("DROP TABLE nowhere")
    except sa.exc.ProgrammingError:
        pass
cursor = bind.connection.cursor()
cursor.execute("TRUNCATE page")
cursor.close()
"""
    case = await bench.case(SYNCHRONOUS.format(driver=driver), a1=sql(*NOTE), b2=body)
    _, done = await observed(case)
    assert not done.failure
    found = {one.sql: one for one in done.statements}
    assert locks(found["ALTER TABLE note ADD COLUMN more TEXT"]) == {"public.note": EXCLUSIVE}
    (update,) = [one for one in done.statements if one.sql.startswith("UPDATE")]
    assert update.read_whole == ("public.page",)
    assert "3" not in update.sql
    several = found["DROP VIEW notes; ALTER TABLE note DROP text"]
    assert [one.kind for one in several.removed] == ["column", "view"]
    assert found["DROP TABLE nowhere"].locks == ()
    # Without SQLAlchemy it has no text.
    assert found[""].truncated == ("public.page",)
    assert not any(one.is_committed for one in done.statements)


@pytest.mark.parametrize("env_py", [ENV_PY, SYNCHRONOUS.format(driver="psycopg2")], ids=DRIVERS)
async def test_what_is_committed_before_the_end_and_an_invalid_index_are_reported(
    bench: Bench, env_py: str
) -> None:
    body = """\
op.execute("ALTER TABLE note ADD more text")
with op.get_context().autocommit_block():
    op.execute("INSERT INTO note VALUES (1, '-', 1), (2, '-', 1)")
    op.execute("CREATE INDEX CONCURRENTLY by_text ON note (text)")
    op.execute("ALTER TABLE note ALTER size SET NOT NULL")
    try:
        op.execute("CREATE UNIQUE INDEX CONCURRENTLY one ON note (text)")
    except Exception:
        pass
    op.execute("SELECT 1")
op.execute("ALTER TABLE page ADD more text")
"""
    case = await bench.case(env_py, a1=sql(*NOTE), b2=body, c3=sql("DROP TABLE page; "))
    _, done, last = await observed(case)
    assert [one.is_committed for one in done.statements] == [True] * 5 + [True, False]
    found = {one.sql: one for one in done.statements}
    for statement in ("CREATE INDEX CONCURRENTLY by_text ON note (text)", NOT_NULL):
        assert found[statement].read_whole == ("public.note",), found[statement]
    assert [one.invalid_indexes for one in done.statements if one.invalid_indexes] == [
        ("public.one",)
    ]
    assert found["CREATE UNIQUE INDEX CONCURRENTLY one ON note (text)"].invalid_indexes
    # PostgreSQL releases the locks of each at once; they are those of a transaction.
    assert locks(found[NOT_NULL]) == {"public.note": EXCLUSIVE}
    assert found["CREATE INDEX CONCURRENTLY by_text ON note (text)"].locks == ()
    assert last.statements[0].removed == (RemovedObject(kind="table", name="public.page"),)


async def test_a_table_has_its_name_from_before_the_revision(bench: Bench) -> None:
    body = """\
for sql in (
    "ALTER TABLE page RENAME TO sheet",
    "ALTER TABLE sheet ALTER note TYPE bigint",
    "ALTER TABLE sheet RENAME note TO to_note",
    "ALTER TABLE sheet DROP COLUMN to_note",
    "CREATE TABLE page (id integer)",
    "DROP TABLE sheet",
):
    op.execute(sql)
op.execute("COMMIT")
op.execute("ALTER TABLE note ADD more integer NOT NULL")
op.execute("DROP TABLE part_1")
"""
    parts = (
        "CREATE TABLE part (id integer) PARTITION BY RANGE (id)",
        "CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (9)",
    )
    case = await bench.case(a1=sql(*NOTE, *parts), b2=body)
    _, done = await observed(case)
    assert not done.failure
    rename, rewrite, column, _, _, drop, _, required, part = done.statements
    assert [(one.name, one.is_replaced) for one in rename.renamed] == [("public.page", False)]
    assert rewrite.rewritten == rewrite.read_whole == ("public.page",)
    assert [one.new_name for one in column.renamed] == ["public.page.to_note"]
    assert [one.name for one in drop.removed] == ["public.page"]
    # SQL has ended the transaction, which neither the driver nor SQLAlchemy knows.
    assert [one.is_committed for one in done.statements] == [True] * 9
    assert locks(required) == {"public.note": EXCLUSIVE}
    assert required.required_columns == (RequiredColumn(table="public.note", name="more"),)
    assert locks(part) == {"public.part": EXCLUSIVE, "public.part_1": EXCLUSIVE}
    assert done.tables["public.part_1"] == ObservedTable(shown="part_1", root="public.part")


async def test_a_failed_revision_has_its_error_and_its_statements(bench: Bench) -> None:
    case = await bench.case(
        a1=sql(*NOTE),
        b2=sql("ALTER TABLE note ADD more text", "ALTER TABLE nowhere ADD more text"),
        c3=sql("SELECT 1"),
    )
    _, failed = await observed(case)
    assert failed.revision == "b2"
    assert failed.failure == 'relation "nowhere" does not exist'
    assert [one.sql for one in failed.statements] == [
        "ALTER TABLE note ADD more text",
        "ALTER TABLE nowhere ADD more text",
    ]
    assert locks(failed.statements[0]) == {"public.note": EXCLUSIVE}
