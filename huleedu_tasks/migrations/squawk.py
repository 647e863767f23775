"""What squawk, a linter of PostgreSQL's migrations, finds in the SQL of revisions; if it is there.

What is judged here by the tables as they are now (`hazards.py`) is not asked of it again.
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
# Each session has both timeouts, a revision is a transaction that can be run again, and what
# ends and begins one in its middle is Alembic's autocommit_block().
DONE_HERE = (
    "ban-uncommitted-transaction",
    "prefer-robust-stmts",
    "require-lock-timeout",
    "require-statement-timeout",
    "transaction-nesting",
)
NOT_SQL = "syntax-error"


def find_squawk() -> str:
    """Return where squawk is: beside this interpreter, or in PATH; an empty text if it is not."""
    beside = Path(sys.executable).with_name(PROGRAM)
    return str(beside) if beside.is_file() else shutil.which(PROGRAM) or ""


async def lint(
    program: str, sql: Mapping[str, str], *, root: Path, environment: Mapping[str, str]
) -> dict[str, tuple[Problem, ...]]:
    """Return what squawk finds, by revision.

    All is given to it as one text, in which what an earlier revision makes is known.

    Args:
        sql: The SQL of each revision, in order.
        root: The directory it runs in; a `.squawk.toml` there counts.
    """
    while True:
        findings = await _run(program, sql, root=root, environment=environment)
        # What cannot be read hides all that stands behind it.
        unread = {revision for revision, each in findings if each["rule_name"] == NOT_SQL}
        if not unread:
            break
        sql = {revision: text for revision, text in sql.items() if revision not in unread}
    found: dict[str, list[Problem]] = {}
    for revision, each in findings:
        if each["rule_name"] not in (*JUDGED_HERE, *DONE_HERE):
            found.setdefault(revision, []).append(_problem(each))
    return {revision: tuple(dict.fromkeys(problems)) for revision, problems in found.items()}


async def _run(
    program: str, sql: Mapping[str, str], *, root: Path, environment: Mapping[str, str]
) -> list[tuple[str, Lint]]:
    """Return what squawk says, each with the revision it is about."""
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
    return [(revisions[bisect_right(beginnings, int(each["line"])) - 1], each) for each in findings]


def _problem(finding: Lint) -> Problem:
    cause = f"{finding['message'].rstrip('.')} (squawk: {finding['rule_name']})"
    return Problem(level=Level.WARNING, cause=cause, remedy=finding["help"] or "")


def _failed(output: str) -> Lint:
    first = next((line for line in output.splitlines() if line.strip()), "it printed nothing")
    return {
        "rule_name": "could not be asked",
        "message": first.strip(),
        "help": "See .squawk.toml, or run squawk by hand.",
    }


def _parsed(output: str) -> list[Lint] | None:
    """Return squawk's findings; None where it prints no list of them."""
    try:
        findings: list[Lint] = json.loads(output[output.index("[") : output.rindex("]") + 1])
    except ValueError:
        return None
    return findings
