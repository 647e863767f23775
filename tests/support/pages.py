"""Reports for the tests of the page."""

from collections.abc import Sequence
from pathlib import Path

from huleedu_tasks.config.secret import Redactor, Secret
from huleedu_tasks.report import (
    Change,
    Difference,
    GraphRevision,
    Kind,
    Level,
    Outcome,
    PastRun,
    Place,
    PlannedRevision,
    Problem,
    Report,
)
from huleedu_tasks.screen.console import Screen
from huleedu_tasks.screen.formats.forms import Form, Outputs

PASSWORD = "hunter2-and-more"


def line_graph(count: int, current: int) -> tuple[GraphRevision, ...]:
    """Return a history without branches, whose database is at one of its revisions."""
    return tuple(
        GraphRevision(
            revision=f"r{number:03d}",
            message=f"Step {number}",
            parents=(f"r{number - 1:03d}",) if number else (),
            place=Place.APPLIED if number <= current else Place.PENDING,
            labels=(
                *(("database",) if number == current else ()),
                *(("head",) if number == count - 1 else ()),
            ),
        )
        for number in range(count)
    )


def plan_report(names: Sequence[str], *, text: str = "", history: int = 4) -> Report:
    """Return the report of a plan in which a string is everywhere that a string may be.

    Args:
        names: The names of the services.
        text: The string.
        history: How many revisions each service has.
    """
    danger = Problem(
        level=Level.WARNING,
        cause=f"drops the table note {text}",
        remedy=f"A safer approach is to:\n1. Stop reading it {text}.\n2. Run `DROP {text}` later.",
        code="drop-table",
        kind=Kind.DESTROYS,
        statement=f"DROP TABLE note -- {text}",
    )
    information = Problem(level=Level.INFO, cause=f"nothing to do {text}")
    revision = PlannedRevision(
        revision=f"r{history - 1:03d}",
        message=f"Drop {text}",
        path=f"services/{text}/b.py",
        sha256="0",
        sql=f"DROP TABLE note; -- {text}\nSELECT '{text}', \"{text}\", $a${text}$a$;",
        problems=(danger,),
    )
    drift = Difference(
        change=Change.DIFFERENT,
        label=f"column {text}",
        parts=(),
        diff=f"-{text}\n+{text}\n {text}",
        digest="0",
    )
    outcomes = tuple(
        Outcome(
            service=name,
            detail=text,
            hint=f"Run `{text}`.",
            output=text,
            facts={"from": text, "to": "r1", "pending": 1, "destroys": 1, "extra": text},
            problems=(information,),
            revisions=(revision,),
            differences=(drift,),
            graph=line_graph(history, history - 2),
        )
        for name in names
    )
    return Report(
        command="prod.plan",
        environment="production",
        provider="external",
        provider_reason=f"db.example.com:5432 {text}",
        outcomes=outcomes,
        columns=("from", "to", "pending", *Kind, "extra"),
        notes=(f"Next: run `invoke prod.migrate --plan {text}`.", text),
        plan={"schema_version": 1, "environment": "production", "services": [], "note": text},
        past=(
            PastRun(run=text, began=text, who=text, outcome="DONE", migrated=(text,), detail=text),
        ),
    )


def write_page(report: Report, path: Path) -> str:
    """Write the page of a report, and return its text."""
    screen = Screen(redact=Redactor([Secret(PASSWORD)]))
    screen.page_facts = lambda _: {"commit": report.provider_reason}
    screen.outputs = Outputs(files=((Form.HTML, path),))
    screen.write(report)
    return path.read_text(encoding="utf-8")
