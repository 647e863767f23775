"""The schemas of staging and production compared with those that their migrations create."""

import asyncio
import shlex
from contextlib import aclosing
from dataclasses import replace

from huleedu_tasks.config.registry import Service
from huleedu_tasks.config.settings import Settings
from huleedu_tasks.errors import HuleEduError, ServerError
from huleedu_tasks.migrations.revision_graph import graph_of_database
from huleedu_tasks.migrations.revisions import named
from huleedu_tasks.parallel import Step
from huleedu_tasks.postgres.connections import answering, is_pooled
from huleedu_tasks.prod.drift_check import DriftCheck
from huleedu_tasks.prod.problems import Validated
from huleedu_tasks.prod.production import Production
from huleedu_tasks.prod.target import Target, reach
from huleedu_tasks.report import Difference, Level, Outcome, Problem, Report
from huleedu_tasks.schema.comparison import COLUMNS, Drift, Live, find_drift, outcome_of
from huleedu_tasks.schema.replay import Replays

COMMAND = "prod.drift"
CODE = "schema-drift"


async def drift(production: Production, replays: Replays, *, check: bool) -> Report:
    """Report the drift of each database; read-only.

    Args:
        check: Whether the exit code is 4 if a schema has drifted.

    Raises:
        ConfigurationError: If the configuration has errors; it contains all of them.
    """
    async with production.targets(COMMAND) as targets, aclosing(replays):
        # Each replay occupies a processor.
        turns = asyncio.Semaphore(production.settings.jobs)

        async def find(service: Service, step: Step) -> Outcome:
            target = targets[service.name]
            async with turns:
                found = await drift_of(target, production.settings, replays, step)
            outcome = outcome_of(service, found)
            return replace(
                outcome,
                facts={**target.address_facts, **outcome.facts},
                graph=graph_of_database(target.known_history, found.revisions),
            )

        outcomes = await production.run(find)
        report = production.report(COMMAND, outcomes, ("database", *COLUMNS), targets)
    return replace(report, pending=check and any(outcome.differences for outcome in outcomes))


async def drift_of(
    target: Target,
    settings: Settings,
    replays: Replays,
    step: Step,
    *,
    may_be_known: bool = False,
) -> Drift:
    """Return the drift of a database.

    Args:
        may_be_known: As for `find_drift`.

    Raises:
        HuleEduError: As `find_drift`, or if its history could not be read.
        ServerError: If the connection goes through a pooler.
    """
    live = Live(
        service=target.service,
        url=target.url,
        history=target.known_history,
        histories=target.histories,
        environment=settings.tool_environment(),
    )
    async with reach(target) as opened:
        async with answering():
            pooled = await is_pooled(opened)
        if pooled:
            raise ServerError(
                f"The connection to {target.url.address} goes through a pooler: the session "
                "settings of pg_dump would remain on connections that other clients use.",
                code="lock-not-effective",
                hint=f"Set {target.service.direct_url_variable} to the URL of the server itself.",
            )
        return await find_drift(live, opened, replays, may_be_known=may_be_known, step=step)


async def judge_drift(
    validated: Validated, check: DriftCheck, settings: Settings, step: Step
) -> Validated:
    """Return a validation with the drift of its database, and a problem for each difference.

    A database that cannot be compared has a warning: the migration does not depend on it, unless
    another run migrates it.
    """
    target = validated.target
    if not validated.is_known:
        return validated
    try:
        found = await drift_of(target, settings, check.replays, step, may_be_known=True)
    except HuleEduError as error:
        return replace(validated, problems=(*validated.problems, _not_compared(error)))
    if found.migrating:
        problem = _being_migrated(found)
        return replace(validated, problems=(*validated.problems, problem), is_migrating=True)
    problems = [
        _problem(found, difference, accepted=check.accepts(target.service.name, difference))
        for difference in found.differences
    ]
    return replace(
        validated,
        problems=(*validated.problems, *problems),
        drift=found.differences,
        dumped=found.dumped,
        fingerprint=found.fingerprint,
    )


def _problem(found: Drift, difference: Difference, *, accepted: bool) -> Problem:
    cause = f"the schema has drifted from {named(found.revisions)}: {difference}"
    if accepted:
        return Problem(level=Level.WARNING, cause=f"{cause} (accepted)", code=CODE)
    return Problem(
        level=Level.ERROR,
        cause=cause,
        remedy="Undo the change in the database, or list the object in 'unmanaged' in the "
        "registry. "
        f"To migrate nevertheless, pass `--accept-drift {shlex.quote(difference.label)}`.",
        code=CODE,
    )


def _being_migrated(found: Drift) -> Problem:
    return Problem(
        level=Level.WARNING,
        cause=f"the schema was not compared, because it is being migrated by {found.migrating}",
        remedy="Run the command again when the migration has ended.",
        code="migration-running",
    )


def _not_compared(error: HuleEduError) -> Problem:
    return Problem(
        level=Level.WARNING,
        cause=f"the schema was not compared with its revisions: {error.message.rstrip('.')}",
        remedy=error.hint,
        code=error.code,
    )
