"""Changing databases that are not ours to lose: plan, lock, plan again, back up, migrate, verify.

Whoever runs this at two in the morning, or twenty times at once, finds each database where it
was or where it should be, and a record that says which.
"""

import asyncio
import platform
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from huleedu_tasks import parallel
from huleedu_tasks.config.registry import Service, migrating_order
from huleedu_tasks.config.settings import Settings
from huleedu_tasks.errors import ExitCode, Finding, Refused, ServerError
from huleedu_tasks.migrations.runner import ApprovedInputs, named
from huleedu_tasks.parallel import Step
from huleedu_tasks.postgres import locks
from huleedu_tasks.postgres.connections import answering
from huleedu_tasks.postgres.databases import EnvironmentTag, read_tag, write_tag
from huleedu_tasks.process import scratch_directory
from huleedu_tasks.prod.attempt import Attempts
from huleedu_tasks.prod.backup import Backups
from huleedu_tasks.prod.journal import Record
from huleedu_tasks.prod.plan import Planned, changes_of_work, pin_now
from huleedu_tasks.prod.plan_file import PlanEntry, stale
from huleedu_tasks.prod.production import PLAN_COLUMNS, Production
from huleedu_tasks.prod.rendering import approval_of
from huleedu_tasks.prod.stop_request import GO_ON, Stop
from huleedu_tasks.prod.validate import Target, reach
from huleedu_tasks.report import Outcome, Progress, Report, Status

if TYPE_CHECKING:
    import asyncpg

COMMAND = "prod.migrate"
COLUMNS = ("database", "from", "to")
PLAN_CHANGED = "plan-changed"
NOTHING_PENDING = "nothing was pending"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What has been found and would be done, before anybody has agreed to it."""

    report: Report
    by_name: Mapping[str, Planned]

    @property
    def changing(self) -> tuple[Planned, ...]:
        """What is to be changed, in registry order."""
        return tuple(each for each in self.by_name.values() if each.changes)

    @property
    def hosts(self) -> tuple[str, ...]:
        """The hosts whose databases are to be changed."""
        return tuple(dict.fromkeys(each.host for each in self.changing))

    @property
    def all_hosts(self) -> tuple[str, ...]:
        """The hosts of all services, whether there is anything to change or not."""
        return tuple(dict.fromkeys(each.host for each in self.by_name.values()))

    @property
    def environment(self) -> str:
        """The environment, as every screen says it."""
        return self.report.environment.upper()

    def question(self, host: str) -> str:
        """Return what a person is asked before databases of a host are changed."""
        there = [each for each in self.changing if each.host == host]
        pending = sum(len(each.revisions) for each in there)
        migrated = {each.place for each in there if each.revisions}
        tagged = {each.place for each in there if each.tags}
        parts = (
            f"{_count(pending, 'revision')} will be applied to {_count(len(migrated), 'database')}"
            if migrated
            else "",
            f"{_count(len(tagged), 'database')} will be tagged as {self.report.environment}"
            if tagged
            else "",
        )
        return f"{self.environment}: {', and '.join(filter(None, parts))} on {host}."

    @property
    def unchanged(self) -> dict[str, Outcome]:
        """The outcomes so far, which stay for those that are not to be changed."""
        return {each.service: replace(each, revisions=()) for each in self.report.outcomes}


@dataclass(frozen=True, kw_only=True)
class Release:
    """One run of `prod.migrate`.

    Attributes:
        production: The services and where they are.
        backups: What is saved before the first change.
        first: Names of services that go before the others, which wait for them to end well.
        keep_going: Whether the others go on after one has failed.
        pins: What a plan from a file holds fast; None without one.
        notify: Told in a sentence what the run waits for.
        stop: Asked before each revision whether the run is to stop there.
    """

    production: Production
    record: Record
    backups: Backups
    first: Sequence[str] = ()
    keep_going: bool = False
    pins: tuple[PlanEntry, ...] | None = None
    notify: Callable[[str], object] = str
    stop: Stop = field(default_factory=Stop)

    def shown_by(self, progress: Progress) -> "Release":
        """Return the same run, shown by somebody else."""
        return replace(self, production=replace(self.production, progress=progress))

    async def prepare(self) -> Prepared:
        """Validate, and work out what would run.

        Raises:
            ConfigurationError: With everything that is wrong with the configuration.
            Refused: If a plan from a file no longer holds.
        """
        self.production.require_configuration(COMMAND)
        async with self.production.asking():
            outcomes, found = await self.production.plan_all()
        planned = {s.name: found[s.name] for s in self._services if s.name in found}
        report = self.production.report(COMMAND, self._all_or_none(outcomes), PLAN_COLUMNS)
        prepared = Prepared(report=report, by_name=planned)
        if report.exit_code is ExitCode.DONE:
            await self._require_pins(planned)
            self.record.add(
                "planned",
                services=[{**each.pin.as_json(), "marks": each.tags} for each in prepared.changing],
            )
        return prepared

    async def carry_out(self, prepared: Prepared) -> Report:
        """Do what was planned and agreed to.

        Raises:
            Refused: If a database is locked by somebody else or has moved; nothing is changed.
            BackupError: If a backup fails; nothing is changed.
        """
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(aclosing(self.production.answers))
            held = await self._lock_all(prepared.changing, stack)
            already = await self._plan_again(prepared, held)
            to_do = {n: p for n, p in prepared.by_name.items() if n in held and n not in already}
            self.record.require_written()
            notes = await self.backups.take(
                {name: self._target(each) for name, each in _first_of_each(to_do).items()},
                services=list(to_do),
                settings=self._settings,
                record=self.record,
                notify=self.notify,
            )
            directory = stack.enter_context(scratch_directory())
            with self.stop.listening(directory):
                changed = await self._change(to_do, held, directory)
        outcomes = {**prepared.unchanged, **already, **changed}
        report = self.production.report(
            COMMAND, tuple(outcomes[service.name] for service in self._services), COLUMNS
        )
        return replace(report, notes=(*notes, self._where_recorded))

    def nothing_planned(self) -> Report:
        """Return what a run comes to whose plan changes nothing; nobody is connected to."""
        return Report(
            command=COMMAND,
            environment=str(self._settings.environment),
            provider="external",
            provider_reason="nothing to connect to",
            outcomes=(),
            notes=("The plan changes nothing; nothing was changed.",),
        )

    def nothing_to_do(self, prepared: Prepared) -> Report:
        """Return what a run came to that had nothing to change."""
        report = self.production.report(COMMAND, prepared.report.outcomes, COLUMNS)
        return replace(report, notes=("Nothing is pending; nothing was changed.",))

    def would(self, prepared: Prepared) -> Report:
        """Return what a dry run comes to."""
        changing = {each.pin.service for each in prepared.changing}
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

    # What must hold.

    def _all_or_none(self, outcomes: tuple[Outcome, ...]) -> tuple[Outcome, ...]:
        """Let nothing go on where something stands in one service's way."""
        wrong = [outcome.service for outcome in outcomes if not outcome]
        reason = f"not begun: something stands in the way of {', '.join(wrong)}"
        return tuple(
            replace(outcome, status=Status.ABORTED, detail=reason) if wrong and outcome else outcome
            for outcome in outcomes
        )

    async def _require_pins(self, planned: Mapping[str, Planned]) -> None:
        """Refuse whatever is not exactly the plan from the file."""
        if self.pins is None:
            return
        changes = [text for pin in self.pins for text in stale(pin, planned[pin.service].pin)]
        for pin in self.pins if not changes else ():
            changes += await self._changes_of_work(pin, planned[pin.service])
        if changes:
            raise Refused(
                "The plan no longer holds; nothing was changed.",
                code=PLAN_CHANGED,
                findings=[Finding(place="", problem=change) for change in changes],
                hint="Make a new one, `invoke prod.plan --out FILE`, and have it looked at again.",
            )

    async def _changes_of_work(self, pin: PlanEntry, now: Planned) -> list[str]:
        return await changes_of_work(
            pin,
            now,
            self._target(now),
            self._settings,
            self.production.root,
            redact=self.production.redact,
        )

    async def _rendered_again(self, planned: Planned) -> list[str]:
        """Render the SQL once more, and return where it is not what was agreed to."""
        if not planned.revisions:
            return []
        target = self._target(planned)
        approval, _ = await approval_of(
            target,
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
        """Lock each database once, and return the connection that holds it, by service."""
        held: dict[tuple[str, str, int], asyncpg.Connection] = {}
        for each in changing:
            if each.place not in held:
                held[each.place] = await stack.enter_async_context(self._locked(each))
            else:
                self.record.add("locked", service=each.pin.service)
        return {each.pin.service: held[each.place] for each in changing}

    @asynccontextmanager
    async def _locked(self, planned: Planned) -> "AsyncIterator[asyncpg.Connection]":
        """Keep every other run away from a database for the time of a `with` block."""
        target = self._target(planned)
        place = f"{target.url.database} on {target.url.address}"
        async with reach(target) as held:
            # As long as it takes; who is waited for is told.
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
        """See that all is still as planned; return what another run has done meanwhile.

        Raises:
            Refused: If something has moved elsewhere than the plan goes.
        """
        done: dict[str, Outcome] = {}
        moved: list[str] = []
        for each in prepared.changing:
            target = self._target(each)
            now = await pin_now(target, held[each.pin.service])
            moved += await _other_tag(target, held[each.pin.service])
            if each.is_done(now):
                outcome = prepared.unchanged[each.pin.service]
                detail = "it has been migrated meanwhile"
                done[each.pin.service] = replace(outcome, detail=detail)
            else:
                moved += stale(each.pin, now)
        left = [each for each in prepared.changing if each.pin.service not in done]
        if not moved:
            for changes in await asyncio.gather(*map(self._rendered_again, left)):
                moved += changes
        if moved:
            raise Refused(
                "Something has moved since the plan was made; nothing was changed.",
                code=PLAN_CHANGED,
                findings=[Finding(place="", problem=change) for change in moved],
                hint="Run the same command again; it makes a new plan.",
            )
        return done

    # What is done.

    async def _change(
        self,
        to_do: Mapping[str, Planned],
        held: "Mapping[str, asyncpg.Connection]",
        directory: Path,
    ) -> dict[str, Outcome]:
        """Change one database after the other; the first failure stops what has not begun."""
        outcomes: dict[str, Outcome] = {}
        # What is known to be done stays so, should somebody interrupt at that very moment.
        done: dict[str, Outcome] = {}
        stopped: Outcome | None = None

        async def migrate(service: Service, step: Step) -> Outcome:
            planned = to_do[service.name]
            done[service.name] = await self._migrate(planned, held[service.name], directory, step)
            return done[service.name]

        for service in self._in_order(to_do):
            pin = to_do[service.name].pin
            lost = _why_impossible(service, outcomes, held[service.name])
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
            outcomes[service.name] = _placed(outcome, pin)
        return outcomes

    async def _migrate(
        self, planned: Planned, held: "asyncpg.Connection", directory: Path, step: Step
    ) -> Outcome:
        pin, target = planned.pin, self._target(planned)
        if not planned.revisions:
            # It was looked at behind the lock: there is nothing for Alembic to do.
            outcome = Outcome(service=pin.service, detail=NOTHING_PENDING, revisions=())
            outcome = replace(outcome, facts={"to": named(pin.after)})
            return await self._tag(outcome, held, target)
        step("migrating")
        history = await target.read_history()
        attempts = Attempts(
            target=target,
            settings=self._settings,
            history=history,
            pin=pin,
            identity=planned.identity,
            lock=held,
            record=self.record,
            directory=directory,
            step=step,
            go_on=directory / GO_ON,
            inputs=ApprovedInputs(root=self.production.root, digests=pin.approval.inputs),
        )
        self.record.add("migrating", service=pin.service, before=pin.before, after=pin.after)
        ended = await attempts.run()
        outcome = ended.outcome
        self.record.add(
            "migrated" if outcome else "not migrated",
            service=pin.service,
            before=pin.before,
            at=ended.at,
            revisions=[each.as_json() for each in outcome.revisions or ()],
            detail=outcome.detail,
            seconds=round(ended.seconds, 3),
        )
        at = None if ended.at is None else named(ended.at)
        outcome = replace(outcome, facts={"to": at})
        return await self._tag(outcome, held, target) if outcome and planned.tags else outcome

    async def _tag(self, outcome: Outcome, held: "asyncpg.Connection", target: Target) -> Outcome:
        """Mark a database that is migrated, which it stays whatever comes of this."""
        tagged = f"tagged as {target.environment}"
        try:
            async with answering(target.url.address):
                if await _other_tag(target, held):
                    raise ServerError(
                        "it was tagged as another environment's meanwhile",
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
        """Whether the others are migrated although one was not: never after a canary."""
        return (
            self.keep_going and failed.status is Status.FAILED and failed.service not in self.first
        )

    def _target(self, planned: Planned) -> Target:
        (service,) = [s for s in self._services if s.name == planned.pin.service]
        return self.production.target(service)

    @property
    def _services(self) -> tuple[Service, ...]:
        return self.production.services

    @property
    def _settings(self) -> Settings:
        return self.production.settings

    @property
    def _where_recorded(self) -> str:
        return f"The record of this run is {self.record.path}."


async def _other_tag(target: Target, held: "asyncpg.Connection") -> list[str]:
    """Say so where a database has been tagged as another environment's."""
    async with answering(target.url.address):
        tag = await read_tag(held, target.url.database)
    if tag is None or tag.environment == target.environment:
        return []
    return [f"{target.service.name}: is tagged as {tag.environment} now"]


def _why_impossible(
    service: Service, outcomes: Mapping[str, Outcome], held: "asyncpg.Connection"
) -> str:
    """Return why a service cannot be migrated although the run goes on; or an empty string."""
    for name in service.migrate_after:
        if name in outcomes and not outcomes[name]:
            return f"{name} must be migrated before it"
    return "the lock on its database was lost" if held.is_closed() else ""


def _first_of_each(planned: Mapping[str, Planned]) -> dict[str, Planned]:
    """Return the first service of each database."""
    first: dict[tuple[str, str, int], str] = {}
    for name, each in planned.items():
        first.setdefault(each.place, name)
    return {name: planned[name] for name in first.values()}


def _placed(outcome: Outcome, pin: PlanEntry) -> Outcome:
    """Return an outcome that says which database it is about, and where that was."""
    place = {"server": pin.server, "database": pin.database, "from": named(pin.before)}
    return replace(outcome, facts={**place, **outcome.facts})


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
