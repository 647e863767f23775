"""The databases of staging and production."""

import contextlib
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

from huleedu_tasks.backups import Dumper
from huleedu_tasks.cli.command import Command, command, whole_number
from huleedu_tasks.config.registry import Service
from huleedu_tasks.errors import ConfigurationError, ExitCode, HuleEduError, Refused
from huleedu_tasks.flows.planning import Pin, read_plan
from huleedu_tasks.flows.production import Production
from huleedu_tasks.flows.release import COMMAND, Backups, Prepared, Release
from huleedu_tasks.guard import require_external_environment
from huleedu_tasks.journal import Record, Run, new_record, read_runs
from huleedu_tasks.report import Fact, Listing, Progress, Report, Result
from huleedu_tasks.screen import prompts
from huleedu_tasks.servers.binaries import find_program

Names = Sequence[str] | None


@command(offline="Look at configuration and files only; connect to nothing.")
def validate(
    app: Command, service: Names = None, offline: bool = False, json: bool = False
) -> Result:
    """Find every problem before it hurts; read-only."""
    return _run(app, service, lambda flows: flows.validate(offline=offline))


@command(check="Exit with 4 if a database is not at head.")
def status(app: Command, service: Names = None, check: bool = False, json: bool = False) -> Result:
    """Show which revision each database is at; read-only."""
    return _run(app, service, lambda flows: flows.status(check=check))


@command(out="Write the plan to this file, for `prod.migrate --plan`.")
def plan(app: Command, service: Names = None, out: str = "", json: bool = False) -> Result:
    """Show what would run, as revisions and SQL; read-only."""
    path = app.start / out if out else None
    return _run(app, service, lambda flows: flows.plan(out=path))


@command(
    plan="Do exactly what this file of `prod.plan --out` says, or nothing.",
    first="Migrate this service before the others, which wait for it; may be repeated.",
    keep_going="Migrate the other services although one has failed.",
    yes="Ask nobody; needs --host.",
    host="Host whose databases may be changed, for --yes; may be repeated.",
    backup_command="Run this before the first change; it must succeed.",
    backup_dir="Dump each database to this folder before the first change.",
    report="Write the record of the run to this file as well.",
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
    json: bool = False,
    dry_run: bool = False,
) -> Result:
    """Migrate after a plan, a typed confirmation and a lock."""
    settings = app.unchecked_settings
    require_external_environment(settings, COMMAND)
    hosts = tuple(host or ())
    if hosts and not yes:
        raise ConfigurationError(
            "--host goes with --yes.", hint="On a terminal leave both out, and type the host."
        )
    with _recorded(app, report) as record:
        pins = read_plan(app.start / plan, environment=settings.environment) if plan else None
        services = _chosen(app, service, pins)
        first_services = app.services(first) if first else ()
        with _progress(app, services) as progress:
            release = Release(
                production=_production(app, services, progress),
                record=record,
                first=_among(services, first_services),
                keep_going=keep_going,
                backups=_backups(app, backup_command, backup_dir),
                pins=pins,
                notify=app.screen.say,
            )
            prepared = app.run(release.prepare())
        if prepared.report.exit_code is not ExitCode.DONE:
            return _ended(app, record, prepared.report)
        if not prepared.changing:
            return _ended(app, record, release.nothing_to_do(prepared))
        if app.dry_run:
            return _ended(app, record, release.would(prepared))
        app.screen.preview(prepared.report)
        _confirm(app, prepared, hosts if yes else None, record)
        with _progress(app, services) as progress:
            done = app.run(release.with_progress(progress).carry_out(prepared))
        return _ended(app, record, done)


@command(
    last="How many runs to show, the latest first.",
    run="Show everything that is written down of this run.",
)
def history(app: Command, last: str = "20", run: str = "", json: bool = False) -> Result:
    """Show past runs of prod.migrate: who, when, and what came of it."""
    runs = read_runs(app.state)
    if run:
        return _events_of(runs, run)
    shown = runs[: whole_number("--last", last, at_least=1)]
    columns = ("run", "environment", "outcome", "who", "commit", "migrated", "detail")
    return Listing(
        command="prod.history", key="runs", columns=columns, rows=tuple(map(_row, shown))
    )


def _run(
    app: Command, names: Names, flow: Callable[[Production], Coroutine[Any, Any, Report]]
) -> Report:
    services = app.services(names)
    with _progress(app, services) as progress:
        return app.run(flow(_production(app, services, progress)))


def _progress(
    app: Command, services: Sequence[Service]
) -> contextlib.AbstractContextManager[Progress]:
    return app.screen.progress([service.name for service in services])


def _production(app: Command, services: tuple[Service, ...], progress: Progress) -> Production:
    return Production(
        settings=app.unchecked_settings,
        services=services,
        root=app.registry.root,
        progress=progress,
    )


# prod.migrate


def _chosen(app: Command, names: Names, pins: tuple[Pin, ...] | None) -> tuple[Service, ...]:
    if pins is None:
        return app.services(names)
    if names:
        raise ConfigurationError(
            "--plan says which services are migrated; --service does not go with it.",
            hint="Make a plan of fewer: `invoke prod.plan --service NAME --out FILE`.",
        )
    if not pins:
        raise ConfigurationError(
            "The plan holds no service: nothing was pending when it was made.",
            hint="There is nothing to do, or make a new one with `invoke prod.plan --out FILE`.",
        )
    return app.services([pin.service for pin in pins])


def _among(services: Sequence[Service], first: Sequence[Service]) -> tuple[str, ...]:
    others = [each.name for each in first if each not in services]
    if others:
        raise ConfigurationError(
            f"--first names {', '.join(others)}, which is not among the services of this run.",
            hint="Name it with --service as well, or leave --first out.",
        )
    return tuple(each.name for each in first)


def _backups(app: Command, command: str, folder: str) -> Backups:
    if not folder:
        return Backups(command=command)
    programs = {name: find_program(name) for name in ("pg_dump", "pg_restore")}
    missing = [name for name, path in programs.items() if not path]
    if missing:
        raise ConfigurationError(
            f"--backup-dir needs {' and '.join(missing)}, and this machine has none.",
            hint="Install PostgreSQL's client of the server's version, or use --backup-command.",
        )
    path = app.start / folder
    if not path.is_dir():
        raise ConfigurationError(
            f"--backup-dir {path} is no folder.", hint="Create it, readable by you only."
        )
    return Backups(command=command, folder=path, dumper=Dumper(**programs))


def _confirm(app: Command, prepared: Prepared, hosts: Names, record: Record) -> None:
    """Have a person type each host, or see that the arguments name them all.

    Raises:
        Refused: If not.
    """
    wanted = prepared.hosts
    flags = "--yes " + " ".join(f"--host {name}" for name in wanted)
    if hosts is not None:
        _require_hosts(hosts, wanted, flags)
    elif not prompts.has_person():
        raise Refused(
            "Nobody can be asked here, and nothing was changed.",
            hint=f"Without a terminal, pass `{flags}`.",
        )
    else:
        for name in wanted:
            prompts.type_name(name, why=prepared.question(name), flag=flags)
    record.add("confirmed", by="arguments" if hosts is not None else "person", hosts=wanted)


def _require_hosts(hosts: Sequence[str], wanted: Sequence[str], flags: str) -> None:
    given = {name.lower() for name in hosts}
    problems = [
        *(f"{name} would be changed, and is not named" for name in wanted if name not in given),
        *(f"{name} is named, and not to be changed" for name in given if name not in wanted),
    ]
    if problems:
        raise Refused(
            f"--yes needs the very hosts: {'; '.join(problems)}. Nothing was changed.",
            hint=f"If these are the ones you mean: `{flags}`.",
        )


@contextlib.contextmanager
def _recorded(app: Command, report: str) -> Iterator[Record]:
    """Record a run, however it ends."""
    with new_record(
        app.state,
        command=COMMAND,
        environment=str(app.unchecked_settings.environment),
        root=app.registry_path.parent,
        copy=app.start / report if report else None,
        redact=app.redact,
    ) as record:
        try:
            yield record
        except HuleEduError as error:
            findings = [str(finding) for finding in error.findings]
            record.end(error.exit_code, detail=error.message, findings=findings)
            raise
        except KeyboardInterrupt:
            record.end(app.exit_code or ExitCode.INTERRUPTED, detail="interrupted")
            raise
        except Exception as error:
            record.end(ExitCode.FAILED, detail=f"{type(error).__name__}: {error}")
            raise


def _ended(app: Command, record: Record, report: Report) -> Report:
    outcomes = {
        outcome.service: f"{outcome.status} {outcome.detail}" for outcome in report.outcomes
    }
    record.end(app.exit_code or report.exit_code, services=outcomes, dry_run=report.dry_run)
    return report


# prod.history


def _row(run: Run) -> dict[str, Fact]:
    began, last = run.began, run.events[-1]
    migrated = [event["service"] for event in run.of("migrated")]
    # What was begun and has no end shows what a killed run was doing.
    ended = {event["service"] for event in run.of("migrated", "not migrated")}
    open_ = [e["service"] for e in run.of("migrating") if e["service"] not in ended]
    failed = [f"{e['service']}: {e['detail']}" for e in run.of("not migrated")]
    detail = "; ".join([*failed, *(f"{name} was being migrated" for name in open_)])
    return {
        "run": began["run"],
        "environment": began["environment"],
        "outcome": run.outcome,
        "who": f"{began['user']}@{began['host']}",
        "commit": began["commit"],
        "migrated": migrated,
        "detail": detail or str(last.get("detail", "")),
        "began": began["time"],
        "ended": last["time"],
        "pid": began["pid"],
        "path": str(run.path),
    }


def _events_of(runs: Sequence[Run], name: str) -> Listing:
    found = [run for run in runs if run.began["run"].startswith(name)]
    if len(found) != 1:
        known = ", ".join(run.began["run"] for run in runs[:5]) or "none"
        raise ConfigurationError(
            f"{len(found) or 'No'} runs begin with {name!r}.", hint=f"The latest: {known}."
        )
    rows = tuple(_event_row(event) for event in found[0].events)
    return Listing(
        command="prod.history", key="events", columns=("time", "event", "facts"), rows=rows
    )


def _event_row(event: dict[str, Any]) -> dict[str, Fact]:
    facts = [f"{name}={value}" for name, value in event.items() if name not in ("time", "event")]
    return {"time": event["time"], "event": event["event"], "facts": facts}
