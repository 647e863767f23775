"""The rights that a plan's SQL requires."""

import pytest

from huleedu_tasks.migrations.required_rights import Needs, needs_of


def needs(*sql: str) -> Needs:
    return needs_of({"b2": "\n".join(f"{statement};" for statement in sql)})


@pytest.mark.parametrize(
    ("sql", "schema"),
    [
        ("CREATE TABLE note (id int)", ""),
        ("CREATE TABLE IF NOT EXISTS essays.note (id int)", "essays"),
        ('CREATE TABLE "Essays".note ()', "Essays"),
        ("CREATE TABLE ESSAYS.note ()", "essays"),
        ("CREATE TYPE essays.mood AS ENUM ('good')", "essays"),
        ("CREATE MATERIALIZED VIEW essays.found AS SELECT 1", "essays"),
        ("CREATE SEQUENCE essays.numbers", "essays"),
        (
            "CREATE FUNCTION essays.one() RETURNS int LANGUAGE sql AS $$ SELECT 1; $$",
            "essays",
        ),
        ("CREATE TABLE essays.copied AS SELECT * FROM foreigners.note", "essays"),
    ],
)
def test_creating_an_object_requires_create_on_its_schema(sql: str, schema: str) -> None:
    assert needs(sql).creates_in == {schema: "b2"}


@pytest.mark.parametrize(
    ("sql", "name"),
    [
        ("ALTER TABLE note ADD COLUMN i int", ("", "note")),
        ("ALTER TABLE IF EXISTS essays.note ADD CONSTRAINT c CHECK (i > 1)", ("essays", "note")),
        ('ALTER TABLE "Note" RENAME TO other', ("", "Note")),
        ("CREATE INDEX CONCURRENTLY i ON essays.note (i)", ("essays", "note")),
        ("ALTER INDEX i RENAME TO j", ("", "i")),
    ],
)
def test_altering_a_relation_requires_its_owner(sql: str, name: tuple[str, str]) -> None:
    assert needs(sql).alters == {name: "b2"}


def test_dropping_a_relation_requires_its_owner_or_that_of_its_schema() -> None:
    assert needs("DROP TABLE a, essays.b").drops == {("", "a"): "b2", ("essays", "b"): "b2"}


def test_objects_that_a_plan_creates_require_no_rights() -> None:
    found = needs_of(
        {
            "b2": "CREATE SCHEMA essays; CREATE TABLE essays.note (); CREATE TABLE own ();",
            "c3": "ALTER TABLE own ADD COLUMN i int; DROP TABLE essays.note;",
        }
    )
    assert (found.creates_schemas, found.creates_in) == ("b2", {"": "b2"})
    assert (found.alters, found.drops) == ({}, {})


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TEMPORARY TABLE t (i int)",
        "INSERT INTO note VALUES ('SET ROLE x')",
        "SELECT role FROM note",
        "DO $$ BEGIN CREATE TABLE x (); END $$",
        "this is no SQL",
    ],
)
def test_other_statements_require_no_rights(sql: str) -> None:
    found = needs(sql)
    assert (found.creates_in, found.alters, found.drops) == ({}, {}, {})
    assert found.is_known


@pytest.mark.parametrize(
    "sql",
    [
        "SET ROLE other",
        "RESET ROLE",
        "SET LOCAL search_path = other",
        "SET search_path TO a, b",
        "SET SESSION AUTHORIZATION other",
        "DISCARD ALL",
        "-- As another.\nSET ROLE other",
        "SELECT set_config('search_path', 'a', true)",
    ],
)
def test_statements_after_a_change_of_role_or_path_are_not_analysed(sql: str) -> None:
    found = needs("CREATE TABLE essays.note ()", sql, "CREATE TABLE note ()")
    assert found.creates_in == {"essays": "b2"}
    assert not found.is_known


def test_a_revision_without_offline_sql_is_not_analysed() -> None:
    assert not needs_of({"b2": None}).is_known
