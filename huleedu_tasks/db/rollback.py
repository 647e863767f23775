"""Roll a development database back to an earlier revision, after showing what would be lost.

The downgrade runs on a throwaway database first. The tables and columns that it drops there are
counted in the service's own database, of which a copy becomes the undo snapshot.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from huleedu_tasks import parallel
from huleedu_tasks.config.urls import DatabaseUrl
from huleedu_tasks.db.edited_revisions import record_applied
from huleedu_tasks.db.finish import EXPECT_WRITES
from huleedu_tasks.db.migrate import unfinished
from huleedu_tasks.db.predecessors import settle_predecessor
from huleedu_tasks.db.prove import PROVE
from huleedu_tasks.db.run import Change
from huleedu_tasks.db.service_run import ServiceRun
from huleedu_tasks.db.start import START
from huleedu_tasks.db.throwaway import throwaway
from huleedu_tasks.db.undo_snapshots import keep_copy
from huleedu_tasks.errors import ConfigurationError, MigrationError, Refused
from huleedu_tasks.migrations import runner
from huleedu_tasks.migrations.alembic_failures import remedy
from huleedu_tasks.migrations.functions import DOWNGRADE, UPGRADE, function_sizes
from huleedu_tasks.migrations.observation import (
    Observation,
    applied_revisions,
    throwaway_observation,
)
from huleedu_tasks.migrations.results import Migrated
from huleedu_tasks.migrations.revisions import History, Revision, named
from huleedu_tasks.parallel import Stage, Step
from huleedu_tasks.postgres import databases
from huleedu_tasks.postgres.connections import UNCOUNTED, connection
from huleedu_tasks.postgres.database_tables import Table, count_rows, read_tables
from huleedu_tasks.process import scratch_directory
from huleedu_tasks.report import Kind, Level, Outcome, Problem, Status

if TYPE_CHECKING:
    import asyncpg

COMMAND = "db.rollback"
COLUMNS = ("from", "to")
FORWARD_ONLY = (
    "Staging and production only go forward: a downgrade loses the data that was written since the "
    "upgrade. Correct a released revision with a new one. Unset HULEEDU_ENVIRONMENT if this is "
    "development."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The revision to roll back to.

    Attributes:
        steps: The number of revisions to roll back, unless `revision` is stated.
        revision: A revision, or the beginning of its id, or `base`; an empty string for `steps`.
    """

    steps: int = 1
    revision: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A rollback that was tried out on a throwaway database.

    Attributes:
        before: The revisions of the database.
        target: The revision to roll back to; an empty string for none.
        losses: The tables and columns that it drops; a warning if they have values.
    """

    before: tuple[str, ...]
    target: str
    losses: tuple[Problem, ...]

    @property
    def loses_rows(self) -> bool:
        """Whether rows or values would be lost."""
        return any(loss.level is Level.WARNING for loss in self.losses)


def planning(wanted: Wanted, plans: list[Plan], *, dry_run: bool) -> Change:
    """Return the change that only finds out what a rollback would lose.

    Args:
        plans: Receives the plan.
        dry_run: Whether the plan will not be executed; then the server is not started.
    """
    return Change(
        command=COMMAND,
        would="",
        proving=(PROVE,) if dry_run else (START, PROVE),
        changing=(
            Stage(
                run=partial(preview, wanted=wanted, plans=plans, dry_run=dry_run), io_bound=False
            ),
        ),
        columns=COLUMNS,
    )


def rolling_back(plan: Plan) -> Change:
    """Return the change that executes a plan."""
    return Change(
        command=COMMAND,
        would="",
        proving=(PROVE,),
        changing=(
            Stage(run=partial(require_planned, plan=plan), io_bound=True),
            Stage(run=keep_undo, io_bound=True),
            EXPECT_WRITES,
            Stage(run=partial(roll_back, plan=plan), io_bound=False),
        ),
        columns=COLUMNS,
    )


async def preview(
    run: ServiceRun, step: Step, *, wanted: Wanted, plans: list[Plan], dry_run: bool
) -> Outcome:
    """Roll back a throwaway database, and report what the service's own database would lose."""
    history = await run.history()
    before = await _current(run, history)
    target = target_of(wanted, run.name, history, before)
    async with throwaway(run, step, history, before) as url:
        step("rolling back a throwaway database")
        was = await _tables(url)
        after = await _rehearse(run, url, history, before, target)
        now = await _tables(url)
    going = undone(history, before, after)
    _require_downgrades(run, going)
    step("counting rows")
    async with connection(run.url) as opened:
        losses = [loss async for loss in _losses(opened, was, now)]
    plan = Plan(before=before, target=target, losses=tuple(losses))
    plans.append(plan)
    names = ", ".join(revision.id for revision in going)
    detail = f"tried on a throwaway database: would roll back {names}"
    outcome = run.done(detail, {"from": named(before), "to": named(after)})
    status = Status.SKIPPED if dry_run else Status.OK
    return replace(outcome, status=status, problems=plan.losses)


async def require_planned(run: ServiceRun, step: Step, *, plan: Plan) -> Outcome:
    """Require that the database is at the revisions of the plan.

    Raises:
        Refused: If it was migrated meanwhile.
    """
    if await _current(run, await run.history()) != plan.before:
        raise Refused(
            f"{run.name}: {run.url.database} is no longer at {named(plan.before)}; nothing was "
            "changed.",
            code="revision-changed",
            hint="Run the same command again.",
        )
    return run.done()


async def keep_undo(run: ServiceRun, step: Step) -> Outcome:
    """Keep a copy of the database as its undo snapshot, if it was written to since it was built.

    Raises:
        Refused: If the copy would be larger than the limit of undo snapshots.
    """
    if run.context.keeps_undo:
        step("copying the database for db.undo")
        admin = await run.prove_disposable()
        await settle_predecessor(admin, run)
        await keep_copy(admin, run)
        _require_undo(run)
    return run.done()


def _require_undo(run: ServiceRun) -> None:
    why, run.database.undo_lost = run.database.undo_lost, ""
    if why:
        raise Refused(
            f"{run.name}: {run.url.database} cannot be kept for db.undo: {why}; it was not rolled "
            "back.",
            code="undo-not-kept",
            hint="Set HULEEDU_UNDO_LIMIT to more megabytes, or pass `--no-undo` to roll back "
            "without an undo snapshot.",
        )


async def roll_back(run: ServiceRun, step: Step, *, plan: Plan) -> Outcome:
    """Roll the database back as planned."""
    history = await run.history()
    async with run.database.lock:
        step("rolling back")
        with scratch_directory() as scratch:
            session = Observation(
                events=scratch / "events",
                optional_settings=UNCOUNTED,
                target=await run.prove_place(),
            )
            try:
                done = await _downgrade(run, run.url, history, plan.before, plan.target, session)
            except (Exception, asyncio.CancelledError) as error:
                if not session.begun:
                    raise
                await parallel.run_to_end(_forget_seeds(run))
                return await parallel.run_to_end(unfinished(run, session, error))
            await record_applied(run, done.before, done.after)
            applied = applied_revisions([session], history, done.after, done.before)
        await _forget_seeds(run)
    facts = {"from": named(done.before), "to": named(done.after)}
    count = f"{len(applied)} revision{'' if len(applied) == 1 else 's'}"
    outcome = run.done(f"rolled back {count}", facts)
    return replace(outcome, problems=plan.losses, revisions=tuple(reversed(applied)))


def target_of(wanted: Wanted, service: str, history: History, before: tuple[str, ...]) -> str:
    """Return the revision to roll back to.

    Args:
        service: The name of the service, for messages.
        before: The revisions of the database.

    Returns:
        Its full id; an empty string for none.

    Raises:
        ConfigurationError: If there is no such revision before the current ones.
        MigrationError: If a current revision is not in the files.
    """
    if not before:
        raise ConfigurationError(
            f"{service}: the database is at no revision; there is nothing to roll back.",
            code="nothing-to-roll-back",
            hint=f"`invoke db.migrate --service {service}` migrates it to head.",
        )
    if history.pending(before) is None:
        raise MigrationError(
            f"{service}: the database is at {named(before)}, which the files do not contain.",
            code="revision-unknown",
            hint=remedy(before, history),
        )
    if len(before) > 1:
        raise ConfigurationError(
            f"{service}: the database is at several revisions: {named(before)}.",
            code="rollback-ambiguous",
            hint=f"Migrate it to head first: `invoke db.migrate --service {service}`.",
        )
    if wanted.revision:
        return _stated_target(wanted.revision, service, history, before)
    return _earlier(wanted.steps, service, history, before)


def _stated_target(revision: str, service: str, history: History, before: tuple[str, ...]) -> str:
    if revision == runner.BASE:
        return ""
    found = history.resolve(revision)
    if found and history.is_past(before, found):
        return found
    raise ConfigurationError(
        f"{service}: {revision} is not a revision before {named(before)}.",
        code="revision-not-earlier",
        hint=f"Name an earlier revision, or {runner.BASE} for none. `invoke db.migrate --service "
        f"{service} --revision {revision}` migrates to a later one.",
    )


def _earlier(steps: int, service: str, history: History, before: tuple[str, ...]) -> str:
    at = before
    for done in range(steps):
        if not at:
            raise ConfigurationError(
                f"{service}: --steps is {steps}, and only {done} revisions are applied.",
                code="revision-not-earlier",
                hint=f"Pass --steps {done} to roll back all of them.",
            )
        parents = history.revisions[at[0]].parents
        if len(parents) > 1:
            raise ConfigurationError(
                f"{service}: the revision before {named(at)} is ambiguous, because it is a merge.",
                code="rollback-ambiguous",
                hint="Name the revision to go back to with --revision.",
            )
        at = parents
    return at[0] if at else ""


def undone(history: History, before: Sequence[str], after: Sequence[str]) -> tuple[Revision, ...]:
    """Return the revisions that a downgrade rolls back, latest first."""
    return tuple(reversed(history.between(after, before)))


async def _current(run: ServiceRun, history: History) -> tuple[str, ...]:
    async with connection(run.url) as opened:
        return await run.context.histories.current(run.service, run.url, opened, history)


async def _tables(url: DatabaseUrl) -> Mapping[int, Table]:
    async with connection(url) as opened:
        return await read_tables(opened)


async def _rehearse(
    run: ServiceRun, url: DatabaseUrl, history: History, before: tuple[str, ...], target: str
) -> tuple[str, ...]:
    """Downgrade the throwaway database, and return its revisions afterwards.

    Raises:
        MigrationError: If the downgrade fails; the service's own database is unchanged.
    """
    with scratch_directory() as scratch:
        session = await throwaway_observation(await run.admin(), url, scratch / "events")
        try:
            done = await _downgrade(run, url, history, before, target, session)
        except MigrationError as error:
            # Alembic looks up all downgrades before it begins the first one.
            going = undone(history, before, (target,)) if not session.begun else ()
            if without := [
                revision for revision in going if DOWNGRADE not in function_sizes(revision)
            ]:
                raise _missing(run, without[0], "has no") from error
            raise error.changed(
                message=f"{error.message.rstrip('.')}. It was tried on a throwaway database; "
                f"{run.url.database} is unchanged, at {named(before)}."
            ) from error
    return done.after


async def _downgrade(
    run: ServiceRun,
    url: DatabaseUrl,
    history: History,
    before: tuple[str, ...],
    target: str,
    session: Observation,
) -> Migrated:
    histories = run.context.histories
    return await runner.downgrade(
        histories.alembic(run.service, url),
        history,
        target,
        session=session,
        before=before,
    )


async def _forget_seeds(run: ServiceRun) -> None:
    """Remove the seeds from the environment tag: their rows may be lost."""
    admin, database = await run.admin(), run.url.database
    tag = await databases.read_tag(admin, database)
    if tag and (tag.seeds or tag.shared_seeds):
        others = {name: seeds for name, seeds in tag.shared_seeds.items() if name != run.name}
        await databases.write_tag(admin, database, replace(tag, seeds="", shared_seeds=others))


# What is lost.


async def _losses(
    opened: "asyncpg.Connection", was: Mapping[int, Table], now: Mapping[int, Table]
) -> AsyncIterator[Problem]:
    """Yield a problem for each table and column that a downgrade dropped; renamed ones remain.

    Args:
        opened: A connection to the database in which the rows are counted.
        was: The tables before the downgrade.
        now: The tables after it.
    """
    for oid, table in sorted(was.items(), key=lambda item: str(item[1])):
        if oid not in now:
            rows = await count_rows(opened, table)
            yield _loss(f"drops the table {str(table)!r}", rows, "row")
            continue
        for number, column in table.columns.items():
            if number not in now[oid].columns:
                values = await count_rows(opened, table, column)
                yield _loss(f"drops the column {column!r} of {str(table)!r}", values, "value")


def _loss(what: str, count: int, unit: str) -> Problem:
    counted = f"with {count} {unit}{'' if count == 1 else 's'}" if count else f"without {unit}s"
    return Problem(
        level=Level.WARNING if count else Level.INFO,
        cause=f"{what} {counted}",
        kind=Kind.DESTROYS,
    )


# Downgrades that are missing.


def _require_downgrades(run: ServiceRun, going: Sequence[Revision]) -> None:
    """Require that a revision that does something has a downgrade that does something.

    Raises:
        MigrationError: If the body of a downgrade is empty. The schema would stay, and the next
            upgrade would fail.
    """
    for revision in going:
        bodies = function_sizes(revision)
        if bodies.get(UPGRADE) and bodies.get(DOWNGRADE) == 0:
            raise _missing(run, revision, "has an empty")


def _missing(run: ServiceRun, revision: Revision, what: str) -> MigrationError:
    return MigrationError(
        f"Revision {revision.id} {what} downgrade(); {run.url.database} is unchanged.",
        code="downgrade-missing",
        hint=f"Write it in {revision.path}, or rebuild the database with "
        f"`invoke db.reset --service {run.name}`.",
    )
