"""The services of the registry."""

from collections.abc import Sequence
from pathlib import Path

from huleedu_tasks.cli.command import Command, command
from huleedu_tasks.config.registry import Service
from huleedu_tasks.config.settings import Settings
from huleedu_tasks.flows import discovery
from huleedu_tasks.flows.audit import Audit
from huleedu_tasks.report import Discovery, Fact, Listing, Result
from huleedu_tasks.screen import prompts
from huleedu_tasks.survey.proposals import Decisions

COLUMNS = (
    "name",
    "port",
    "directory",
    "database",
    "url_variable",
    "compose_service",
    "volume",
    "seeds",
    "missing",
)
LATER, LEFT_OUT = "later", "left out"
OTHER_ANSWERS = (
    ("Later: a marker in the file says what is missing.", LATER),
    ("Leave this service out.", LEFT_OUT),
)


@command()
def list_(app: Command, service: Sequence[str] | None = None, json: bool = False) -> Result:
    """Show the registry with all that is derived from it."""
    root = app.registry.root
    services = app.services(service)
    rows = tuple(_row(each, root) for each in services)
    missing = any(row["missing"] for row in rows)
    columns = COLUMNS if missing else COLUMNS[:-1]
    return Listing(command="services.list", key="services", columns=columns, rows=rows)


@command()
def check(app: Command, service: Sequence[str] | None = None, json: bool = False) -> Result:
    """Show where registry, compose files and code disagree."""
    services = app.services(service)
    with app.screen.progress([each.name for each in services]) as progress:
        audit = Audit(
            settings=app.unchecked_settings,
            registry=app.registry,
            services=services,
            jobs=app.unchecked_settings.jobs,
            progress=progress,
        )
        return app.run(audit.check())


@command(overwrite="Write the registry although there is one that differs.")
def discover(
    app: Command, overwrite: bool = False, json: bool = False, dry_run: bool = False
) -> Result:
    """Write services.json from what is there."""
    path = app.registry_place
    variables = Settings.read(path.parent).child_environment()
    found = app.run(discovery.look(app.repository, path, variables))
    app.require_not_interrupted()
    has_person = prompts.has_person() and not json and not app.dry_run
    result = found.result(_asked(found) if has_person else Decisions())
    if result.closing:
        return result
    if app.dry_run:
        return discovery.kept(result, "dry run: nothing was written.", refused=False)
    if overwrite or found.existing is None:
        return discovery.written(result, path)
    if has_person:
        return _agreed(app, result, path)
    return discovery.kept(result, discovery.NOT_OVERWRITTEN.format(path=path), refused=True)


def _asked(found: discovery.Found) -> Decisions:
    """Ask a person what could not be settled; one answer may settle more."""
    decisions = Decisions()
    asked: set[tuple[Path, str]] = set()
    while True:
        questions = [
            (entry, question, (entry.proposal.reading.folder.path, question.field))
            for entry, question in found.questions(decisions)
            if question.choices
        ]
        unasked = [each for each in questions if each[2] not in asked]
        if not unasked:
            return decisions
        entry, question, key = unasked[0]
        asked.add(key)
        answer = prompts.choose(
            f"{entry.name}: which {question.field}?",
            [*((choice.label, choice.value) for choice in question.choices), *OTHER_ANSWERS],
            otherwise="Without a terminal the file gets a marker for each open question.",
        )
        if answer == LEFT_OUT:
            decisions = decisions.leaving_out(key[0])
        elif answer != LATER:
            decisions = decisions.choosing(*key, answer)


def _agreed(app: Command, result: Discovery, path: Path) -> Result:
    """Show a person what would change, and do it if they say so."""
    app.screen.discovered(result)
    brief = discovery.brief(result)
    if prompts.agree(f"Overwrite {path}?"):
        return discovery.written(brief, path)
    return discovery.kept(brief, discovery.NOT_OVERWRITTEN.format(path=path), refused=True)


def _row(service: Service, root: Path) -> dict[str, Fact]:
    return {
        "name": service.name,
        "port": service.port,
        "directory": _relative(service.directory, root),
        "database": service.database,
        "url_variable": service.url_variable,
        "alembic_url_variable": service.alembic_url_variable,
        "url_scheme": service.url_scheme,
        "alembic_config": _relative(service.alembic_config, root),
        "python": list(service.python),
        "environment": sorted(service.environment),
        "lock_timeout": service.lock_timeout,
        "statement_timeout": service.statement_timeout,
        "compose_service": service.compose_service,
        "volume": service.volume,
        "extensions": list(service.extensions),
        "seeds": [_relative(path, root) for path in service.seeds],
        "seed_after": list(service.seed_after),
        "missing": [finding.problem for finding in service.missing_files()],
    }


def _relative(path: Path, root: Path) -> str:
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
