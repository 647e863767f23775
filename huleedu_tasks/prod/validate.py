"""`prod.validate`: every problem that could make a migration fail; read-only.

Every selected service is reported, with all problems found. `prod.plan` and `prod.migrate` begin
with the same checks.
"""

import asyncio
from dataclasses import replace

from huleedu_tasks.config.registry import Service
from huleedu_tasks.config.settings import Settings
from huleedu_tasks.errors import HuleEduError
from huleedu_tasks.parallel import Step
from huleedu_tasks.prod.drift import judge_drift
from huleedu_tasks.prod.env_py_check import as_of_a_plan, following_problems
from huleedu_tasks.prod.problems import (
    Validated,
    examine,
    history_problems,
    password_problems,
    same_database,
    tls_state,
)
from huleedu_tasks.prod.production import Production, Targets
from huleedu_tasks.prod.rights import judge_rights
from huleedu_tasks.prod.target import Target
from huleedu_tasks.report import Outcome, Problem, Report

COMMAND = "prod.validate"
COLUMNS = ("database", "tls", "version", "current", "pending")


async def validate(production: Production, *, offline: bool) -> Report:
    """Report every problem that could make a migration fail.

    Args:
        offline: Whether to check configuration and files only, without connecting.

    Raises:
        ConfigurationError: If the configuration has errors; it contains all of them.
    """
    async with production.targets(COMMAND) as targets:
        if offline:
            outcomes = tuple(map(_offline, targets.values()))
        else:
            outcomes, _ = await validate_all(production, targets, check_all=True)
        return production.report(COMMAND, outcomes, COLUMNS, targets)


async def validate_all(
    production: Production, targets: Targets, *, check_all: bool = False
) -> tuple[tuple[Outcome, ...], dict[str, Validated]]:
    """Validate every database, and the `env.py` of those with pending revisions.

    Args:
        check_all: Whether to check every `env.py` and compare every schema, and to report the
            problems of an `env.py` as errors. Otherwise most of them are warnings, because a
            migration compares its connections when it runs.

    Returns:
        One outcome for each service, and the facts of those that were validated, by name.
    """
    settings = production.settings
    found: dict[str, Validated] = {}
    # Each process imports the modules of its service, which takes processor time and memory.
    turns = asyncio.Semaphore(settings.jobs)

    async def ask(service: Service, step: Step) -> Outcome:
        step("querying its database")
        validated = await examine(targets[service.name])
        if check_all or validated.is_behind:
            step("asking its env.py")
        validated = await judge_rights(validated, settings, production.root)
        if check_all or (validated.is_behind and not validated.has_connected):
            async with turns:
                problems = await _following(validated, settings)
            if not check_all:
                problems = tuple(map(as_of_a_plan, problems))
            validated = replace(validated, problems=(*validated.problems, *problems))
        if production.drift and (check_all or validated.is_behind):
            validated = await judge_drift(validated, production.drift, settings, step)
        found[service.name] = validated
        return _outcome(found[service.name])

    if check_all:
        # The worker processes import their libraries while the databases are queried.
        production.histories.workers.prepare()
    outcomes = await production.run(ask)
    # Services in one database are found only after all databases are known.
    shared = same_database([found[name] for name in targets if name in found])
    judged = tuple(
        outcome.with_problems((*(outcome.problems or ()), shared[outcome.service]))
        if outcome.service in shared
        else outcome
        for outcome in outcomes
    )
    return judged, found


async def _following(validated: Validated, settings: Settings) -> tuple[Problem, ...]:
    target = validated.target
    return await following_problems(
        target.service,
        target.resolved,
        settings,
        target.histories.workers,
        known=validated.problems,
    )


def _offline(target: Target) -> Outcome:
    problems = (*history_problems(target), *password_problems(target))
    return _outcome(Validated(target=target, problems=problems))


def _outcome(validated: Validated) -> Outcome:
    target, facts = validated.target, validated.facts
    shown = target.address_facts
    if facts is not None:
        shown |= {"tls": tls_state(target, facts), "version": facts.version}
        if not isinstance(validated.revisions, HuleEduError):
            shown |= target.revision_facts(validated.revisions)
    return Outcome(
        service=target.service.name, facts=shown, differences=validated.drift
    ).with_problems(validated.problems)
