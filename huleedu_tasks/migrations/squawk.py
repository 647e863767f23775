"""Runs squawk, a linter of PostgreSQL migrations, on the SQL of revisions, if it is installed.

Rules that `hazards.py` checks against the current tables are ignored.
"""

import json
import shutil
import sys
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from huleedu_tasks import process
from huleedu_tasks.migrations.hazard_rules import SQUAWK_PREFIX
from huleedu_tasks.migrations.hazards import is_in_use, statements_of, without_comments
from huleedu_tasks.postgres.inspection import Relation
from huleedu_tasks.report import Kind, Level, Problem

PROGRAM = "squawk"
TIMEOUT = 60.0

Lint = dict[str, str]
JUDGED_HERE = (
    "adding-field-with-default",
    "adding-foreign-key-constraint",
    "adding-not-nullable-field",
    "adding-required-field",
    "ban-drop-column",
    "ban-drop-table",
    "changing-column-type",
    "constraint-missing-not-valid",
    "disallowed-unique-constraint",
    "renaming-column",
    "renaming-table",
    "require-concurrent-index-creation",
)
# The runner sets both timeouts in each session, a revision is a transaction that can be repeated,
# and only Alembic's autocommit_block() ends and begins a transaction inside a revision.
DONE_HERE = (
    "ban-uncommitted-transaction",
    "prefer-robust-stmts",
    "require-lock-timeout",
    "require-statement-timeout",
    "transaction-nesting",
)
NOT_SQL = "syntax-error"
# The kinds of the other rules; those of the style are not listed.
KINDS = {
    "adding-primary-key-constraint": Kind.LOCKS,
    "ban-alter-domain-with-add-constraint": Kind.LOCKS,
    "ban-concurrent-index-creation-in-transaction": Kind.OTHER,
    "ban-drop-database": Kind.DESTROYS,
    "ban-truncate-cascade": Kind.DESTROYS,
    "require-concurrent-index-deletion": Kind.LOCKS,
    "require-concurrent-partition-detach": Kind.LOCKS,
    "require-concurrent-refresh-materialized-view": Kind.LOCKS,
    "require-concurrent-reindex": Kind.LOCKS,
    NOT_SQL: Kind.OTHER,
    "failed": Kind.OTHER,
}


def find_squawk() -> str:
    """Return the path of squawk, beside this interpreter or in PATH; empty if it is not found."""
    beside = Path(sys.executable).with_name(PROGRAM)
    return str(beside) if beside.is_file() else shutil.which(PROGRAM) or ""


async def lint(
    program: str, sql: Mapping[str, str], *, root: Path, environment: Mapping[str, str]
) -> dict[str, tuple[Problem, ...]]:
    """Return the findings of squawk, by revision.

    The SQL of all revisions is one input, so that squawk knows tables of earlier revisions.

    Args:
        program: The path of squawk.
        sql: The SQL of each revision, in order.
        root: The working directory, whose `.squawk.toml` is read.
        environment: The environment of the process.
    """
    while True:
        findings = await _run(program, sql, root=root, environment=environment)
        # A syntax error hides all findings behind it.
        invalid = {revision for revision, finding in findings if finding["rule_name"] == NOT_SQL}
        if not invalid:
            break
        sql = {revision: text for revision, text in sql.items() if revision not in invalid}
    found: dict[str, list[Problem]] = {}
    for revision, finding in findings:
        if finding["rule_name"] not in (*JUDGED_HERE, *DONE_HERE):
            found.setdefault(revision, []).append(_problem(finding))
    return {revision: tuple(dict.fromkeys(problems)) for revision, problems in found.items()}


def judge_findings(
    findings: Iterable[Problem], relations: Mapping[str, Relation]
) -> Iterator[Problem]:
    """Yield the findings that matter with the current tables, as `find_hazards` does.

    On a table that is empty or new, a lock is no danger, and style is information only.

    Args:
        findings: The findings of `lint` in one revision.
        relations: The current relations of the database, by `schema.name` and by `name`.
    """
    for finding in findings:
        depends = finding.kind in (Kind.LOCKS, Kind.STYLE)
        if not depends or is_in_use(finding.statement, relations):
            yield finding
        elif finding.kind is Kind.STYLE:
            yield replace(finding, level=Level.INFO)


async def _run(
    program: str, sql: Mapping[str, str], *, root: Path, environment: Mapping[str, str]
) -> list[tuple[str, Lint]]:
    """Return the findings of squawk, each with its revision."""
    revisions, beginnings, text = list(sql), [], ""
    for statements in sql.values():
        beginnings.append(text.count("\n"))
        text += f"{statements.rstrip()}\n"
    with process.scratch_directory() as directory:
        file = directory / "revisions.sql"
        file.write_text(text, encoding="utf-8")
        try:
            done = await process.run(
                [program, "--reporter=json", "--assume-in-transaction", file],
                cwd=root,
                environment=environment,
                timeout=TIMEOUT,
            )
            output = done.output
        except OSError as error:
            output = str(error)
    findings = _parse(output)
    if findings is None:
        return [(revisions[0], _failed(output))]
    placed = list(_positions(text))
    return [
        (
            revisions[bisect_right(beginnings, int(finding["line"])) - 1],
            finding | {"statement": _statement_at(finding, placed)},
        )
        for finding in findings
    ]


def _positions(sql: str) -> Iterator[tuple[tuple[int, int], str]]:
    """Yield each statement with the line and the column of its end, from 0."""
    end = 0
    for statement in statements_of(sql):
        end += len(statement) + 1
        line = sql.count("\n", 0, end)
        yield (line, end - (sql.rfind("\n", 0, end) + 1)), without_comments(statement)


def _statement_at(finding: Lint, statements: list[tuple[tuple[int, int], str]]) -> str:
    place = int(finding["line"]), int(finding["column"])
    return next((statement for end, statement in statements if place < end), "")


def _problem(finding: Lint) -> Problem:
    return Problem(
        level=Level.WARNING,
        cause=finding["message"].rstrip("."),
        remedy=finding["help"] or "",
        code=f"{SQUAWK_PREFIX}{finding['rule_name']}",
        kind=KINDS.get(finding["rule_name"], Kind.STYLE),
        statement=finding["statement"],
    )


def _failed(output: str) -> Lint:
    first = next((line for line in output.splitlines() if line.strip()), "no output")
    return {
        "rule_name": "failed",
        "message": first.strip(),
        "help": "Correct .squawk.toml, or run squawk by hand.",
        "statement": "",
    }


def _parse(output: str) -> list[Lint] | None:
    """Return squawk's findings; None if it did not print a JSON list."""
    try:
        findings: list[Lint] = json.loads(output[output.index("[") : output.rindex("]") + 1])
    except ValueError:
        return None
    return findings
