"""`prod.drift`: the schema of each database compared with that which its migrations create."""

from contextlib import aclosing
from dataclasses import replace

from huleedu_tasks.config.registry import Service
from huleedu_tasks.config.settings import Settings
from huleedu_tasks.parallel import Step
from huleedu_tasks.prod.production import Production
from huleedu_tasks.prod.target import Target, reach
from huleedu_tasks.report import Outcome, Report
from huleedu_tasks.schema.drift import COLUMNS, Drift, Live, find_drift, outcome_of
from huleedu_tasks.schema.replay import Replays

COMMAND = "prod.drift"


async def drift(production: Production, replays: Replays, *, check: bool) -> Report:
    """Report the drift of each database; read-only.

    Args:
        check: Whether the exit code is 4 if a schema has drifted.

    Raises:
        ConfigurationError: If the configuration has errors; it contains all of them.
    """
    async with production.targets(COMMAND) as targets, aclosing(replays):

        async def find(service: Service, step: Step) -> Outcome:
            target = targets[service.name]
            return outcome_of(service, await drift_of(target, production.settings, replays, step))

        outcomes = await production.run(find)
        report = production.report(COMMAND, outcomes, ("database", *COLUMNS), targets)
    return replace(report, pending=check and any(outcome.differences for outcome in outcomes))


async def drift_of(target: Target, settings: Settings, replays: Replays, step: Step) -> Drift:
    """Return the drift of a database.

    Raises:
        HuleEduError: As `find_drift`, or if its history could not be read.
    """
    live = Live(
        service=target.service,
        url=target.url,
        history=target.known_history,
        histories=target.histories,
        environment=settings.tool_environment(),
    )
    async with reach(target) as opened:
        return await find_drift(live, opened, replays, step=step)
