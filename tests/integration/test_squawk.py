"""What squawk finds, the program itself asked: at its revision, and nothing that is judged here."""

import asyncio
import os
import re
from pathlib import Path

import pytest

from huleedu_tasks.migrations.hazards import find_hazards
from huleedu_tasks.migrations.squawk import find_squawk, lint
from huleedu_tasks.postgres.inspection import Relation
from huleedu_tasks.report import Level, Problem

CHAR = "ALTER TABLE note ADD COLUMN more char(3);"
TIMESTAMP = "ALTER TABLE note ADD COLUMN made timestamp;"
INTEGER = "CREATE TABLE memo (id integer PRIMARY KEY);"
CLEAN = "ALTER TABLE note ADD COLUMN body text;"
CHAR_FIELD = "ban-char-field"
TIMESTAMP_TZ = "prefer-timestamp-tz"
BIG_INTEGER = "prefer-bigint-over-int"
# As Alembic renders an `autocommit_block`.
CONCURRENT = "COMMIT;\n\nCREATE INDEX CONCURRENTLY by_text ON note (text);\n\nBEGIN;"
_RULE = re.compile(r"\(squawk: ([\w-]+)\)$")


def linted(root: Path, *sql: str) -> dict[str, tuple[Problem, ...]]:
    """Lint revisions named `1`, `2` and so on."""
    revisions = {str(number): text for number, text in enumerate(sql, start=1)}
    program = find_squawk()
    assert program
    return asyncio.run(lint(program, revisions, root=root, environment=dict(os.environ)))


def rules(root: Path, *sql: str) -> dict[str, list[str]]:
    """Return the names of the rules that were broken, by revision."""
    return {
        revision: [found[1] for each in problems if (found := _RULE.search(each.cause))]
        for revision, problems in linted(root, *sql).items()
    }


def test_a_finding_has_a_cause_with_its_rule_and_a_remedy(tmp_path: Path) -> None:
    (problem,) = linted(tmp_path, TIMESTAMP)["1"]
    assert problem.level is Level.WARNING
    assert "drops the UTC offset" in problem.cause
    assert problem.cause.endswith(f"(squawk: {TIMESTAMP_TZ})")
    assert "timestamptz" in problem.remedy


def test_findings_land_on_the_revisions_they_are_about(tmp_path: Path) -> None:
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


def test_what_is_found_twice_in_a_revision_is_said_once(tmp_path: Path) -> None:
    assert rules(tmp_path, f"{CHAR}\n{CHAR}", CHAR) == {"1": [CHAR_FIELD], "2": [CHAR_FIELD]}


@pytest.mark.parametrize("sql", [[], [""], ["", "\n"], ["-- nothing"]])
def test_where_there_is_nothing_to_read_nothing_is_found(tmp_path: Path, sql: list[str]) -> None:
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
def test_what_is_judged_by_the_tables_is_not_repeated(tmp_path: Path, sql: str) -> None:
    assert linted(tmp_path, sql) == {}
    assert find_hazards(sql, {"note": Relation(name="note", rows=9, size=8192)})


def test_the_way_that_is_recommended_is_not_found_fault_with(tmp_path: Path) -> None:
    assert rules(tmp_path, CONCURRENT, CHAR) == {"2": [CHAR_FIELD]}


def test_an_index_built_concurrently_within_a_transaction_is_found(tmp_path: Path) -> None:
    found = rules(tmp_path, CLEAN, "CREATE INDEX CONCURRENTLY by_text ON note (text);")
    assert found == {"2": ["ban-concurrent-index-creation-in-transaction"]}


# A `.squawk.toml` in the root.


def test_rules_that_are_excluded_in_the_root_are_left_out(tmp_path: Path) -> None:
    (tmp_path / ".squawk.toml").write_text(f'excluded_rules = ["{CHAR_FIELD}"]\n')
    assert rules(tmp_path, CHAR, f"{INTEGER}\n{CHAR}") == {"2": [BIG_INTEGER]}


def test_rules_that_are_included_in_the_root_are_asked_about(tmp_path: Path) -> None:
    (tmp_path / ".squawk.toml").write_text('included_rules = ["require-table-schema"]\n')
    assert rules(tmp_path, CLEAN) == {"1": ["require-table-schema"]}


def test_what_is_excluded_in_the_root_brings_nothing_back_that_is_judged_here(
    tmp_path: Path,
) -> None:
    (tmp_path / ".squawk.toml").write_text(f'excluded_rules = ["{CHAR_FIELD}"]\n')
    assert linted(tmp_path, "DROP TABLE note;") == {}


# What it cannot read.


@pytest.mark.parametrize("sql", ["DROP TABLE (;", "HELLO WORLD;", "SELECT 'open;", "\x00"])
def test_text_it_cannot_parse_gives_nothing(tmp_path: Path, sql: str) -> None:
    assert linted(tmp_path, sql) == {}


def test_text_it_cannot_parse_does_not_hide_what_is_found_in_other_revisions(
    tmp_path: Path,
) -> None:
    assert rules(tmp_path, CHAR, "DROP TABLE (;", TIMESTAMP) == {
        "1": [CHAR_FIELD],
        "3": [TIMESTAMP_TZ],
    }


def test_any_letters_and_brackets_in_the_sql_come_through(tmp_path: Path) -> None:
    sql = 'ALTER TABLE "[note]" ADD COLUMN "å]" char(3); -- ["'
    assert rules(tmp_path, sql) == {"1": [CHAR_FIELD]}


def test_a_program_that_fails_is_told_in_its_own_words(tmp_path: Path) -> None:
    program = tmp_path / "squawk"
    program.write_text("#!/bin/sh\necho 'no such option' >&2\nexit 2\n")
    program.chmod(0o755)
    found = asyncio.run(lint(str(program), {"1": CHAR}, root=tmp_path, environment={}))
    ((problem,),) = found.values()
    assert problem.cause == "no such option (squawk: failed)"
