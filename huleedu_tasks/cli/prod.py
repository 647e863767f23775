"""The databases of staging and production."""

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from huleedu_tasks.cli.command import Command, command
from huleedu_tasks.flows.production import Production
from huleedu_tasks.report import Report, Result

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


def _run(
    app: Command, names: Names, flow: Callable[[Production], Coroutine[Any, Any, Report]]
) -> Report:
    services = app.services(names)
    with app.screen.progress([service.name for service in services]) as progress:
        flows = Production(settings=app.unchecked_settings, services=services, progress=progress)
        return app.run(flow(flows))
