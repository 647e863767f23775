"""An SQL file is split into the statements that psql finds in it."""

import pytest

from huleedu_tasks.errors import SeedError
from huleedu_tasks.seeds.statements import SqlFile, read_statements

# A line that causes a file to be split.
SPLIT = "\n\\restrict x\n"


def split(text: str) -> SqlFile:
    return read_statements(f"{text}{SPLIT}", "seed.sql")


def texts(text: str) -> list[str]:
    file = split(text)
    return [file.text[statement.start : statement.end] for statement in file.statements]


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT 'a;b', '', 'it''s; so', 'back\\'",
        "SELECT E'it\\'s; so\\\\', e'a''b;'",
        "SELECT E'a'\n  'b\\'; c'",
        'SELECT "a;b", "a"";b"',
        "SELECT U&'d\\0061t;a', U&\"d;ata\"",
        "DO $$BEGIN PERFORM 1; END$$",
        "DO $body$ SELECT '$$;' ; $body $ ; $body$",
        "SELECT $1, a$b$ FROM t",
        "SELECT 1 /* ; /* ; */ ; */ + 2",
        "SELECT 1 -- ; '\n + 2",
        "CREATE RULE r AS ON INSERT TO t DO ALSO (SELECT 1; SELECT 2)",
        "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN a THEN 1 END; SELECT 2; END",
        "CREATE OR REPLACE PROCEDURE p() LANGUAGE sql BEGIN ATOMIC SELECT 1; END",
        "CREATE TABLE begin_at (\"end\" int, åäö text DEFAULT ';')",
        "COPY t TO '/dev/null'",
    ],
)
def test_a_semicolon_inside_a_statement_does_not_end_it(statement: str) -> None:
    assert texts(f"{statement};\nSELECT 1") == [statement, "SELECT 1"]


def test_comments_and_blanks_are_not_statements() -> None:
    assert texts("-- none; here\n ; /* nor ; here */ ;; \n") == []


@pytest.mark.parametrize("end", ["\\.\n", "\\.", ""])
def test_the_rows_of_a_copy_are_not_parsed_as_sql(end: str) -> None:
    text = '\\restrict x\nCOPY public.t (a, "b;") FROM stdin WITH (FORMAT csv);\n1;\'\n\\N\n' + end
    file = read_statements(text, "seed.sql")
    (copy,) = file.statements
    assert copy.rows is not None
    assert file.text[slice(*copy.rows)] == "1;'\n\\N\n"
    assert file.line_of(copy.rows[0]) == 3


def test_a_copy_is_a_part_of_its_own_and_other_statements_are_grouped() -> None:
    file = split("SELECT 1; SELECT 2; COPY t FROM STDIN;\n1\n\\.\nSELECT 3; SELECT 4;")
    assert [len(part) for part in file.parts] == [2, 1, 2]


@pytest.mark.parametrize(
    "statement",
    [
        "BEGIN",
        "begin transaction",
        "START TRANSACTION",
        "COMMIT",
        "END",
        "ROLLBACK",
        "rollback work",
        "ABORT",
        "PREPARE TRANSACTION 'x'",
        "COMMIT PREPARED 'x'",
    ],
)
def test_a_statement_that_controls_the_transaction_is_refused_with_its_line(statement: str) -> None:
    with pytest.raises(SeedError, match="controls the transaction in line 3") as raised:
        read_statements(f"SELECT 1;\n/* first */\n{statement};", "seed.sql")
    assert raised.value.code == "seed-transaction"


@pytest.mark.parametrize(
    "text",
    [
        "SAVEPOINT a; ROLLBACK TO a",
        "SAVEPOINT a; ROLLBACK TRANSACTION TO SAVEPOINT a",
        "PREPARE begin AS SELECT 1; EXECUTE begin",
        "SELECT 'BEGIN;'; SELECT \"commit\" FROM t",
    ],
)
def test_statements_that_do_not_end_the_transaction_are_accepted(text: str) -> None:
    assert len(texts(text)) == 2


@pytest.mark.parametrize("command", ["\\connect other", "\\i file.sql", "SELECT 1 \\gexec", "\\."])
def test_a_psql_command_is_refused_with_its_line(command: str) -> None:
    with pytest.raises(SeedError, match="psql command in line 2") as raised:
        read_statements(f"SELECT 1;\n{command}\n", "seed.sql")
    assert raised.value.code == "seed-psql-command"


def test_a_plain_file_is_sent_whole_and_split_only_for_errors() -> None:
    file = read_statements("SELECT 1;\nSELECT 2;\n", "seed.sql")
    ((whole,),) = file.parts
    assert file.text[whole.start : whole.end].startswith("SELECT 1;\nSELECT 2;\n")
    assert [file.line_of(one.start) for one in file.singly((whole,))][:2] == [1, 2]
