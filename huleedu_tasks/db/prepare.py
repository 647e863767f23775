"""Bring databases to a working state without destroying anything.

What each database needs is decided from what `db.status` reports of it. A database with an unknown
or an edited revision is not prepared, because only a rebuild or another branch helps.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from huleedu_tasks.config.registry import Service, seeding_predecessors
from huleedu_tasks.db.finish import finish, keep
from huleedu_tasks.db.migrate import require_database
from huleedu_tasks.db.recreate import recreate
from huleedu_tasks.db.seed import seed
from huleedu_tasks.db.service_run import ServiceRun, after_leader, after_migrated, after_seeded
from huleedu_tasks.db.status import CHANGED_SEEDS, NO_SEEDS_APPLIED, seeded
from huleedu_tasks.parallel import Stage, Step
from huleedu_tasks.postgres import databases
from huleedu_tasks.postgres.connections import connection
from huleedu_tasks.report import Fact, Outcome, State, Status

UNPREPARED = (State.UNKNOWN_REVISION, State.EDITED)
UNSEEDED = (NO_SEEDS_APPLIED, CHANGED_SEEDS)


def missing_steps(found: Outcome) -> tuple[str, ...]:
    """Return what a database lacks, as clauses; empty if it is ready or cannot be prepared.

    Args:
        found: The outcome of `db.status`.
    """
    if found.state is State.UNREACHABLE:
        return ("start its server", "create, migrate and seed its database if needed")
    if _needs_action(found):
        return ()
    steps = {
        "migrate its database": bool(found.facts["pending"]),
        "apply its seeds": found.facts["seeded"] in UNSEEDED,
    }
    return tuple(step for step, is_missing in steps.items() if is_missing)


def not_begun(services: Sequence[Service], found: Mapping[str, Outcome]) -> dict[str, str]:
    """Return the services that cannot be prepared, each with the first one that prevents it.

    Args:
        services: The services of the run.
        found: The outcome of `db.status` of each.
    """
    before = seeding_predecessors(services)
    blocked = {name: name for name, outcome in found.items() if _needs_action(outcome)}
    waiting = [service for service in services if missing_steps(found[service.name])]
    while more := {
        service.name: blocked[name]
        for service in waiting
        for name in (*service.migrate_after, *before[service.name])
        if name in blocked and service.name not in blocked
    }:
        blocked |= more
    return blocked


def unchanged(found: Outcome, blocked: str) -> Outcome:
    """Return the outcome of a service that was not changed.

    Args:
        found: The outcome of `db.status`.
        blocked: The service that prevents it from being prepared; empty string if none does.
    """
    facts: dict[str, Fact] = dict.fromkeys(("from", "to"), found.facts.get("current"))
    outcome = replace(found, facts=facts)
    if blocked == found.service and not found:
        return outcome
    if not blocked:
        is_ready = found and not found.detail
        return replace(outcome, detail="nothing to do") if is_ready else outcome
    detail = f"not prepared: {found.detail}"
    if blocked != found.service:
        detail = f"not prepared: {blocked}, which must come first, was not prepared"
        outcome = replace(outcome, state=None, hint=f"Prepare {blocked} first.")
    return replace(outcome, status=Status.SKIPPED, detail=detail)


def as_dry_run(found: Outcome) -> Outcome:
    """Return the outcome of a service whose database would be prepared."""
    detail = f"dry run: would {' and '.join(missing_steps(found))}"
    facts: dict[str, Fact] = dict.fromkeys(("from", "to"), found.facts.get("current"))
    return replace(found, status=Status.SKIPPED, state=None, detail=detail, hint="", facts=facts)


async def fill(run: ServiceRun, step: Step) -> Outcome:
    """Create the database if it is missing, from a template if one is valid.

    An empty database counts as missing, if all services that share it are in the run.
    """
    if not _is_whole(run):
        return await require_database(run, step)
    if run.is_leader and not await _is_empty(run):
        return run.done()
    run.init_scripts = await run.context.provider.init_scripts(run.service)
    return await recreate(run, step)


async def seed_if_needed(run: ServiceRun, step: Step) -> Outcome:
    """Apply the seeds if they were not applied yet, or have changed since."""
    tag = await databases.read_tag(await run.admin(), run.url.database)
    return await seed(run, step) if seeded(run.service, tag) in UNSEEDED else run.done()


async def complete(run: ServiceRun, step: Step) -> Outcome:
    """Finish a database, and save a template of it if it was built."""
    await finish(run, step)
    return await keep(run, step)


def _needs_action(found: Outcome) -> bool:
    """Whether only the user can bring a database to a working state."""
    has_failed = not found and found.state is not State.UNREACHABLE
    return has_failed or found.state in UNPREPARED


def after_filled(run: ServiceRun) -> Sequence[ServiceRun]:
    """Return the service for which a whole database is created, unless it is the same."""
    return after_leader(run) if _is_whole(run) else ()


def _is_whole(run: ServiceRun) -> bool:
    """Whether all services that share the database are in the run."""
    return all(member in run.context.services for member in run.database.members)


async def _is_empty(run: ServiceRun) -> bool:
    """Whether the database does not exist, or contains nothing."""
    if not await databases.exists(await run.admin(), run.url.database):
        return True
    async with connection(run.url, uncounted=True) as owner:
        return await databases.is_untouched(owner)


FILL = Stage(run=fill, io_bound=True, after=after_filled)
SEED_IF_NEEDED = Stage(run=seed_if_needed, io_bound=False, after=after_seeded)
COMPLETE = Stage(run=complete, io_bound=True, after=after_migrated)
