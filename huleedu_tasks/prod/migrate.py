"""Migrate staging and production: plan, lock, plan again, back up, migrate, verify.

After a run, also after one of several concurrent runs, each database is at the revision it was at
or at a planned one, and the record states which.
"""

import asyncio
import platform
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from huleedu_tasks import parallel
from huleedu_tasks.config.registry import Service, migrating_order
from huleedu_tasks.config.settings import Settings
from huleedu_tasks.errors import ExitCode, Finding, Refused, ServerError
from huleedu_tasks.migrations.edits import begun, with_digests
from huleedu_tasks.migrations.observation import ApprovedInputs
from huleedu_tasks.migrations.revisions import named
from huleedu_tasks.parallel import Step
from huleedu_tasks.postgres import locks
from huleedu_tasks.postgres.connections import answering
from huleedu_tasks.postgres.databases import EnvironmentTag, read_tag, write_tag, write_tag_as_owner
from huleedu_tasks.postgres.schema_fingerprint import read_fingerprint
from huleedu_tasks.process import scratch_directory
from huleedu_tasks.prod.attempt import Attempts
from huleedu_tasks.prod.backup import Backups
from huleedu_tasks.prod.journal import Record
from huleedu_tasks.prod.plan import COLUMNS as PLAN_COLUMNS
from huleedu_tasks.prod.plan import Planned, changes_of_work, pin_now, plan_all
from huleedu_tasks.prod.plan_file import PlanEntry, stale
from huleedu_tasks.prod.production import Production, Targets
from huleedu_tasks.prod.resumption import Resumption, changes_since_begun, resumption_of
from huleedu_tasks.prod.sql_rendering import approval_of, with_unread
from huleedu_tasks.prod.stop_request import GO_ON, Stop
from huleedu_tasks.prod.target import Target, reach
from huleedu_tasks.report import DANGERS, Outcome, Progress, Report, Status

if TYPE_CHECKING:
    import asyncpg

COMMAND = "prod.migrate"
COLUMNS = ("database", "from", "to")
PLAN_CHANGED = "plan-changed"
NOTHING_PENDING = "nothing was pending"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """The result of validation and planning, before the confirmation.

    Attributes:
        report: One outcome for each service.
        targets: The database of each service, by the name of the service.
        by_name: The plan by the name of its service.
        resumed: How far earlier runs have carried out the plan file, by the name of the service;
            without the services that they did not change.
    """

    report: Report
    targets: Targets
    by_name: Mapping[str, Planned]
    resumed: Mapping[str, Resumption] = field(default_factory=dict)

    @property
    def changing(self) -> tuple[Planned, ...]:
        """The plans that change something, in registry order."""
        return tuple(planned for planned in self.by_name.values() if planned.changes)

    @property
    def hosts(self) -> tuple[str, ...]:
        """The hosts of the databases that will be changed."""
        return tuple(dict.fromkeys(planned.host for planned in self.changing))

    @property
    def all_hosts(self) -> tuple[str, ...]:
        """The hosts of all services, including those without changes."""
        return tuple(dict.fromkeys(planned.host for planned in self.by_name.values()))

    @property
    def environment(self) -> str:
        """The name of the environment in upper case, as the screens show it."""
        return self.report.environment.upper()

    def summary(self, host: str) -> tuple[str, ...]:
        """Return what would be changed on a host: the totals, and a line for each service."""
        on_host = [planned for planned in self.changing if planned.host == host]
        pending = sum(len(planned.revisions) for planned in on_host)
        migrated = {planned.place for planned in on_host if planned.revisions}
        tagged = {planned.place for planned in on_host if planned.tags}
        parts = (
            f"{_count(pending, 'revision')} will be applied to {_count(len(migrated), 'database')}"
            if migrated
            else "",
            f"{_count(len(tagged), 'database')} will be tagged as {self.report.environment}"
            if tagged
            else "",
        )
        total = f"{self.environment}: {', and '.join(filter(None, parts))} on {host}."
        resumed = (
            f"{name}: {self.resumed[name]}"
            for name, planned in self.by_name.items()
            if name in self.resumed and planned.host == host
        )
        return total, *map(_summary, on_host), *resumed

    @property
    def unchanged(self) -> dict[str, Outcome]:
        """The outcomes by service, without revisions; final for services without changes."""
        return {o.service: replace(o, revisions=()) for o in self.report.outcomes}


@dataclass(frozen=True, kw_only=True)
class Release:
    """One run of `prod.migrate`.

    Attributes:
        production: The selected services and their settings.
        record: The record of the run.
        backups: The backups to take before the first change.
        first: The names of the canaries: they are migrated first, and their failure stops all.
        keep_going: Whether the other services are migrated after one failed.
        pins: The entries of a plan file; `None` without one.
        notify: Called with a sentence about what the run waits for.
        stop: The request to stop, read before each revision.
        unrecorded: The services whose digests of revision files could not be stored.
    """

    production: Production
    record: Record
    backups: Backups
    first: Sequence[str] = ()
    keep_going: bool = False
    pins: tuple[PlanEntry, ...] | None = None
    notify: Callable[[str], object] = str
    stop: Stop = field(default_factory=Stop)
    unrecorded: list[str] = field(default_factory=list)

    def with_progress(self, progress: Progress) -> "Release":
        """Return the same run with another progress display."""
        return replace(self, production=replace(self.production, progress=progress))

    async def prepare(self) -> Prepared:
        """Validate all services, and plan their changes.

        Raises:
            ConfigurationError: If the configuration has errors; it contains all of them.
            Refused: If a plan file is stale.
        """
        async with self.production.targets(COMMAND) as targets:
            outcomes, by_name = await plan_all(self.production, targets)
            report = self.production.report(
                COMMAND, _aborted_unless_all_valid(outcomes), PLAN_COLUMNS, targets
            )
            resumed = await self._resume(by_name) if report.exit_code is ExitCode.DONE else {}
        outcomes = tuple(
            _resumed(o, resumed[o.service], by_name[o.service]) if o.service in resumed else o
            for o in report.outcomes
        )
        report = replace(report, outcomes=outcomes)
        prepared = Prepared(report=report, targets=targets, by_name=by_name, resumed=resumed)
        if report.exit_code is ExitCode.DONE:
            self.record.add(
                "planned",
                services=[
                    {**planned.pin.as_json(), "marks": planned.tags}
                    for planned in prepared.changing
                ],
            )
        if resumed:
            self.record.add(
                "resumed",
                services=[{"service": name, **it.as_json()} for name, it in resumed.items()],
            )
        return prepared

    async def carry_out(self, prepared: Prepared) -> Report:
        """Lock, compare, back up and migrate as planned and confirmed.

        Raises:
            Refused: If another session holds a lock, or a database or file changed after the
                plan; nothing is changed.
            BackupError: If a backup fails; nothing is changed.
        """
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(aclosing(self.production.histories))
            held = await self._lock_all(prepared.changing, stack)
            already = await self._plan_again(prepared, held)
            to_do = {n: p for n, p in prepared.by_name.items() if n in held and n not in already}
            self.record.require_written()
            notes = await self.backups.take(
                {n: p.target for n, p in _first_of_each_database(to_do).items()},
                services=list(to_do),
                settings=self._settings,
                record=self.record,
                notify=self.notify,
            )
            directory = stack.enter_context(scratch_directory())
            with self.stop.listening(directory):
                changed = await self._change(to_do, held, directory)
        outcomes = {**prepared.unchanged, **already, **changed}
        for name, resumption in prepared.resumed.items():
            outcome = outcomes[name]
            outcomes[name] = replace(outcome, facts={**outcome.facts, **resumption.facts})
        report = self.production.report(
            COMMAND, tuple(outcomes[name] for name in prepared.targets), COLUMNS, prepared.targets
        )
        return replace(report, notes=(*notes, *self._unrecorded_note, self._where_recorded))

    def empty_plan_report(self) -> Report:
        """Return the report of a run with an empty plan; no connection is opened."""
        return Report(
            command=COMMAND,
            environment=str(self._settings.environment),
            provider="external",
            provider_reason="nothing to connect to",
            outcomes=(),
            notes=("The plan changes nothing; nothing was changed.",),
        )

    def nothing_pending_report(self, prepared: Prepared) -> Report:
        """Return the report of a run for which nothing is pending."""
        report = replace(prepared.report, columns=COLUMNS)
        carried_out = _carried_out(prepared.resumed) if self.pins else ""
        note = carried_out or "Nothing is pending; nothing was changed."
        return replace(report, notes=(note,))

    def dry_run_report(self, prepared: Prepared) -> Report:
        """Return the report of a dry run."""
        changing = {planned.pin.service for planned in prepared.changing}
        outcomes = tuple(
            replace(
                outcome,
                status=Status.SKIPPED,
                detail=f"dry run: would migrate {outcome.facts['database']}",
            )
            if outcome.service in changing
            else outcome
            for outcome in prepared.report.outcomes
        )
        return replace(prepared.report, outcomes=outcomes, dry_run=True)

    # Checks.

    async def _resume(self, planned: Mapping[str, Planned]) -> dict[str, Resumption]:
        """Require that the current plan is that of the plan file, or exactly what remains of it.

        Returns:
            How far earlier runs have carried out the plan file, by service; empty if they have
            changed nothing, or without a plan file.

        Raises:
            Refused: If the current plan differs.
        """
        resumed: dict[str, Resumption] = {}
        changes: list[str] = []
        for pin in self.pins or ():
            now = planned[pin.service]
            if found := resumption_of(pin, now):
                resumed[pin.service] = found
                changes += changes_since_begun(pin, now, found)
            else:
                changes += stale(pin, now.pin)
        for pin in self.pins or () if not changes else ():
            now = planned[pin.service]
            if pin.service in resumed:
                changes += await self._changes_of_rest(pin, now)
            else:
                changes += await self._changes_of_work(pin, now)
        if changes:
            raise Refused(
                "The plan is stale; nothing was changed.",
                code=PLAN_CHANGED,
                findings=[Finding(place="", problem=change) for change in changes],
                hint="Make a new plan with `invoke prod.plan --out FILE`, and have it reviewed.",
            )
        return resumed

    async def _changes_of_rest(self, pin: PlanEntry, now: Planned) -> list[str]:
        """Return the differences of what is pending from the same part of a plan entry."""
        approval = with_unread(now.pin.approval, pin.approval, self.production.root)
        now = replace(now, pin=replace(now.pin, approval=approval))
        return await self._changes_of_work(pin.from_where(now.pin), now)

    async def _changes_of_work(self, pin: PlanEntry, now: Planned) -> list[str]:
        return await changes_of_work(
            pin,
            now,
            self._settings,
            self.production.root,
            redact=self.production.redact,
        )

    async def _changes_of_sql(self, planned: Planned) -> list[str]:
        """Render the SQL again, and return the differences from the confirmed SQL."""
        if not planned.revisions:
            return []
        approval, _ = await approval_of(
            planned.target,
            self._settings,
            self.production.root,
            identity=planned.identity,
            current=planned.pin.before,
        )
        now = replace(planned, pin=replace(planned.pin, approval=approval))
        return await self._changes_of_work(planned.pin, now)

    async def _lock_all(
        self, changing: Sequence[Planned], stack: AsyncExitStack
    ) -> "dict[str, asyncpg.Connection]":
        """Lock each database once, and return the connection that holds the lock, by service."""
        held: dict[tuple[str, str, int], asyncpg.Connection] = {}
        for planned in changing:
            if planned.place not in held:
                held[planned.place] = await stack.enter_async_context(self._locked(planned))
            else:
                self.record.add("locked", service=planned.pin.service)
        return {planned.pin.service: held[planned.place] for planned in changing}

    @asynccontextmanager
    async def _locked(self, planned: Planned) -> "AsyncIterator[asyncpg.Connection]":
        """Hold the advisory lock on a database for the time of a `with` block."""
        target = planned.target
        place = f"{target.url.database} on {target.url.address}"
        async with reach(target) as held:
            # `run_wait` limits the wait, not the timeout of a statement; the holder is shown.
            async with answering(target.url.address, timeout=None):
                await locks.acquire(
                    held,
                    place=place,
                    holder=f"{platform.node()} pid {self.record.pid}",
                    wait=self._settings.run_wait,
                    notify=self.notify,
                )
                async with reach(target) as other:
                    variable = target.service.direct_url_variable
                    await locks.require_hold(held, other, place=place, variable=variable)
                await locks.end_runs(held)
            self.record.add("locked", service=planned.pin.service)
            yield held

    async def _plan_again(
        self, prepared: Prepared, held: "Mapping[str, asyncpg.Connection]"
    ) -> dict[str, Outcome]:
        """Compare the plan again, behind the lock.

        Database and files are read again: both may have changed while the user confirmed, and
        while another run held the lock.

        Returns:
            The outcomes of services that another run migrated as planned, by name.

        Raises:
            Refused: If a database, its schema, a file or the SQL changed in another way, or if the
                schema of a database was not compared, because another run migrated it.
        """
        done: dict[str, Outcome] = {}
        changes: list[str] = []
        for planned in prepared.changing:
            name, target = planned.pin.service, planned.target
            now = await pin_now(target, held[name])
            changes += await _other_tag(target, held[name])
            if planned.is_done(now):
                detail = "another run migrated it after the plan was made"
                done[name] = replace(prepared.unchanged[name], detail=detail)
            else:
                changes += stale(planned.pin, now)
                changes += _not_compared(planned) or await _other_schema(planned, held[name])
        left = [planned for planned in prepared.changing if planned.pin.service not in done]
        if not changes:
            for found in await asyncio.gather(*map(self._changes_of_sql, left)):
                changes += found
        if changes:
            raise Refused(
                "A database or a file changed after the plan was made; nothing was changed.",
                code=PLAN_CHANGED,
                findings=[Finding(place="", problem=change) for change in changes],
                hint="Run the same command again. If --plan is refused again, make a new plan with "
                "`invoke prod.plan --out FILE`.",
            )
        return done

    # Changes.

    async def _change(
        self,
        to_do: Mapping[str, Planned],
        held: "Mapping[str, asyncpg.Connection]",
        directory: Path,
    ) -> dict[str, Outcome]:
        """Change one database after the other; the first failure aborts the remaining ones."""
        outcomes: dict[str, Outcome] = {}
        # Keeps the outcome of a finished migration if an interrupt arrives before it is returned.
        done: dict[str, Outcome] = {}
        stopped: Outcome | None = None

        async def migrate(service: Service, step: Step) -> Outcome:
            planned = to_do[service.name]
            done[service.name] = await self._migrate(planned, held[service.name], directory, step)
            return done[service.name]

        for service in self._in_order(to_do):
            pin = to_do[service.name].pin
            lost = _reason_not_to_begin(service, outcomes, held[service.name])
            if stopped is None and (parallel.is_interrupted() or self.stop.is_requested):
                stopped = parallel.interrupted("the run")
            if stopped is not None and not self._goes_on(stopped):
                how = "failed" if stopped.status is Status.FAILED else "was interrupted"
                reason = f"not begun: {stopped.service} {how}"
                outcome = parallel.aborted(service.name, reason, stopped.exit_code)
                outcome = replace(outcome, facts={"to": named(pin.before)})
                self.record.add("not begun", service=service.name, because=stopped.service)
            elif lost:
                outcome = parallel.aborted(service.name, f"not begun: {lost}")
                outcome = replace(outcome, facts={"to": named(pin.before)})
                self.record.add("not begun", service=service.name, because=lost)
                if service.name in self.first:
                    stopped = replace(outcome, status=Status.FAILED)
            else:
                (outcome,) = await parallel.run(
                    [service], migrate, jobs=1, progress=self.production.progress
                )
                outcome = done.get(service.name, outcome)
                stopped = None if outcome else outcome
            outcomes[service.name] = _with_database(outcome, pin)
        return outcomes

    async def _migrate(
        self, planned: Planned, held: "asyncpg.Connection", directory: Path, step: Step
    ) -> Outcome:
        pin, target = planned.pin, planned.target
        if not planned.revisions:
            # Nothing is pending: `_plan_again` verified that while the lock was held.
            outcome = Outcome(service=pin.service, detail=NOTHING_PENDING, revisions=())
            outcome = replace(outcome, facts={"to": named(pin.after)})
            return await self._tag(outcome, held, target)
        step("migrating")
        attempts = Attempts(
            target=target,
            settings=self._settings,
            # `_plan_again` compared it with the files.
            history=target.known_history,
            pin=pin,
            identity=planned.identity,
            lock=held,
            record=self.record,
            directory=directory,
            step=step,
            go_on=directory / GO_ON,
            inputs=ApprovedInputs(root=self.production.root, digests=pin.approval.inputs),
        )
        # A killed run stores nothing afterwards.
        await _record_files(target, held, pin.before, pin.after, begun(self.record.run))
        self.record.add("migrating", service=pin.service, before=pin.before, after=pin.after)
        ended = await attempts.run()
        outcome = ended.outcome
        self.record.add(
            "migrated" if outcome else "not migrated",
            service=pin.service,
            before=pin.before,
            at=ended.at,
            revisions=[revision.as_json() for revision in outcome.revisions or ()],
            detail=outcome.detail,
            seconds=round(ended.seconds, 3),
        )
        at = None if ended.at is None else named(ended.at)
        outcome = replace(outcome, facts={"to": at})
        if outcome and planned.tags:
            outcome = await self._tag(outcome, held, target)
        if ended.at is not None:
            recorded = _record_files(target, held, pin.before, ended.at, self.record.run)
            if not await parallel.run_to_end(recorded):
                self.unrecorded.append(pin.service)
        return outcome

    async def _tag(self, outcome: Outcome, held: "asyncpg.Connection", target: Target) -> Outcome:
        """Write the environment tag of a migrated database; a failure keeps its revisions."""
        tagged = f"tagged as {target.environment}"
        try:
            async with answering(target.url.address):
                if await _other_tag(target, held):
                    raise ServerError(
                        "its environment tag was changed after the plan was made",
                        code="environment-tag-mismatch",
                    )
                await write_tag(
                    held, target.url.database, EnvironmentTag(environment=target.environment)
                )
        except ServerError as error:
            return replace(
                outcome,
                status=Status.FAILED,
                detail=f"{outcome.detail}, and not {tagged}: {error.message}",
                code=error.code,
                hint="Run the same command again.",
            )
        except asyncio.CancelledError:
            return parallel.interrupted_after(outcome)
        self.record.add("marked", service=outcome.service, environment=target.environment)
        return replace(outcome, detail=f"{outcome.detail}, {tagged}")

    def _in_order(self, names: Mapping[str, Planned]) -> list[Service]:
        services = [service for service in self._services if service.name in names]
        services.sort(key=lambda service: service.name not in self.first)
        return list(migrating_order(services))

    def _goes_on(self, failed: Outcome) -> bool:
        """Whether the other services are migrated after a failure; never after a canary's."""
        return (
            self.keep_going and failed.status is Status.FAILED and failed.service not in self.first
        )

    @property
    def _services(self) -> tuple[Service, ...]:
        return self.production.services

    @property
    def _settings(self) -> Settings:
        return self.production.settings

    @property
    def _unrecorded_note(self) -> list[str]:
        """A note about the services whose later edits cannot be detected; empty if none."""
        if not self.unrecorded:
            return []
        return [
            f"INFO: later edits of the revision files of {', '.join(self.unrecorded)} are not "
            "detected, because their digests were not stored: only the owner of a database may."
        ]

    @property
    def _where_recorded(self) -> str:
        return f"The record of this run is {self.record.path}."


def _resumed(outcome: Outcome, found: Resumption, planned: Planned) -> Outcome:
    """Return the planned outcome of a service, with how far it was carried out before."""
    detail = ", ".join(filter(None, (str(found), planned.tagging)))
    return replace(outcome, detail=detail, facts={**outcome.facts, **found.facts})


def _carried_out(resumed: Mapping[str, Resumption]) -> str:
    """Return that a plan was carried out before; an empty string if that is not known."""
    if not resumed:
        return ""
    if all(found.is_whole for found in resumed.values()):
        return "The plan was carried out before; nothing was changed."
    return (
        "Every database is at the target of the plan; nothing was changed. Which run has applied "
        "it is not recorded."
    )


def _aborted_unless_all_valid(outcomes: tuple[Outcome, ...]) -> tuple[Outcome, ...]:
    """Return the outcomes; every other service is aborted if the validation of one failed."""
    wrong = [outcome.service for outcome in outcomes if not outcome]
    reason = f"not begun: validation failed for {', '.join(wrong)}"
    return tuple(
        replace(outcome, status=Status.ABORTED, detail=reason) if wrong and outcome else outcome
        for outcome in outcomes
    )


async def _record_files(
    target: Target,
    held: "asyncpg.Connection",
    before: Sequence[str],
    at: Sequence[str],
    run: str,
) -> bool:
    """Store the digests of applied revision files, and the run, in the environment tag.

    Without them `prod.validate` cannot report later edits, and the same plan again does not state
    which run has applied it; the migration is complete anyway.

    Args:
        before: The revisions of the database before the run.
        at: The revisions after the run, or those to which it is about to migrate.
        run: The id of the run, or `begun` of it.

    Returns:
        Whether they were stored; False if the role does not own the database, or if the
        connection was lost.
    """
    database = target.url.database
    with suppress(ServerError):
        async with answering(target.url.address):
            if tag := await read_tag(held, database):
                history = target.known_history
                recorded = with_digests(tag, target.service.name, history, before, at, run=run)
                return await write_tag_as_owner(held, database, recorded)
    return False


async def _other_tag(target: Target, held: "asyncpg.Connection") -> list[str]:
    """Return a sentence if the database has another environment's tag; empty list if not."""
    async with answering(target.url.address):
        tag = await read_tag(held, target.url.database)
    if tag is None or tag.environment == target.environment:
        return []
    return [f"{target.service.name}: is tagged as {tag.environment} now"]


async def _other_schema(planned: Planned, held: "asyncpg.Connection") -> list[str]:
    """Return a sentence if the schema is not the one that was compared; empty list if it is."""
    if not planned.fingerprint:
        return []
    async with answering(planned.target.url.address):
        if await read_fingerprint(held) == planned.fingerprint:
            return []
    return [f"{planned.pin.service}: its schema changed after it was compared with its revisions"]


def _not_compared(planned: Planned) -> list[str]:
    """Return a sentence if another run kept the schema from being compared; empty list if not."""
    if not planned.is_migrating:
        return []
    return [f"{planned.pin.service}: its schema was not compared, because another run migrated it"]


def _reason_not_to_begin(
    service: Service, outcomes: Mapping[str, Outcome], held: "asyncpg.Connection"
) -> str:
    """Return why a service cannot be migrated; empty string if it can."""
    for name in service.migrate_after:
        if name in outcomes and not outcomes[name]:
            return f"{name} must be migrated first"
    return "the lock on its database was lost" if held.is_closed() else ""


def _first_of_each_database(planned: Mapping[str, Planned]) -> dict[str, Planned]:
    """Return the first service of each database."""
    first: dict[tuple[str, str, int], str] = {}
    for name, entry in planned.items():
        first.setdefault(entry.place, name)
    return {name: planned[name] for name in first.values()}


def _with_database(outcome: Outcome, pin: PlanEntry) -> Outcome:
    """Return an outcome with the server, the database and its revisions before the run."""
    place = {"server": pin.server, "database": pin.database, "from": named(pin.before)}
    return replace(outcome, facts={**place, **outcome.facts})


def _summary(planned: Planned) -> str:
    """Return what would be changed in one database, with the number of dangers of each kind."""
    pin, revisions = planned.pin, planned.revisions
    counts = planned.counts
    dangers = ", ".join(f"{kind} {counts[kind]}" for kind in DANGERS if counts[kind])
    changes = (
        f"{named(pin.before)} -> {named(pin.after)}" if revisions else "",
        _count(len(revisions), "revision") if revisions else "",
        f"dangers: {dangers}" if dangers else "",
        f"tagged as {planned.target.environment}" if planned.tags else "",
    )
    return f"{pin.service}: {', '.join(filter(None, changes))}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
