"""Hazards: statements that lock or destroy data, depending on the current tables."""

import pytest

from huleedu_tasks.migrations.hazards import described, find_hazards
from huleedu_tasks.postgres.inspection import Relation
from huleedu_tasks.report import Kind, Level, Problem

NOTE = Relation(name="note", rows=1200, size=3 * 1024**2)
BLANK = Relation(name="blank", rows=0, size=0)
ODD = Relation(name="Odd Name", rows=None, size=8192)
ARCHIVED = Relation(name="note", rows=7, size=8192)
# As `read_relations` returns them; `archive` is not on the search path.
RELATIONS = {
    "note": NOTE,
    "public.note": NOTE,
    "blank": BLANK,
    "public.blank": BLANK,
    "Odd Name": ODD,
    "public.Odd Name": ODD,
    "archive.note": ARCHIVED,
}
FULL = "'note' (about 1200 rows, 3 MB)"
DROPPED = ("First deploy code that no longer uses it", "Only a backup")
RENAMED = ("keep both filled",)
BATCHES = ("in batches, outside the migration",)
NOT_VALID = ("NOT VALID", "VALIDATE CONSTRAINT")
USING_INDEX = ("CREATE UNIQUE INDEX CONCURRENTLY", "USING INDEX")
NEW_COLUMN = ("Add a column of the new type",)
CHECKED_FIRST = ("CHECK (text IS NOT NULL) NOT VALID",)
DEFAULT = ("Add it with a server default",)
REVIEW = "Review it before you apply the revision."
CONCURRENTLY = ("postgresql_concurrently=True", "autocommit_block()")

FILLED: list[tuple[str, str, tuple[str, ...]]] = [
    ("DROP TABLE note", f"drops {FULL}", DROPPED),
    ("DROP TABLE IF EXISTS note CASCADE", f"drops {FULL}", DROPPED),
    ("TRUNCATE note", f"truncates {FULL}", ("Only a backup",)),
    ("DELETE FROM note", f"deletes every row of {FULL}", BATCHES),
    ("UPDATE note SET text = ''", f"updates every row of {FULL}", BATCHES),
    ("UPDATE note AS n SET text = upper(n.text)", f"updates every row of {FULL}", BATCHES),
    ("ALTER TABLE note DROP COLUMN text", f"drops the column 'text' of {FULL}", DROPPED),
    ("ALTER TABLE note DROP text", f"drops the column 'text' of {FULL}", DROPPED),
    ("ALTER TABLE note RENAME TO memo", f"renames {FULL} to 'memo'", RENAMED),
    (
        "ALTER TABLE note RENAME COLUMN text TO body",
        f"renames 'text' of {FULL} to 'body'",
        RENAMED,
    ),
    (
        "ALTER TABLE note ALTER COLUMN text TYPE integer USING text::integer",
        f"changes the type of 'text' in {FULL}",
        NEW_COLUMN,
    ),
    (
        "ALTER TABLE note ALTER text SET DATA TYPE varchar(9)",
        f"changes the type of 'text' in {FULL}",
        NEW_COLUMN,
    ),
    (
        "ALTER TABLE note ALTER COLUMN text SET NOT NULL",
        f"makes 'text' NOT NULL in {FULL}, which scans the whole table",
        CHECKED_FIRST,
    ),
    (
        "ALTER TABLE note ADD COLUMN more text NOT NULL",
        f"adds 'more' NOT NULL without a default to {FULL}, which fails",
        DEFAULT,
    ),
    (
        "ALTER TABLE note ADD CONSTRAINT known CHECK (id > 0)",
        f"adds a constraint to {FULL}, which blocks writes",
        NOT_VALID,
    ),
    (
        "ALTER TABLE note ADD CONSTRAINT known FOREIGN KEY (id) REFERENCES blank (id)",
        f"adds a constraint to {FULL}, which blocks writes",
        NOT_VALID,
    ),
    (
        "ALTER TABLE note ADD FOREIGN KEY (id) REFERENCES blank (id) ON DELETE CASCADE",
        f"adds a constraint to {FULL}, which blocks writes",
        NOT_VALID,
    ),
    (
        "ALTER TABLE note ADD CONSTRAINT once UNIQUE (text)",
        f"adds a unique constraint to {FULL}, which blocks reads and writes",
        USING_INDEX,
    ),
    (
        "ALTER TABLE note ADD PRIMARY KEY (id)",
        f"adds a unique constraint to {FULL}, which blocks reads and writes",
        USING_INDEX,
    ),
    (
        "CREATE INDEX by_text ON note (text)",
        f"builds the index 'by_text' on {FULL}, which blocks writes",
        CONCURRENTLY,
    ),
    (
        "CREATE UNIQUE INDEX IF NOT EXISTS by_text ON note USING btree (lower(text)) WHERE id > 1",
        f"builds the index 'by_text' on {FULL}",
        CONCURRENTLY,
    ),
    # Statements that sqlglot parses as others, and those of which squawk's findings are ignored.
    (
        "ALTER TABLE note RENAME text TO body",
        f"renames 'text' of {FULL} to 'body'",
        RENAMED,
    ),
    (
        "ALTER TABLE note ADD CHECK (id > 0)",
        f"adds a constraint to {FULL}, which blocks writes",
        NOT_VALID,
    ),
    ("ALTER TABLE note ADD COLUMN more text UNIQUE", FULL, ()),
    *(
        (f"ALTER TABLE note ADD COLUMN more {kind}", f"adds 'more' to {FULL} with a value", ())
        for kind in (
            "uuid DEFAULT gen_random_uuid()",
            "bigint GENERATED ALWAYS AS IDENTITY NOT NULL",
            "BIGSERIAL NOT NULL",
        )
    ),
]

HARMLESS = [
    "SELECT * FROM note",
    "INSERT INTO note VALUES (1, 'one')",
    "DELETE FROM note WHERE id = 1",
    "UPDATE note SET text = '' WHERE id = 1",
    "ALTER TABLE note ADD COLUMN more text",
    "ALTER TABLE note ADD COLUMN more text NULL",
    "ALTER TABLE note ADD COLUMN more text DEFAULT '' NOT NULL",
    "ALTER TABLE note ALTER COLUMN text DROP NOT NULL",
    "ALTER TABLE note ALTER COLUMN text SET DEFAULT ''",
    "ALTER TABLE note ALTER COLUMN text DROP DEFAULT",
    "ALTER TABLE note ADD CONSTRAINT known CHECK (id > 0) NOT VALID",
    "ALTER TABLE note ADD CONSTRAINT known FOREIGN KEY (id) REFERENCES blank (id) NOT VALID",
    "ALTER TABLE note VALIDATE CONSTRAINT known",
    "ALTER TABLE note DROP CONSTRAINT known",
    "ALTER TABLE note ADD CONSTRAINT once UNIQUE USING INDEX by_text",
    "CREATE INDEX CONCURRENTLY by_text ON note (text)",
    "CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS by_text ON note (text)",
    "CREATE TABLE memo (id integer PRIMARY KEY, note integer REFERENCES note (id))",
    "COMMENT ON TABLE note IS 'DROP TABLE note'",
    "INSERT INTO blank SELECT 'DELETE FROM note'",
]


def causes(sql: str) -> list[str]:
    return [problem.cause for problem in find_hazards(sql, RELATIONS)]


@pytest.mark.parametrize(("sql", "cause", "remedy"), FILLED, ids=[sql for sql, *_ in FILLED])
def test_a_statement_that_locks_or_destroys_a_filled_table_is_found_with_a_remedy(
    sql: str, cause: str, remedy: tuple[str, ...]
) -> None:
    (problem,) = find_hazards(sql, RELATIONS)
    assert problem.level is Level.WARNING
    assert cause in problem.cause
    assert problem.remedy
    for part in remedy:
        assert part in problem.remedy


@pytest.mark.parametrize("sql", HARMLESS)
def test_a_harmless_statement_on_a_filled_table_is_not_reported(sql: str) -> None:
    assert find_hazards(sql, RELATIONS) == ()


@pytest.mark.parametrize(
    "sql",
    [
        sql
        for sql, *_ in FILLED
        if not sql.startswith("DROP") and " DROP " not in sql and " RENAME " not in sql
    ],
)
def test_a_slow_statement_on_an_empty_table_is_not_reported(sql: str) -> None:
    assert find_hazards(sql, RELATIONS | {"note": BLANK}) == ()


@pytest.mark.parametrize(
    ("sql", "cause"),
    [
        ("DROP TABLE blank", "drops 'blank' (empty)"),
        ("ALTER TABLE blank DROP COLUMN text", "drops the column 'text' of 'blank' (empty)"),
        ("ALTER TABLE blank RENAME TO memo", "renames 'blank' (empty) to 'memo'"),
        ("ALTER TABLE blank RENAME COLUMN a TO b", "renames 'a' of 'blank' (empty) to 'b'"),
    ],
)
def test_dropping_or_renaming_an_empty_table_is_reported(sql: str, cause: str) -> None:
    assert causes(sql) == [cause]


@pytest.mark.parametrize("sql", [sql for sql, *_ in FILLED])
def test_a_statement_on_a_table_that_does_not_exist_is_not_reported(sql: str) -> None:
    assert find_hazards(sql, {}) == ()


def test_statements_on_a_table_that_the_same_revision_creates_are_not_reported() -> None:
    made = """
        CREATE TABLE memo (id integer);
        CREATE INDEX by_id ON memo (id);
        ALTER TABLE memo ADD COLUMN text text NOT NULL;
        ALTER TABLE memo RENAME COLUMN text TO body;
        DROP TABLE memo;
    """
    assert causes(made) == []


# Names of tables.


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("note", FULL),
        ("NOTE", FULL),
        ('"note"', FULL),
        ("public.note", FULL),
        ("Public.Note", FULL),
        ('"public"."note"', FULL),
        ("archive.note", "'note' (about 7 rows, 8 kB)"),
        ('"Odd Name"', "'Odd Name' (8 kB)"),
        ('public."Odd Name"', "'Odd Name' (8 kB)"),
    ],
)
def test_a_table_name_is_folded_as_postgresql_folds_it(name: str, found: str) -> None:
    assert causes(f"DROP TABLE {name}") == [f"drops {found}"]
    assert causes(f"UPDATE {name} SET text = ''") == [f"updates every row of {found}"]
    assert causes(f"ALTER TABLE {name} RENAME TO memo") == [f"renames {found} to 'memo'"]
    (building,) = causes(f"CREATE INDEX by_text ON {name} (text)")
    assert f"'by_text' on {found}" in building


@pytest.mark.parametrize("name", ['"NOTE"', "elsewhere.note", "memo", "oddname"])
def test_a_name_that_does_not_resolve_to_a_table_is_not_reported(name: str) -> None:
    assert causes(f"DROP TABLE {name}") == []


def test_cause_and_remedy_name_a_quoted_column() -> None:
    (problem,) = find_hazards('ALTER TABLE note ALTER COLUMN "A b" SET NOT NULL', RELATIONS)
    assert "makes 'A b' NOT NULL" in problem.cause
    assert "A b" in problem.remedy


def test_an_index_without_a_name_is_reported_without_a_name() -> None:
    (cause,) = causes("CREATE INDEX ON note (text)")
    assert f"on {FULL}" in cause
    assert "''" not in cause


def test_a_generated_column_needs_no_default() -> None:
    sql = "ALTER TABLE note ADD COLUMN more text GENERATED ALWAYS AS (upper(text)) STORED NOT NULL"
    assert not [cause for cause in causes(sql) if "which fails" in cause]


@pytest.mark.parametrize(
    ("relation", "text"),
    [
        (BLANK, "'blank' (empty)"),
        (ODD, "'Odd Name' (8 kB)"),
        (NOTE, FULL),
        (Relation(name="a", rows=1, size=100), "'a' (about 1 rows, 100 bytes)"),
        (Relation(name="a", rows=10**9, size=5 * 1024**4), "'a' (about 1000000000 rows, 5 TB)"),
        (Relation(name="a", rows=None, size=9000 * 1024**4), "'a' (9000 TB)"),
    ],
)
def test_a_table_is_described_by_its_rows_and_size(relation: Relation, text: str) -> None:
    assert described(relation) == text


# Several statements, and SQL that cannot be parsed.


def test_each_statement_and_each_action_of_one_is_analysed_in_order() -> None:
    sql = """
        CREATE INDEX by_text ON note (text);
        ALTER TABLE note ALTER COLUMN text TYPE integer, ALTER COLUMN id SET NOT NULL,
            DROP COLUMN more;
        DROP TABLE blank, archive.note;
    """
    begins = (
        "builds the index 'by_text'",
        "changes the type of 'text'",
        "makes 'id' NOT NULL",
        "drops the column 'more'",
        "drops 'blank'",
        "drops 'note' (about 7 rows",
    )
    found = causes(sql)
    assert len(found) == len(begins)
    for cause, begin in zip(found, begins, strict=True):
        assert cause.startswith(begin)


def test_the_same_hazard_is_reported_once() -> None:
    assert causes("DROP TABLE IF EXISTS note; DROP TABLE IF EXISTS note") == [f"drops {FULL}"]


@pytest.mark.parametrize(
    "sql",
    [
        "DO $$ BEGIN DROP TABLE note; END $$",
        "do $body$ begin drop table note; end $body$ language plpgsql",
    ],
)
def test_a_do_block_is_reported_for_review(sql: str) -> None:
    block = Problem(
        level=Level.WARNING,
        cause="contains a DO block, which is not analysed",
        remedy=REVIEW,
        kind=Kind.OTHER,
        statement=sql,
    )
    assert find_hazards(sql, RELATIONS) == (block,)


def test_statements_beside_a_do_block_are_analysed() -> None:
    found = find_hazards("DO $$ BEGIN END $$; DROP TABLE note", RELATIONS)
    assert [problem.level for problem in found] == [Level.WARNING, Level.WARNING]


@pytest.mark.parametrize("sql", ["DROP TABLE (", "SELECT 'open", "CREATE INDEX ON"])
def test_sql_that_cannot_be_parsed_is_reported_for_review(sql: str) -> None:
    (problem,) = find_hazards(sql, RELATIONS)
    assert problem.level is Level.WARNING
    assert "could not be analysed" in problem.cause
    assert problem.remedy == REVIEW


def test_statements_beside_one_that_cannot_be_parsed_are_analysed() -> None:
    found = causes("DELETE FROM note; CREATE INDEX by_text ON ONLY note (text); DROP TABLE blank;")
    assert any("could not be analysed" in cause for cause in found)
    assert f"deletes every row of {FULL}" in found
    assert "drops 'blank' (empty)" in found


@pytest.mark.parametrize("sql", ["", " ; ;\n", "-- DROP TABLE note", "/* DROP TABLE note; */"])
def test_empty_sql_has_no_hazards(sql: str) -> None:
    assert causes(sql) == []


@pytest.mark.parametrize("sql", ["SET search_path = public", "GRANT SELECT ON note TO reader"])
def test_a_statement_of_another_kind_is_not_reported_and_sqlglot_logs_nothing(
    sql: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    assert causes(sql) == []
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("sql", "kind"),
    [
        ("DROP TABLE note", Kind.DESTROYS),
        ("ALTER TABLE note DROP COLUMN text", Kind.DESTROYS),
        ("TRUNCATE note", Kind.DESTROYS),
        ("DELETE FROM note", Kind.DESTROYS),
        ("UPDATE note SET text = ''", Kind.LOCKS),
        ("CREATE INDEX by_text ON note (text)", Kind.LOCKS),
        ("ALTER TABLE note ALTER COLUMN text SET NOT NULL", Kind.LOCKS),
        ("ALTER TABLE note RENAME TO memo", Kind.OTHER),
        ("ALTER TABLE note ADD COLUMN more text NOT NULL", Kind.OTHER),
    ],
)
def test_a_hazard_has_its_kind_and_its_statement(sql: str, kind: Kind) -> None:
    (problem,) = find_hazards(f"SELECT 1;\n\n-- A comment.\n{sql};\n", RELATIONS)
    assert (problem.kind, problem.statement) == (kind, sql)
    assert problem.as_json()["kind"] == kind
