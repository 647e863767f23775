"""`prod.status`: the revision of each database of staging or production; read-only."""

from dataclasses import replace

from huleedu_tasks import parallel
from huleedu_tasks.config.registry import Service
from huleedu_tasks.errors import ServerError
from huleedu_tasks.migrations.revision_graph import graph_of_database
from huleedu_tasks.migrations.revisions import named
from huleedu_tasks.parallel import Step
from huleedu_tasks.prod.production import Production
from huleedu_tasks.prod.target import Target, reach
from huleedu_tasks.report import Outcome, Report, State

COMMAND = "prod.status"
COLUMNS = ("database", "current", "head", "pending")


async def status(production: Production, *, check: bool) -> Report:
    """Report the revision of each database.

    Args:
        check: Whether the exit code is 4 if a database is not at head.

    Raises:
        ConfigurationError: If the configuration has errors; it contains all of them.
    """
    async with production.targets(COMMAND) as targets:

        async def ask(service: Service, step: Step) -> Outcome:
            step("querying its database")
            return await _status_of(targets[service.name])

        outcomes = await production.run(ask)
        report = production.report(COMMAND, outcomes, COLUMNS, targets)
    behind = any(outcome.facts.get("pending") != 0 for outcome in outcomes)
    return replace(report, pending=check and behind)


async def _status_of(target: Target) -> Outcome:
    history = target.known_history
    try:
        async with reach(target) as opened:
            revisions = await target.read_revisions(opened)
    except ServerError as error:
        return replace(parallel.failed(target.service, error), facts=target.address_facts)
    pending = history.pending(revisions)
    facts = target.address_facts | target.revision_facts(revisions)
    graph = graph_of_database(history, revisions)
    done = Outcome(service=target.service.name, facts=facts, graph=graph)
    if pending is None:
        detail = f"revision {named(revisions)} is not in the revision files"
        return replace(done, state=State.UNKNOWN_REVISION, detail=detail)
    if pending:
        return replace(done, state=State.BEHIND, hint="Run `invoke prod.plan`.")
    return done
