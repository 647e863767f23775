"""What squawk, a linter of PostgreSQL's migrations, finds in the SQL of revisions; if it is there.

What is judged here by the tables as they are now (`hazards.py`) is not asked of it again.
"""

import json
import shutil
import sys
import tempfile
from bisect import bisect_right
from collections.abc import Mapping
from pathlib import Path

from huleedu_tasks import process
from huleedu_tasks.report import Level, Problem

PROGRAM = "squawk"
EXTRA = "squawk"
TIMEOUT = 60.0
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
# Each session has both timeouts, and a revision is a transaction that can be run again.
DONE_HERE = ("prefer-robust-stmts", "require-lock-timeout", "require-statement-timeout")


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
        root: The folder it runs in; a `.squawk.toml` there counts.
    """
    beginnings, text = [], ""
    for statements in sql.values():
        beginnings.append(text.count("\n"))
        text += f"{statements.rstrip()}\n"
    with tempfile.NamedTemporaryFile("w", suffix=".sql", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        done = await process.run(
            [
                program,
                "--reporter=json",
                "--assume-in-transaction",
                f"--exclude={','.join((*JUDGED_HERE, *DONE_HERE))}",
                file.name,
            ],
            cwd=root,
            environment=environment,
            timeout=TIMEOUT,
        )
    found: dict[str, list[Problem]] = {}
    revisions = list(sql)
    for each in _parsed(done.output):
        revision = revisions[bisect_right(beginnings, int(each["line"])) - 1]
        found.setdefault(revision, []).append(
            Problem(
                level=Level.WARNING,
                cause=f"{each['message'].rstrip('.')} (squawk: {each['rule_name']})",
                remedy=each["help"] or "",
            )
        )
    return {revision: tuple(dict.fromkeys(problems)) for revision, problems in found.items()}


def _parsed(output: str) -> list[dict[str, str]]:
    """Return squawk's findings; what is no list of them is none, as for a file it cannot parse."""
    try:
        findings: list[dict[str, str]] = json.loads(
            output[output.index("[") : output.rindex("]") + 1]
        )
    except ValueError:
        return []
    return findings
