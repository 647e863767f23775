"""Schemas without a server: the splitting of SQL, archives that are not valid, comparisons."""

import pytest

from huleedu_tasks.report import Change
from huleedu_tasks.schema.archive import ArchiveInvalid, read_entries, without_column_versions
from huleedu_tasks.schema.diff import compare
from huleedu_tasks.schema.objects import Schema, SchemaObject, schema_of
from huleedu_tasks.schema.sql_text import first_identifier, identifiers, parenthesized, shown, split

TABLE = SchemaObject(kind="table", name="public.note", definition="CREATE TABLE", owner="app")
ID = SchemaObject(kind="column", name="public.note.id", definition="id integer", parent=TABLE.label)
BODY = SchemaObject(
    kind="column", name="public.note.body", definition="body text", parent=TABLE.label
)
COMMENT = SchemaObject(
    kind="comment on column", name="public.note.body", definition="'text'", parent=BODY.label
)


def of(*objects: SchemaObject) -> Schema:
    return schema_of(objects, major=18)


@pytest.mark.parametrize(
    ("sql", "parts"),
    [
        ("a, b(c, d), e[1, 2]", ["a", "b(c, d)", "e[1, 2]"]),
        ("'a, ''b', E'c\\', d', \"e\"\",\"", ["'a, ''b'", "E'c\\', d'", '"e"","']),
        ("$x$ a, $$ b $x$, c", ["$x$ a, $$ b $x$", "c"]),
        ("", []),
        ("a,, b", ["a", "b"]),
    ],
)
def test_a_comma_in_quotes_or_parentheses_splits_nothing(sql: str, parts: list[str]) -> None:
    assert split(sql, ",") == parts


def test_the_body_of_a_definition_is_in_its_first_parentheses() -> None:
    assert parenthesized('CREATE TABLE "a(" (b int CHECK (b > 0)) WITH (c)') == (
        'CREATE TABLE "a(" ',
        "b int CHECK (b > 0)",
        " WITH (c)",
    )
    assert parenthesized("CREATE SCHEMA a") == ("CREATE SCHEMA a", "", "")


def test_a_name_is_quoted_where_it_must_be_and_stays_on_one_line() -> None:
    assert shown("shop", "note", "") == "shop.note"
    assert shown("shop", 'Odd"\nname') == 'shop."Odd""\\nname"'
    assert identifiers('shop."Odd"".name"') == ["shop", 'Odd".name']
    assert first_identifier('"Odd""" text') == 'Odd"'
    assert first_identifier(" ") == ""


@pytest.mark.parametrize(
    "archive",
    [b"", b"-- SQL", b"PGDMP\x01\x0d\x00\x04\x08\x01", b"PGDMP\x01\x10\x00\x04\x08\x01\x00\x00"],
)
def test_an_archive_that_is_truncated_or_unknown_is_refused(archive: bytes) -> None:
    with pytest.raises(ArchiveInvalid):
        read_entries(archive)


def test_a_version_of_a_column_is_replaced_in_place() -> None:
    archive = b"ALTER COLUMN a SET (pg_attver=26559440);"
    assert without_column_versions(archive) == b"ALTER COLUMN a RESET (n_distinct)      ;"
    kept = b"ALTER COLUMN a SET (n_distinct=5);"
    assert without_column_versions(kept) == kept


def test_what_belongs_to_a_missing_object_is_a_part_of_it() -> None:
    (missing,) = compare(of(TABLE, ID, BODY, COMMENT), of())
    assert missing.change is Change.MISSING
    assert missing.label == "table public.note"
    assert missing.parts == (
        "column public.note.id",
        "column public.note.body",
        "comment on column public.note.body",
    )
    assert str(missing) == "table public.note: missing, with 3 parts"
    (extra,) = compare(of(TABLE, ID), of(TABLE, ID, BODY, COMMENT))
    assert str(extra) == "column public.note.body: extra, with 1 part"
    assert extra.diff == "+body text\n+'text'"


def test_a_different_object_has_a_diff_of_its_definition_and_owner() -> None:
    changed = SchemaObject(
        kind="table", name="public.note", definition="CREATE TABLE\nWITH (x)", owner="bob"
    )
    (found,) = compare(of(TABLE), of(changed))
    assert found.diff == " CREATE TABLE\n-OWNER TO app\n+WITH (x)\n+OWNER TO bob"


def test_line_endings_are_shown_and_have_a_digest_of_their_own() -> None:
    unix, windows, mixed = (
        SchemaObject(kind="function", name="public.f()", definition=text)
        for text in ("BEGIN\nEND", "BEGIN\r\nEND", "BEGIN\r\nEND\r")
    )
    (one,) = compare(of(unix), of(windows))
    (other,) = compare(of(unix), of(mixed))
    assert r"+BEGIN\r" in one.diff.split("\n")
    assert one.digest != other.digest


@pytest.mark.parametrize("pattern", ["public.note", "public.*", "table *", "table public.note"])
def test_an_unmanaged_object_is_left_out_with_its_parts(pattern: str) -> None:
    other = SchemaObject(kind="table", name="Public.x", definition="", parent="")
    managed = of(TABLE, ID, BODY, COMMENT, SchemaObject(kind="schema", name="a", definition=""))
    assert list(managed.without([pattern]).objects) == ["schema a"]
    assert list(of(other).without(["public.*"]).objects) == ["table Public.x"]


def test_objects_with_the_same_label_are_compared_together() -> None:
    one, two = (
        SchemaObject(kind="default privileges", name="public.tables", definition=text)
        for text in ("GRANT a", "GRANT b")
    )
    assert compare(of(one, two), of(two, one)) == []
    assert [found.change for found in compare(of(one, two), of(one))] == [Change.DIFFERENT]
