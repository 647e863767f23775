"""The services of the registry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from huleedu_tasks.cli.command import command
from huleedu_tasks.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from huleedu_tasks.cli.command_run import Command
    from huleedu_tasks.config.registry import Service
    from huleedu_tasks.report import Fact, Result

# What fits a terminal; `--service NAME` shows more of a service, `--json` everything.
COLUMNS = ("name", "port", "database", "compose_service")
OF_ONE = (
    "name",
    "port",
    "directory",
    "database",
    "url_variable",
    "compose_service",
    "volume",
    "seeds",
)
MISSING = "missing"


@command()
def list_(app: Command, service: Sequence[str] | None = None, json: bool = False) -> Result:
    """Show the registry with all derived values.

    The table has the port, database and compose service of each. With `--service NAME` it has the
    directory, URL variable, volume and seeds as well, with `--json` all values.
    """
    from huleedu_tasks.report import Listing

    root = app.stated_registry.root
    services = app.stated_registry.select(service or ())
    without = _without_volume(app)
    rows = tuple(_row(s, root, has_volume=s.compose_service not in without) for s in services)
    columns = OF_ONE if service else COLUMNS
    if any(row[MISSING] for row in rows):
        columns = (*columns, MISSING)
    return Listing(command="services.list", key="services", columns=columns, rows=rows)


@command(fresh="Run the code of every service, even if nothing that it read has changed.")
def check(
    app: Command,
    service: Sequence[str] | None = None,
    fresh: bool = False,
    format: str = "",
    out: Sequence[str] | None = None,
    json: bool = False,
) -> Result:
    """Show where registry, compose files and code disagree."""
    from huleedu_tasks.check.check import Audit
    from huleedu_tasks.migrations.alembic_history import AlembicHistories

    services = app.stated_registry.select(service or ())
    state = app.checkout_state
    with app.screen.progress([s.name for s in services]) as progress:
        audit = Audit(
            settings=app.unchecked_settings,
            registry=app.stated_registry,
            services=services,
            histories=AlembicHistories(
                settings=app.unchecked_settings,
                state=state if state.exists() else None,
            ),
            jobs=app.unchecked_settings.jobs,
            fresh=fresh,
            progress=progress,
        )
        return app.run(audit.check())


@command(overwrite="Overwrite an existing registry that differs.")
def discover(
    app: Command, overwrite: bool = False, json: bool = False, dry_run: bool = False
) -> Result:
    """Discover the services and write services.json."""
    from huleedu_tasks.cli.services_discover import run_discovery

    return run_discovery(app, overwrite=overwrite, may_ask=not json)


def _without_volume(app: Command) -> set[str]:
    """Return the compose services that have no volume for data in the compose files."""
    from huleedu_tasks.compose.file_choice import read_own_files

    registry = app.stated_registry
    environment = app.unchecked_settings.compose_environment()
    try:
        read = app.run(read_own_files(registry.root, registry.compose_files, environment))
    except ConfigurationError:
        # `services.check` reports it.
        return set()
    without = {name for name, container in read.containers.items() if not container.data_volume}
    return {name for name in without if not read.unread_of(name)}


def _row(service: Service, root: Path, *, has_volume: bool) -> dict[str, Fact]:
    from huleedu_tasks.repository import shown

    return {
        "name": service.name,
        "port": service.port,
        "directory": shown(service.directory, root),
        "database": service.database,
        "testing_database": service.testing_database,
        "url_variable": service.url_variable,
        "alembic_url_variable": service.alembic_url_variable,
        "url_scheme": service.url_scheme,
        "alembic_config": shown(service.alembic_config, root),
        "python": list(service.python),
        "environment": sorted(service.environment),
        "lock_timeout": service.lock_timeout,
        "statement_timeout": service.statement_timeout,
        "compose_service": service.compose_service,
        "volume": service.volume if has_volume else None,
        "extensions": list(service.extensions),
        "seeds": [shown(path, root) for path in service.seeds],
        "seed_after": list(service.seed_after),
        "inputs": [shown(path, root) for path in service.inputs],
        MISSING: [finding.problem for finding in service.missing_files()],
    }
