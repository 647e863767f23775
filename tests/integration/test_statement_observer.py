"""What each statement of a revision does is read from a real server while it runs."""

from typing import Any

from huleedu_tasks.migrations.observed_statements import (
    ObservedRevision,
    ObservedStatement,
    RemovedObject,
    RenamedObject,
)
from huleedu_tasks.migrations.observing import observe
from tests.support.alembic_bench import Bench, Case, sql

EXCLUSIVE = "ACCESS EXCLUSIVE"
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
                    kind="column", name="public.page.note", new_name="public.page.to_note"
                ),
            )
        },
        "DROP VIEW notes": {
            "removed": (RemovedObject(kind="view", name="public.notes", is_recreated=True),)
        },
        "ALTER TABLE note DROP COLUMN text": {
            "removed": (RemovedObject(kind="column", name="public.note.text"),)
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
