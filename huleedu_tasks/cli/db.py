"""The databases of development and testing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from huleedu_tasks.cli.command import command
from huleedu_tasks.cli.command_line import whole_number
from huleedu_tasks.errors import ConfigurationError, Finding, Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from huleedu_tasks.cli.command_run import Command
    from huleedu_tasks.config.registry import Service
    from huleedu_tasks.config.urls import DatabaseUrl, ResolvedUrl
    from huleedu_tasks.db.development import Development
    from huleedu_tasks.db.rollback import Plan
    from huleedu_tasks.report import Message, Report, Result

T = TypeVar("T")
Names = Sequence[str] | None
NO_UNDO = "Keep no undo snapshot of a database that was written to."
NAME = "Name of the snapshot: letters, digits, hyphens and underscores."
CONFIRM = "Name of an untagged database to change without a prompt; may be repeated."


@command()
def up(app: Command, service: Names = None, json: bool = False, dry_run: bool = False) -> Result:
    """Start the servers and wait until they accept their users."""
    report = _run(app, service, "", lambda flows: flows.up())
    if app.dry_run:
        return report
    urls = app.urls(app.services(service))
    running = [outcome.service for outcome in report.outcomes if outcome]
    shown = [f"{name}  {urls[name].url}" for name in running]
    return replace(report, notes=(*report.notes, *shown))


@command()
def down(app: Command, service: Names = None, json: bool = False, dry_run: bool = False) -> Result:
    """Stop the servers, keeping their data."""
    return _run(app, service, "", lambda flows: flows.down())


@command(
    confirm=CONFIRM,
    volumes="Also recreate the servers' data: container and volume, or data directory.",
    fresh="Migrate and seed even if a valid template exists.",
    no_undo=f"{NO_UNDO} With --volumes, named snapshots are destroyed as well.",
)
def reset(
    app: Command,
    service: Names = None,
    volumes: bool = False,
    fresh: bool = False,
    no_undo: bool = False,
    confirm: Names = None,
    jobs: str = "",
    format: str = "",
    out: Names = None,
    json: bool = False,
    dry_run: bool = False,
) -> Result:
    """Recreate, migrate and seed the databases."""
    return _run(
        app,
        service,
        jobs,
        lambda flows: replace(flows, fresh=fresh, no_undo=no_undo).reset(volumes=volumes),
        confirm=confirm,
        whole="reset",
    )


@command(
    confirm=CONFIRM,
    revision="Revision to migrate to; head if left out.",
    sql="With --dry-run: show the SQL of the pending revisions.",
)
def migrate(
    app: Command,
    service: Names = None,
    revision: str = "head",
    sql: bool = False,
    confirm: Names = None,
    jobs: str = "",
    format: str = "",
    out: Names = None,
    json: bool = False,
    dry_run: bool = False,
) -> Result:
    """Migrate the databases to head, or to a revision."""
    if not revision:
        raise ConfigurationError(
            "--revision is empty.", code="argument-invalid", hint="Leave it out to migrate to head."
        )
    if sql and not app.dry_run:
        raise ConfigurationError(
            "--sql shows the SQL instead of running it, and needs --dry-run.",
            code="argument-conflict",
            hint="Pass `--dry-run` as well.",
        )
    return _run(app, service, jobs, lambda flows: flows.migrate(revision, sql=sql), confirm=confirm)


@command(
    message="What the revision changes; also its file's name.",
    empty="Without operations, for a change of data.",
    merge="Merge two heads.",
)
def revision(
    app: Command,
    service: Names = None,
    message: str = "",
    empty: bool = False,
    merge: bool = False,
    json: bool = False,
    dry_run: bool = False,
) -> Result:
    """Write a new revision for the changes of the models."""
    from huleedu_tasks.db.revision import NewRevision

    new = NewRevision(message=message, is_empty=empty, is_merge=merge)
    return _run(app, service, "", lambda flows: flows.revision(new))


@command(
    confirm=CONFIRM,
    steps="How many revisions to roll back; one if left out.",
    revision="Revision to go back to, or base for none.",
    yes="Do not ask before data is lost.",
    no_undo=NO_UNDO,
)
def rollback(
    app: Command,
    service: Names = None,
    steps: str = "",
    revision: str = "",
    yes: bool = False,
    no_undo: bool = False,
    confirm: Names = None,
    json: bool = False,
    dry_run: bool = False,
) -> Result:
    """Roll a database back, after showing what is lost."""
    from huleedu_tasks.db.rollback import Wanted

    if steps and revision:
        raise ConfigurationError(
            "--steps and --revision exclude each other.",
            code="argument-conflict",
            hint="Leave out one of them.",
        )
    wanted = Wanted(steps=whole_number("--steps", steps or "1", at_least=1), revision=revision)
    flows = replace(_flows(app, service, "", confirm=confirm), no_undo=no_undo)
    report, plan = _finished(app, flows, lambda flows: flows.plan_rollback(wanted))
    if plan is None or app.dry_run:
        return report
    _confirm_rollback(app, report, plan, yes=yes, keeps_undo=flows.keeps_undo)
    return _finished(app, flows, lambda flows: flows.rollback(plan))


@command(confirm=CONFIRM)
def seed(
    app: Command,
    service: Names = None,
    confirm: Names = None,
    jobs: str = "",
    format: str = "",
    out: Names = None,
    json: bool = False,
    dry_run: bool = False,
) -> Result:
    """Apply the seeds; a second time changes nothing."""
    return _run(app, service, jobs, lambda flows: flows.seed(), confirm=confirm)


@command(name=NAME)
def snapshot(
    app: Command,
    name: str,
    service: Names = None,
    json: bool = False,
    dry_run: bool = False,
) -> Result:
    """Save all selected databases, or none, as a snapshot."""
    return _run(app, service, "", lambda flows: flows.snapshot(name), whole="saved")


@command(name=NAME, no_undo=NO_UNDO, confirm=CONFIRM)
def restore(
    app: Command,
    name: str,
    service: Names = None,
    no_undo: bool = False,
    confirm: Names = None,
    json: bool = False,
    dry_run: bool = False,
) -> Result:
    """Replace all selected databases, or none, by a snapshot."""
    return _run(
        app,
        service,
        "",
        lambda flows: replace(flows, no_undo=no_undo).restore(name),
        confirm=confirm,
        whole="restored",
    )


@command(delete="Drop the snapshot of this name.")
def snapshots(
    app: Command,
    service: Names = None,
    delete: str = "",
    json: bool = False,
    dry_run: bool = False,
) -> Result:
    """List the snapshots with size, age and revision."""
    if delete:
        return _run(app, service, "", lambda flows: flows.delete_snapshots(delete), whole="deleted")
    return app.run(_flows(app, service, whole="listed").list_snapshots())


@command(confirm=CONFIRM)
def undo(
    app: Command,
    service: Names = None,
    confirm: Names = None,
    json: bool = False,
    dry_run: bool = False,
) -> Result:
    """Undo the last reset, restore or rollback of a database."""
    every = bool(service)
    return _run(
        app, service, "", lambda flows: flows.undo(every=every), confirm=confirm, whole="undone"
    )


@command(confirm=CONFIRM)
def prepare(
    app: Command,
    service: Names = None,
    confirm: Names = None,
    jobs: str = "",
    format: str = "",
    out: Names = None,
    json: bool = False,
    dry_run: bool = False,
) -> Result:
    """Start, create, migrate and seed what is not ready yet."""
    return _run(app, service, jobs, lambda flows: flows.prepare(), confirm=confirm)


@command(
    prune="Stop and remove those whose checkout does not exist, with their data.",
    new_ports="Give the instance of this checkout other ports.",
)
def instances(
    app: Command,
    prune: bool = False,
    new_ports: bool = False,
    json: bool = False,
    dry_run: bool = False,
) -> Result:
    """List the instances of this repository."""
    from huleedu_tasks.db.instance_list import Instances
    from huleedu_tasks.guard import require_disposable_environment

    require_disposable_environment(app.settings, "db.instances")
    if prune and new_ports:
        raise ConfigurationError(
            "--prune and --new-ports exclude each other.",
            code="argument-conflict",
            hint="Leave out one of them.",
        )
    if new_ports:
        return _with_new_ports(app)
    found = Instances(
        home=app.main_state,
        current=app.instance.directory if app.instance else None,
        environment=app.settings.process,
        notify=app.screen.say,
    )
    return app.run(found.prune(dry_run=app.dry_run) if prune else found.list())


@command(check="Exit with 4 if a database is not at head or was edited.")
def status(
    app: Command,
    service: Names = None,
    check: bool = False,
    format: str = "",
    out: Names = None,
    json: bool = False,
) -> Result:
    """Show each database's state: revision, pending, seeded."""
    return _run(app, service, "", lambda flows: flows.status(check=check))


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
    return _run(app, service, "", lambda flows: flows.drift(check=check))


@command(
    check="Write nothing, and exit with 4 if a file is not up to date.",
    to="Write NAME.sql into this directory, instead of schema.sql beside the migrations.",
)
def schema(
    app: Command,
    service: Names = None,
    check: bool = False,
    to: str = "",
    jobs: str = "",
    format: str = "",
    out: Names = None,
    json: bool = False,
    dry_run: bool = False,
) -> Result:
    """Write the schema at head of each service to a file."""
    from huleedu_tasks.db.schema_file import SchemaFiles

    services = app.services(service)
    with app.screen.progress([service.name for service in services]) as progress:
        files = SchemaFiles(
            settings=app.settings,
            registry=app.registry,
            services=services,
            state=app.state,
            instance=app.instance,
            directory=app.start / to if to else None,
            check=check,
            dry_run=app.dry_run,
            jobs=whole_number("--jobs", jobs, at_least=1) if jobs else app.settings.jobs,
            progress=progress,
            notify=app.screen.say,
        )
        return app.run(files.run())


@command(
    show_password="Show the passwords instead of ***.",
    plain="Without the driver in the scheme, for psql, pg_dump and graphical clients.",
)
def url(
    app: Command,
    service: Names = None,
    show_password: bool = False,
    plain: bool = False,
    json: bool = False,
) -> Result:
    """Show the URL of each database and its source."""
    from huleedu_tasks.report import Listing, Message

    if show_password:
        app.screen.redact = str
    services = app.services_here(service)
    rows = tuple(
        {
            "service": name,
            "url": _url_text(resolved, show_password=show_password, plain=plain),
            "source": resolved.source,
        }
        for name, resolved in app.urls(services).items()
    )
    if len(rows) == 1 and len(services) < max(len(app.registry.services), 2) and not json:
        # The URL alone, for use in a script.
        return Message(command="db.url", text=rows[0]["url"])
    return Listing(command="db.url", key="urls", columns=("service", "url", "source"), rows=rows)


@command(command="SQL, or a command of psql, to run instead of opening a shell.")
def shell(app: Command, service: Names = None, command: str = "", dry_run: bool = False) -> None:
    """Open psql on a service's database."""
    from huleedu_tasks.postgres.psql import psql_arguments, psql_environment
    from huleedu_tasks.process import replace_with

    chosen = _only_one(app.services_here(service))
    url = app.urls((chosen,))[chosen.name].url
    program = app.provider.psql()
    if not program:
        raise ConfigurationError(
            "psql was not found on this machine.",
            code="psql-missing",
            hint="Install PostgreSQL's client, or set HULEEDU_POSTGRES_BIN to its directory.",
        )
    if app.dry_run:
        app.screen.say(f"db.shell: dry run: would open psql on {url}")
        return
    app.run(_answers(url))
    environment = psql_environment(url, app.settings.tool_environment())
    replace_with(psql_arguments(program, command), environment)


@command(follow="Print new log lines until Ctrl-C.", lines="How many past lines to print.")
def logs(
    app: Command,
    service: Names = None,
    follow: bool = False,
    lines: str = "100",
    dry_run: bool = False,
) -> None:
    """Show the servers' logs."""
    from huleedu_tasks.process import replace_with

    log = app.provider.logs(
        app.services_here(service), follow=follow, lines=whole_number("--lines", lines, at_least=0)
    )
    if app.dry_run:
        app.screen.say(f"db.logs: dry run: would run {' '.join(log.arguments)}")
        return
    replace_with(log.arguments, log.environment, cwd=app.registry.root)


def _with_new_ports(app: Command) -> Message:
    """Give the instance of this checkout other ports.

    Raises:
        ConfigurationError: If the checkout has none.
    """
    from huleedu_tasks.instances.leases import renew
    from huleedu_tasks.report import Message

    if app.instance is None:
        raise ConfigurationError(
            "This checkout has no instance: its ports are those of the registry.",
            code="instance-missing",
            hint="Change 'port' in the registry, or set HULEEDU_INSTANCE to a name.",
        )
    name = app.instance.name
    if app.dry_run:
        text = f"dry run: would give the instance {name} other ports."
    else:
        ports = renew(app.stated_registry, app.instance).ports.values()
        text = (
            f"The instance {name} has the ports {', '.join(map(str, ports))}. Run `invoke db.up`, "
            "and `invoke env.export` again."
        )
    return Message(command="db.instances", text=text, facts={"instance": name})


def _run(
    app: Command,
    names: Names,
    jobs: str,
    flow: Callable[[Development], Coroutine[Any, Any, Report]],
    *,
    confirm: Names = None,
    whole: str = "",
) -> Report:
    """Run a command of `Development`.

    Args:
        whole: As in `_flows`.
    """
    return _finished(app, _flows(app, names, jobs, confirm=confirm, whole=whole), flow)


def _flows(
    app: Command, names: Names, jobs: str = "", *, confirm: Names = None, whole: str = ""
) -> Development:
    """Return the flows over the selected services.

    Args:
        whole: What is done to whole databases, as a participle, so that the services that share one
            with a selected service are added; an empty string if the command needs no others.
    """
    from huleedu_tasks.screen.prompts import has_person

    flows = app.development(
        app.services(names),
        jobs=whole_number("--jobs", jobs, at_least=1) if jobs else app.settings.jobs,
        dry_run=app.dry_run,
        confirmed=tuple(confirm or ()),
        notify=app.screen.say,
    )
    if whole:
        flows = flows.with_whole_databases(whole)
    if confirm is not None and not app.dry_run and has_person():
        flows = replace(flows, confirmed=(*flows.confirmed, *_ask_for(app.run(flows.unproven()))))
    return flows


def _finished(
    app: Command,
    flows: Development,
    flow: Callable[[Development], Coroutine[Any, Any, T]],
) -> T:
    with app.screen.progress([service.name for service in flows.services]) as progress:
        return app.run(flow(replace(flows, progress=progress)))


def _confirm_rollback(
    app: Command, report: Report, plan: Plan, *, yes: bool, keeps_undo: bool
) -> None:
    """Show what a rollback loses, and ask for agreement.

    Args:
        yes: Whether to go on without asking.
        keeps_undo: Whether `db.undo` can bring the data back.

    Raises:
        Refused: If the user does not agree, or cannot be asked before rows are lost.
    """
    from huleedu_tasks.screen import prompts

    if not app.screen.as_json:
        app.screen.preview(report)
    if yes:
        return
    if prompts.has_person() and not app.screen.as_json:
        if not prompts.agree("Roll it back?"):
            raise Refused(
                "The rollback was not confirmed; nothing was changed.",
                code="not-confirmed",
                hint="Answer y, or pass `--yes`.",
            )
    elif plan.loses_rows:
        raise Refused(
            "The rollback loses rows, and standard input is not a terminal; nothing was changed.",
            code="terminal-required",
            findings=[Finding(place="", problem=loss.cause) for loss in plan.losses],
            hint="Pass `--yes` to roll back nevertheless. "
            + (
                "If the database was written to, it is kept: `invoke db.undo` brings it back."
                if keeps_undo
                else "`invoke db.snapshot NAME` saves the rows first."
            ),
        )


def _ask_for(names: Sequence[str]) -> Sequence[str]:
    from huleedu_tasks.screen import prompts

    for name in names:
        why = f"Database {name!r} has no development tag. May it be changed or destroyed?"
        prompts.type_name(name, why=why, flag=f"--confirm {name}")
    return names


async def _answers(url: DatabaseUrl) -> None:
    """Log in once before psql does: errors of psql have no hint."""
    from huleedu_tasks.postgres.connections import connection

    async with connection(url):
        pass


def _url_text(resolved: ResolvedUrl, *, show_password: bool, plain: bool) -> str:
    if plain:
        url = resolved.url.plain
        return url.reveal() if show_password else str(url)
    return resolved.reveal() if show_password else str(resolved.url)


def _only_one(services: tuple[Service, ...]) -> Service:
    if len(services) == 1:
        return services[0]
    raise ConfigurationError(
        f"db.shell opens one database, not {len(services)}.",
        code="service-ambiguous",
        hint=f"Name one service, for example --service {services[0].name}.",
    )
