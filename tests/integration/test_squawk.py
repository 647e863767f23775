"""Findings of the real squawk: by revision, without rules that `hazards.py` checks."""

import asyncio
import os
import re
from pathlib import Path

import pytest

from huleedu_tasks.migrations.hazards import find_hazards
from huleedu_tasks.migrations.squawk import find_squawk, judge_findings, lint
from huleedu_tasks.postgres.inspection import Relation
from huleedu_tasks.report import Kind, Level, Problem

CHAR = "ALTER TABLE note ADD COLUMN more char(3);"
TIMESTAMP = "ALTER TABLE note ADD COLUMN made timestamp;"
INTEGER = "CREATE TABLE memo (id integer PRIMARY KEY);"
CLEAN = "ALTER TABLE note ADD COLUMN body text;"
CHAR_FIELD = "ban-char-field"
TIMESTAMP_TZ = "prefer-timestamp-tz"
BIG_INTEGER = "prefer-bigint-over-int"
# SQL that Alembic renders for an `autocommit_block`.
CONCURRENT = "COMMIT;\n\nCREATE INDEX CONCURRENTLY by_text ON note (text);\n\nBEGIN;"
_RULE = re.compile(r"squawk-([\w-]+)")


def linted(root: Path, *sql: str) -> dict[str, tuple[Problem, ...]]:
    """Lint revisions named `1`, `2` and so on."""
    revisions = {str(number): text for number, text in enumerate(sql, start=1)}
    program = find_squawk()
    assert program
    return asyncio.run(lint(program, revisions, root=root, environment=dict(os.environ)))


def rules(root: Path, *sql: str) -> dict[str, list[str]]:
    """Return the names of the violated rules, by revision."""
    return {
        revision: [found[1] for each in problems if (found := _RULE.fullmatch(each.code))]
        for revision, problems in linted(root, *sql).items()
    }


def test_a_finding_has_a_cause_with_its_rule_and_a_remedy(tmp_path: Path) -> None:
    (problem,) = linted(tmp_path, TIMESTAMP)["1"]
    assert problem.level is Level.WARNING
    assert "drops the UTC offset" in problem.cause
    assert problem.code == f"squawk-{TIMESTAMP_TZ}"
    assert "timestamptz" in problem.remedy


def test_findings_are_reported_for_their_revisions(tmp_path: Path) -> None:
    found = rules(
        tmp_path,
        f"{CLEAN}\n\n{CLEAN}\n\n\n",
        CHAR,
        "",
        f"\n\n-- A word first.\n{TIMESTAMP}\n\n{CHAR}\n",
        CLEAN,
        "CREATE TABLE memo (\n    text text,\n    id integer\n);",
    )
    assert found == {"2": [CHAR_FIELD], "4": [TIMESTAMP_TZ, CHAR_FIELD], "6": [BIG_INTEGER]}


def test_a_duplicate_finding_of_a_revision_is_reported_once(tmp_path: Path) -> None:
    assert rules(tmp_path, f"{CHAR}\n{CHAR}", CHAR) == {"1": [CHAR_FIELD], "2": [CHAR_FIELD]}


@pytest.mark.parametrize("sql", [[], [""], ["", "\n"], ["-- nothing"]])
def test_empty_sql_has_no_findings(tmp_path: Path, sql: list[str]) -> None:
    assert linted(tmp_path, *sql) == {}


@pytest.mark.parametrize(
    "sql",
    [
        "DROP TABLE note;",
        "ALTER TABLE note DROP COLUMN text;",
        "ALTER TABLE note RENAME TO memo;",
        "ALTER TABLE note RENAME COLUMN text TO body;",
        "ALTER TABLE note ALTER COLUMN text TYPE bigint;",
        "ALTER TABLE note ALTER COLUMN text SET NOT NULL;",
        "ALTER TABLE note ADD COLUMN more text NOT NULL;",
        "ALTER TABLE note ADD COLUMN more text UNIQUE;",
        "ALTER TABLE note ADD COLUMN more uuid DEFAULT gen_random_uuid();",
        "ALTER TABLE note ADD CONSTRAINT known CHECK (id > 0);",
        "ALTER TABLE note ADD CHECK (id > 0);",
        "ALTER TABLE note ADD CONSTRAINT known FOREIGN KEY (id) REFERENCES memo (id);",
        "ALTER TABLE note ADD CONSTRAINT once UNIQUE (text);",
        "CREATE INDEX by_text ON note (text);",
    ],
)
def test_rules_that_hazards_check_are_ignored(tmp_path: Path, sql: str) -> None:
    assert linted(tmp_path, sql) == {}
    assert find_hazards(sql, {"note": Relation(name="note", rows=9, size=8192)})


def test_the_recommended_statements_have_no_findings(tmp_path: Path) -> None:
    assert rules(tmp_path, CONCURRENT, CHAR) == {"2": [CHAR_FIELD]}


def test_an_index_built_concurrently_within_a_transaction_is_found(tmp_path: Path) -> None:
    found = rules(tmp_path, CLEAN, "CREATE INDEX CONCURRENTLY by_text ON note (text);")
    assert found == {"2": ["ban-concurrent-index-creation-in-transaction"]}


# A `.squawk.toml` in the root.


def test_rules_that_the_root_excludes_are_not_reported(tmp_path: Path) -> None:
    (tmp_path / ".squawk.toml").write_text(f'excluded_rules = ["{CHAR_FIELD}"]\n')
    assert rules(tmp_path, CHAR, f"{INTEGER}\n{CHAR}") == {"2": [BIG_INTEGER]}


def test_rules_that_the_root_includes_are_reported(tmp_path: Path) -> None:
    (tmp_path / ".squawk.toml").write_text('included_rules = ["require-table-schema"]\n')
    assert rules(tmp_path, CLEAN) == {"1": ["require-table-schema"]}


def test_excluded_rules_of_the_root_do_not_enable_rules_that_hazards_check(
    tmp_path: Path,
) -> None:
    (tmp_path / ".squawk.toml").write_text(f'excluded_rules = ["{CHAR_FIELD}"]\n')
    assert linted(tmp_path, "DROP TABLE note;") == {}


# SQL that squawk cannot parse.


@pytest.mark.parametrize("sql", ["DROP TABLE (;", "HELLO WORLD;", "SELECT 'open;", "\x00"])
def test_sql_that_cannot_be_parsed_has_no_findings(tmp_path: Path, sql: str) -> None:
    assert linted(tmp_path, sql) == {}


def test_sql_that_cannot_be_parsed_does_not_hide_findings_of_other_revisions(
    tmp_path: Path,
) -> None:
    assert rules(tmp_path, CHAR, "DROP TABLE (;", TIMESTAMP) == {
        "1": [CHAR_FIELD],
        "3": [TIMESTAMP_TZ],
    }


def test_sql_may_contain_any_letters_and_brackets(tmp_path: Path) -> None:
    sql = 'ALTER TABLE "[note]" ADD COLUMN "å]" char(3); -- ["'
    assert rules(tmp_path, sql) == {"1": [CHAR_FIELD]}


def test_a_failure_of_squawk_is_reported_with_its_message(tmp_path: Path) -> None:
    program = tmp_path / "squawk"
    program.write_text("#!/bin/sh\necho 'no such option' >&2\nexit 2\n")
    program.chmod(0o755)
    found = asyncio.run(lint(str(program), {"1": CHAR}, root=tmp_path, environment={}))
    ((problem,),) = found.values()
    assert (problem.cause, problem.code) == ("no such option", "squawk-failed")


# Findings depend on the current tables.

FULL = {"note": Relation(name="note", rows=9, size=8192)}
EMPTY = {"note": Relation(name="note", rows=0, size=0)}
UNINDEXED = "DROP INDEX by_text;"
DETACHED = "ALTER TABLE note DETACH PARTITION part;"


def judged(root: Path, relations: dict[str, Relation], *sql: str) -> list[tuple[str, Level]]:
    """Return the statements and levels of the findings in the last revision."""
    found = linted(root, *sql).get(str(len(sql)), ())
    return [(p.statement, p.level) for p in judge_findings(found, relations)]


def test_a_finding_has_the_statement_that_it_is_in(tmp_path: Path) -> None:
    other = "SELECT 'a;b';"
    (problem,) = linted(tmp_path, other, f"{other}\n-- first\n\n{DETACHED}\n{other}")["2"]
    assert problem.statement == DETACHED.rstrip(";")
    assert problem.kind is Kind.LOCKS


def test_a_lock_on_an_empty_or_a_new_table_is_no_finding(tmp_path: Path) -> None:
    assert judged(tmp_path, FULL, DETACHED) == [(DETACHED.rstrip(";"), Level.WARNING)]
    assert judged(tmp_path, EMPTY, DETACHED) == []
    assert judged(tmp_path, {}, "CREATE TABLE note (id bigint);", DETACHED) == []


def test_style_on_an_empty_or_a_new_table_is_information(tmp_path: Path) -> None:
    created = "CREATE TABLE memo (id integer);"
    assert [level for _, level in judged(tmp_path, FULL, CHAR)] == [Level.WARNING]
    assert [level for _, level in judged(tmp_path, EMPTY, CHAR)] == [Level.INFO]
    assert [level for _, level in judged(tmp_path, FULL, created)] == [Level.INFO]


def test_an_index_that_is_in_the_database_is_in_use(tmp_path: Path) -> None:
    index = Relation(name="by_text", rows=None, size=8192)
    assert judged(tmp_path, EMPTY, UNINDEXED) == []
    assert judged(tmp_path, {"by_text": index}, UNINDEXED) == [
        (UNINDEXED.rstrip(";"), Level.WARNING)
    ]


def test_a_statement_that_fails_on_any_table_is_kept(tmp_path: Path) -> None:
    sql = "CREATE INDEX CONCURRENTLY by_text ON note (text);"
    assert judged(tmp_path, EMPTY, CLEAN, sql) == [(sql.rstrip(";"), Level.WARNING)]
