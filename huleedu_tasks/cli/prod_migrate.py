"""A run of `prod.migrate` on the command line: arguments, confirmation and record."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from huleedu_tasks.cli.command_run import Command
from huleedu_tasks.config.registry import Service
from huleedu_tasks.errors import ConfigurationError, ExitCode, HuleEduError, Refused
from huleedu_tasks.guard import require_external_environment
from huleedu_tasks.migrations.alembic_history import AlembicHistories
from huleedu_tasks.postgres.binaries import find_program
from huleedu_tasks.prod.backup import Backups
from huleedu_tasks.prod.backup_dump import Dumper
from huleedu_tasks.prod.drift_check import DriftCheck
from huleedu_tasks.prod.journal import Record, new_record, unwritten_record
from huleedu_tasks.prod.migrate import COMMAND, Prepared, Release
from huleedu_tasks.prod.plan_file import PlanEntry, read_plan
from huleedu_tasks.prod.production import Production
from huleedu_tasks.report import Progress, Report
from huleedu_tasks.screen import prompts

PREVIEWED = "`invoke prod.plan --sql` shows the SQL."
UNWRITTEN = (
    "What to do: Free disk space there, and keep this output: it has what the record lacks. "
    "`invoke prod.status` shows the revision of each database."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The command's arguments; paths are relative to the working directory."""

    services: Sequence[str] | None
    plan: str
    first: Sequence[str] | None
    keep_going: bool
    hosts: tuple[str, ...]
    yes: bool
    backup_command: str
    backup_directory: str
    report: str
    accepted_drift: Sequence[str] | None
    no_drift: bool
    no_rehearsal: bool


def run_release(app: Command, options: Options) -> Report:
    """Plan, confirm and migrate; the end of the run is recorded in every case.

    Raises:
        HuleEduError: If an argument is wrong, or if the run failed or was refused.
    """
    require_external_environment(app.unchecked_settings, COMMAND)
    _require_files_apart(app, options)
    with _recording(app, options.report) as record:
        _require_arguments(options)
        services, pins = _choose_services(app, options)
        backups, first = _backups(app, options), _first(app, options, services)
        with progress(app, services) as shown:
            release = Release(
                production=production(
                    app,
                    services,
                    shown,
                    drift_check(
                        app,
                        no_drift=options.no_drift,
                        accepted=options.accepted_drift,
                        pins=pins or (),
                    ),
                    # The plan of a file was rehearsed when it was made.
                    rehearses=pins is None and not options.no_rehearsal,
                ),
                record=record,
                first=first,
                keep_going=options.keep_going,
                backups=backups,
                pins=pins,
                notify=app.screen.say,
                stop=app.stop,
            )
            prepared = app.run(release.prepare()) if services else None
        if prepared is None:
            report = release.empty_plan_report()
        else:
            report = _carried_out(app, options, release, prepared)
        return _end_record(app, record, report)


def production(
    app: Command,
    services: tuple[Service, ...],
    shown: Progress,
    drift: DriftCheck | None = None,
    *,
    rehearses: bool = False,
) -> Production:
    """Return the flows over services in staging or production.

    Args:
        drift: How drift is looked for before a migration; None if it is not.
        rehearses: Whether a plan runs the revisions on a copy of the schema, unless the settings
            state otherwise.
    """
    return Production(
        settings=app.unchecked_settings,
        services=services,
        root=app.registry.root,
        histories=AlembicHistories(
            settings=app.unchecked_settings, state=None if app.dry_run else app.state
        ),
        drift=drift,
        rehearsals=app.replays if rehearses and app.unchecked_settings.rehearsal else None,
        redact=app.redact,
        progress=shown,
    )


def drift_check(
    app: Command,
    *,
    no_drift: bool,
    accepted: Sequence[str] | None = None,
    pins: Sequence[PlanEntry] = (),
) -> DriftCheck | None:
    """Return how a command looks for drift; None if it does not.

    Args:
        accepted: The labels of objects whose drift is accepted.
        pins: The entries of a plan file, whose drift is accepted. If the schema of one was compared
            for the plan, schemas are compared whatever the settings state.

    Raises:
        ConfigurationError: If drift is accepted and not looked for.
    """
    if no_drift and accepted:
        raise ConfigurationError(
            "--accept-drift and --no-drift exclude each other.",
            code="argument-conflict",
            hint="Leave out one of them.",
        )
    was_compared = any(pin.drift is not None for pin in pins)
    if no_drift or not (app.unchecked_settings.drift or was_compared):
        return None
    return DriftCheck(
        replays=app.replays,
        accepted=frozenset(accepted or ()),
        planned={pin.service: pin.drift or {} for pin in pins},
    )


def progress(
    app: Command, services: Sequence[Service]
) -> contextlib.AbstractContextManager[Progress]:
    """Show the progress of the services for the time of a `with` block."""
    return app.screen.progress([service.name for service in services])


def _carried_out(app: Command, options: Options, release: Release, prepared: Prepared) -> Report:
    if prepared.report.exit_code is not ExitCode.DONE:
        return prepared.report
    if not prepared.changing:
        return release.nothing_pending_report(prepared)
    if app.dry_run:
        return release.dry_run_report(prepared)
    app.require_not_interrupted()
    app.screen.preview(prepared.report)
    app.screen.say(PREVIEWED)
    _confirm(app, options, prepared, release)
    with progress(app, release.production.services) as shown:
        return app.run(release.with_progress(shown).carry_out(prepared), patient=True)


def _confirm(app: Command, options: Options, prepared: Prepared, release: Release) -> None:
    """Require that the user types each host, or that the arguments contain every host.

    The changes on each host, and the backups, are shown before.

    Raises:
        Refused: If a host is missing or different, or standard input is not a terminal.
    """
    hosts = prepared.hosts
    summaries = {host: (*prepared.summary(host), release.backups.announcement) for host in hosts}
    flags = "--yes " + " ".join(f"--host {name}" for name in hosts)
    if options.yes:
        app.screen.announce([line for host in hosts for line in summaries[host]])
        _require_hosts(options, prepared, flags)
    elif prompts.has_person():
        for host in hosts:
            app.screen.announce(summaries[host])
            prompts.type_name(host, flag=flags)
    else:
        raise Refused(
            f"{prepared.environment}: standard input is not a terminal; nothing was changed.",
            code="terminal-required",
            hint=f"Without a terminal, pass `{flags}`.",
        )
    release.record.add("confirmed", by="arguments" if options.yes else "person", hosts=hosts)


def _require_hosts(options: Options, prepared: Prepared, flags: str) -> None:
    given = {name.lower() for name in options.hosts}
    problems = [
        *(f"{name} is missing" for name in prepared.hosts if name not in given),
        *(f"no service is on {name}" for name in sorted(given - set(prepared.all_hosts))),
    ]
    if problems:
        raise Refused(
            f"{prepared.environment}: --yes requires --host for every host to be changed: "
            f"{'; '.join(problems)}. Nothing was changed.",
            code="host-not-confirmed",
            hint=f"To change these hosts, pass `{flags}`.",
        )


# Arguments.


def _require_arguments(options: Options) -> None:
    if options.hosts and not options.yes:
        raise ConfigurationError(
            "--host requires --yes.",
            code="argument-conflict",
            hint="Add --yes, or leave out --host and type the host at the terminal.",
        )
    if options.plan and options.services:
        raise ConfigurationError(
            "--service cannot be combined with --plan, which lists the services.",
            code="argument-conflict",
            hint="Make a plan of these services: `invoke prod.plan --service NAME --out FILE`.",
        )
    if options.plan and (options.accepted_drift or options.no_drift):
        raise ConfigurationError(
            "--accept-drift and --no-drift cannot be combined with --plan, which states the "
            "accepted drift.",
            code="argument-conflict",
            hint="Pass them to `invoke prod.plan --out FILE`, and have the new plan reviewed.",
        )


def _require_files_apart(app: Command, options: Options) -> None:
    # The record is opened first, and would overwrite the plan.
    if options.plan and app.start / options.plan == app.start / options.report:
        raise ConfigurationError(
            "--report and --plan name the same file; nothing was done.",
            code="argument-conflict",
            hint="Pass another file with --report.",
        )


def _choose_services(
    app: Command, options: Options
) -> tuple[tuple[Service, ...], tuple[PlanEntry, ...] | None]:
    """Return the services to be migrated, and their plan entries; `None` without a plan file."""
    if not options.plan:
        return app.services(options.services), None
    environment = str(app.unchecked_settings.environment)
    pins = read_plan(app.start / options.plan, environment=environment)
    # An empty list of names would select all services.
    return app.services([pin.service for pin in pins]) if pins else (), pins


def _first(app: Command, options: Options, services: Sequence[Service]) -> tuple[str, ...]:
    first = app.services(options.first) if options.first else ()
    if others := [service.name for service in first if service not in services]:
        raise ConfigurationError(
            f"--first names {', '.join(others)}, which is not among the services of this run.",
            code="service-not-selected",
            hint="Pass it with --service as well, or leave out --first.",
        )
    return tuple(service.name for service in first)


def _backups(app: Command, options: Options) -> Backups:
    if not options.backup_directory:
        return Backups(root=app.registry.root, command=options.backup_command)
    programs = {name: find_program(name) for name in ("pg_dump", "pg_restore")}
    if missing := [name for name, path in programs.items() if not path]:
        raise ConfigurationError(
            f"--backup-dir requires {' and '.join(missing)}, not found on this machine.",
            code="pg-dump-missing",
            hint="Install the PostgreSQL client of the server's version, or use --backup-command.",
        )
    directory = app.start / options.backup_directory
    if not directory.is_dir():
        raise ConfigurationError(
            f"--backup-dir {directory} is not a directory.",
            code="backup-directory-invalid",
            hint="Create it, readable by you only.",
        )
    return Backups(
        root=app.registry.root,
        command=options.backup_command,
        directory=directory,
        dumper=Dumper(**programs),
    )


# The record.


@contextlib.contextmanager
def _recording(app: Command, report: str) -> Iterator[Record]:
    """Record a run; an exception ends the record, otherwise the caller does."""
    if app.dry_run:
        yield unwritten_record()
        return
    with new_record(
        app.state,
        command=COMMAND,
        environment=str(app.unchecked_settings.environment),
        root=app.registry.root,
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


def _end_record(app: Command, record: Record, report: Report) -> Report:
    """End the record of a run, and return the report with a note for each write error."""
    report = report.ended_by(app.exit_code) if app.exit_code else report
    outcomes = {o.service: f"{o.status} {o.detail}" for o in report.outcomes}
    code = report.exit_code if app.stop.is_requested else app.exit_code or report.exit_code
    record.end(code, dry_run=report.dry_run, services=outcomes)
    if not record.problems:
        return report
    if app.screen.as_json:
        for problem in record.problems:
            app.screen.say(problem)
    return replace(report, notes=(*report.notes, *record.problems, UNWRITTEN))
