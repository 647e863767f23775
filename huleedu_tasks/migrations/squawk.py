"""Runs squawk, a linter of PostgreSQL migrations, on the SQL of revisions, if it is installed.

Rules that `hazards.py` checks against the current tables are ignored.
"""

import json
import shutil
import sys
from bisect import bisect_right
from collections.abc import Mapping
from pathlib import Path

from huleedu_tasks import process
from huleedu_tasks.report import Level, Problem

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
    findings = _parsed(output)
    if findings is None:
        return [(revisions[0], _failed(output))]
    return [
        (revisions[bisect_right(beginnings, int(finding["line"])) - 1], finding)
        for finding in findings
    ]


def _problem(finding: Lint) -> Problem:
    cause = f"{finding['message'].rstrip('.')} (squawk: {finding['rule_name']})"
    return Problem(level=Level.WARNING, cause=cause, remedy=finding["help"] or "")


def _failed(output: str) -> Lint:
    first = next((line for line in output.splitlines() if line.strip()), "no output")
    return {
        "rule_name": "failed",
        "message": first.strip(),
        "help": "Correct .squawk.toml, or run squawk by hand.",
    }


def _parsed(output: str) -> list[Lint] | None:
    """Return squawk's findings; None if it did not print a JSON list."""
    try:
        findings: list[Lint] = json.loads(output[output.index("[") : output.rindex("]") + 1])
    except ValueError:
        return None
    return findings
