"""The databases of staging and production."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from huleedu_tasks.cli.command import command
from huleedu_tasks.cli.command_line import whole_number

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from huleedu_tasks.cli.command_run import Command
    from huleedu_tasks.prod.drift_check import DriftCheck
    from huleedu_tasks.prod.production import Production
    from huleedu_tasks.report import Report, Result

Names = Sequence[str] | None
# How many earlier runs a page shows.
PAST_RUNS = 10
NO_DRIFT = "Do not compare the schemas with those of the revisions."
NO_REHEARSAL = "Do not run the revisions on a copy of the schema."
ACCEPT_DRIFT = "Object whose drift is accepted, as `prod.drift` names it; may be repeated."


@command(
    offline="Check configuration and files only; open no connection.",
    no_drift=NO_DRIFT,
)
def validate(
    app: Command,
    service: Names = None,
    offline: bool = False,
    no_drift: bool = False,
    format: str = "",
    out: Names = None,
    json: bool = False,
) -> Result:
    """Find every problem before a migration; read-only."""
    from huleedu_tasks.cli.prod_migrate import drift_check
    from huleedu_tasks.prod.validate import validate as find_problems

    check = drift_check(app, no_drift=no_drift or offline)
    return _run(app, service, lambda flows: find_problems(flows, offline=offline), check)


@command(check="Exit with 4 if a database is not at head.")
def status(
    app: Command,
    service: Names = None,
    check: bool = False,
    format: str = "",
    out: Names = None,
    json: bool = False,
) -> Result:
    """Show which revision each database is at; read-only."""
    from huleedu_tasks.prod.status import status as read_status

    report = _run(app, service, lambda production: read_status(production, check=check))
    return _with_past_runs(app, report)


@command(check="Exit with 4 if a schema has drifted.")
def drift(
    app: Command,
    service: Names = None,
    check: bool = False,
    format: str = "",
    out: Names = None,
    json: bool = False,
) -> Result:
    """Compare each schema with that of its revisions."""
    from huleedu_tasks.prod.drift import drift as find_drift

    return _run(app, service, lambda flows: find_drift(flows, app.replays, check=check))


@command(
    out="Write the plan to FILE or a page with it to FILE.html, for `prod.migrate --plan`, or "
    "another form to FORM:FILE; may be repeated.",
    sql="Show the SQL of each revision as well; --json and --out always have it.",
    accept_drift=ACCEPT_DRIFT,
    no_drift=NO_DRIFT,
    no_rehearsal=NO_REHEARSAL,
)
def plan(
    app: Command,
    service: Names = None,
    sql: bool = False,
    accept_drift: Names = None,
    no_drift: bool = False,
    no_rehearsal: bool = False,
    format: str = "",
    out: Names = None,
    json: bool = False,
) -> Result:
    """Show what would run, lock and destroy; read-only."""
    from huleedu_tasks.cli.prod_migrate import drift_check
    from huleedu_tasks.prod.plan import plan as make_plan

    outputs = app.screen.outputs
    check = drift_check(app, no_drift=no_drift, accepted=accept_drift)
    report = _run(
        app,
        service,
        lambda flows: make_plan(
            flows, out=outputs.plans, pages=outputs.pages if outputs.has_page else None, sql=sql
        ),
        check,
        rehearses=not no_rehearsal,
    )
    return _with_past_runs(app, report)


@command(
    plan="Carry out exactly this file of `prod.plan --out`, or nothing.",
    first="Migrate this service before the others, which wait for it; may be repeated.",
    keep_going="Migrate the other services after one has failed.",
    yes="Do not ask for confirmation; requires --host.",
    host="Host whose databases may be changed, for --yes; may be repeated.",
    backup_command="Run this before the first change; it must succeed.",
    backup_dir="Dump each database to this directory before the first change.",
    report="Write the record of the run to this file as well.",
    accept_drift=ACCEPT_DRIFT,
    no_drift=NO_DRIFT,
    no_rehearsal=NO_REHEARSAL,
)
def migrate(
    app: Command,
    service: Names = None,
    plan: str = "",
    first: Names = None,
    keep_going: bool = False,
    yes: bool = False,
    host: Names = None,
    backup_command: str = "",
    backup_dir: str = "",
    report: str = "",
    accept_drift: Names = None,
    no_drift: bool = False,
    no_rehearsal: bool = False,
    format: str = "",
    out: Names = None,
    json: bool = False,
    dry_run: bool = False,
) -> Result:
    """Migrate after a plan, a typed confirmation and a lock."""
    from huleedu_tasks.cli.prod_migrate import Options, run_release

    options = Options(
        services=service,
        plan=plan,
        first=first,
        keep_going=keep_going,
        hosts=tuple(host or ()),
        yes=yes,
        backup_command=backup_command,
        backup_directory=backup_dir,
        report=report,
        accepted_drift=accept_drift,
        no_drift=no_drift,
        no_rehearsal=no_rehearsal,
    )
    return run_release(app, options)


@command(
    last="How many runs to show, the latest first.",
    run="Show every event of this run.",
    format="Print json or html.",
    out="Write the listing to FILE.json, or a page to FILE.html, as well; may be repeated.",
)
def history(
    app: Command,
    last: str = "20",
    run: str = "",
    format: str = "",
    out: Names = None,
    json: bool = False,
) -> Result:
    """Show past runs of prod.migrate and their outcomes."""
    from huleedu_tasks.prod.history import events_of, list_of, with_page
    from huleedu_tasks.prod.journal import read_runs

    runs = read_runs(app.state)
    if run:
        return with_page(events_of(runs, run), runs, run)
    latest = runs[: whole_number("--last", last, at_least=1)]
    return with_page(list_of(latest), latest, "")


def _with_past_runs(app: Command, report: Report) -> Report:
    """Return a report with the latest runs, which only a page shows."""
    from huleedu_tasks.prod.history import past_runs
    from huleedu_tasks.prod.journal import read_runs

    if not app.screen.outputs.has_page:
        return report
    return replace(report, past=past_runs(read_runs(app.state)[:PAST_RUNS]))


def _run(
    app: Command,
    names: Names,
    work: Callable[[Production], Coroutine[Any, Any, Report]],
    check: DriftCheck | None = None,
    *,
    rehearses: bool = False,
) -> Report:
    from huleedu_tasks.cli.prod_migrate import production, progress

    services = app.services(names)
    with progress(app, services) as shown:
        return app.run(work(production(app, services, shown, check, rehearses=rehearses)))
