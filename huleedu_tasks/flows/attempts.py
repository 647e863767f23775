"""Migrating one database under the eyes of the run: watched, tried again, and asked afterwards."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from huleedu_tasks.config.settings import Settings
from huleedu_tasks.errors import ExitCode, HuleEduError, Refused, ServerError
from huleedu_tasks.flows import fleet
from huleedu_tasks.flows.fleet import Step
from huleedu_tasks.flows.pins import Pin, stale
from huleedu_tasks.flows.planning import pin_now
from huleedu_tasks.flows.validation import Target, reach
from huleedu_tasks.journal import Record
from huleedu_tasks.migrations import runner
from huleedu_tasks.migrations.revisions import History
from huleedu_tasks.migrations.runner import (
    ApprovedInputs,
    LockTimeout,
    Migrated,
    Observation,
    named,
)
from huleedu_tasks.postgres import locks
from huleedu_tasks.postgres.connections import answering
from huleedu_tasks.postgres.databases import VersionTable
from huleedu_tasks.postgres.inspection import Identity, read_revisions
from huleedu_tasks.report import Outcome, Status

if TYPE_CHECKING:
    import asyncpg

BETWEEN_LOOKS = 0.2
LONGEST_PAUSE = 30.0
# The server looks this often whether its client is still there; not every one can.
WISHES = {"client_connection_check_interval": "500ms"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How the work on a database has ended.

    Attributes:
        at: The revisions it is at, as it says itself; None if it could not be asked.
    """

    outcome: Outcome
    at: tuple[str, ...] | None
    seconds: float


@dataclass(kw_only=True)
class Attempts:
    """The attempts to migrate one database.

    Attributes:
        lock: The connection that holds the lock, on which the database is watched.
        identity: Which database is meant.
        folder: Where the runs of Alembic tell what they do.
        inputs: The files that must be loaded as they were approved; None to compare none.
        go_on: A file; no further revision is begun once it is gone. None to run all.
    """

    target: Target
    settings: Settings
    history: History
    pin: Pin
    identity: Identity
    lock: "asyncpg.Connection"
    record: Record
    folder: Path
    step: Step
    inputs: ApprovedInputs | None = None
    go_on: Path | None = None
    blockers: tuple[locks.Blocker, ...] = ()
    observations: list[Observation] = field(default_factory=list)
    told: str = ""

    async def run(self) -> Ended:
        """Migrate, and ask the database where it is, whatever has happened."""
        started = time.monotonic()
        try:
            outcome = await self._until_done()
        except HuleEduError as error:
            outcome = fleet.failed(self.target.service, error)
        except asyncio.CancelledError:
            outcome = fleet.interrupted(self.target.service.name)
        # Whoever interrupts once more waits for this; else nobody would know what was done.
        outcome, at = await fleet.whatever_happens(self._conclude(outcome))
        return Ended(outcome=outcome, at=at, seconds=time.monotonic() - started)

    async def _conclude(self, outcome: Outcome) -> tuple[Outcome, tuple[str, ...] | None]:
        """Have all rolled back that is not done, and say where the database is."""
        try:
            at = await self._settle()
        except ServerError as error:
            where = f"where {self.pin.database} is cannot be told: {error.message}"
            return replace(outcome, detail=_joined(outcome, where), revisions=()), None
        applied = runner.applied(self.observations, self.history, self.pin.before, at)
        outcome = replace(outcome, revisions=applied)
        if outcome and at == self.pin.after:
            return replace(outcome, detail=_counted(len(applied))), at
        if outcome:
            detail = f"it was to go to {named(self.pin.after)}"
            outcome = replace(
                outcome, status=Status.FAILED, exit_code=ExitCode.FAILED, detail=detail
            )
        return replace(outcome, detail=_joined(outcome, self._where(at))), at

    def _where(self, at: tuple[str, ...]) -> str:
        where = f"{self.pin.database} is at {named(at)}"
        last = self.observations[-1] if self.observations else None
        if last and last.kept:
            return (
                f"{where}, and a part of revision {last.kept} may stay: it commits before its end"
            )
        lost = last and last.begun and last.begun not in at
        return f"{where}, and nothing stays of revision {last.begun}" if last and lost else where

    async def _until_done(self) -> Outcome:
        """Try again as long as nothing but somebody's lock stands in the way."""
        last = self.settings.lock_attempts
        number = 1
        while True:
            await self._require_plan(first=number == 1)
            try:
                migrated = await self._attempt(number)
                return Outcome(service=self.pin.service, output=migrated.output)
            except LockTimeout as error:
                error.message = f"{error.message}; {self._who_blocks()}"
                if number >= last or self.observations[-1].kept:
                    raise
            await self._pause(number, last)
            number += 1

    async def _require_plan(self, *, first: bool) -> None:
        """See that what is about to run is what was agreed to, down to each file.

        Args:
            first: Whether the database must be where it was; later it may have come further.

        Raises:
            Refused: If it is not.
        """
        async with self._on_lock():
            now = await pin_now(self.target, self.lock)
        expected = self.pin if first else self.pin.from_where(now)
        if changes := stale(expected, now):
            changed = "; ".join(changes).removeprefix(f"{self.pin.service}: ")
            raise Refused(
                f"Nothing was run, for it would not be what was agreed to: {changed}.",
                code="plan-changed",
                hint="Run the same command again; it makes a new plan.",
            )

    async def _pause(self, number: int, last: int) -> None:
        pause = min(2.0 ** (number - 1), LONGEST_PAUSE) * random.uniform(0.8, 1.2)
        blockers = self._who_blocks()
        self.record.add(
            "waited too long", service=self.pin.service, attempt=number, blockers=blockers
        )
        again = f"rolled back, and again in {pause:.0f} s"
        self.step(f"attempt {number} of {last}: {blockers}; {again}")
        await asyncio.sleep(pause)

    async def _attempt(self, number: int) -> Migrated:
        """Run Alembic once, and end it should the lock be lost meanwhile."""
        observation = self._observation(number)
        self.observations.append(observation)
        self.blockers = ()
        migrating = asyncio.ensure_future(
            runner.upgrade(
                self.target.service,
                self.target.url,
                self.settings,
                self.history,
                # Not to what may be the head by then.
                *self.pin.after,
                session=observation,
                tables=self.target.answers.known_version_tables(
                    self.target.service, self.target.url
                ),
            )
        )
        over = asyncio.Event()
        watching = asyncio.ensure_future(self._watch(observation, over))
        try:
            await asyncio.wait({migrating, watching}, return_when=asyncio.FIRST_COMPLETED)
            if not migrating.done():
                watching.result()
            return await migrating
        finally:
            migrating.cancel()
            # A question that is cut off would leave the lock's connection busy.
            over.set()
            await asyncio.gather(migrating, watching, return_exceptions=True)

    async def _watch(self, observation: Observation, over: asyncio.Event) -> None:
        """Tell which revision runs and whom it waits for, until it is over.

        Raises:
            ServerError: If the connection that holds the lock is lost.
        """
        name = locks.run_name(self.record.run)
        while not await _is_set(over, within=BETWEEN_LOOKS):
            try:
                async with self._on_lock():
                    blockers = await locks.blockers(self.lock, name)
            except ServerError as error:
                if self.lock.is_closed() or isinstance(error.__cause__, TimeoutError):
                    raise
                # Somebody has cancelled the question, and not the lock.
                continue
            self.blockers = blockers or self.blockers
            waits = ", ".join(blocker.name for blocker in blockers)
            if begun := observation.begun:
                self._tell(f"running {begun}" + (f", waiting for {waits}" if waits else ""))

    @asynccontextmanager
    async def _on_lock(self) -> AsyncIterator[None]:
        """Ask on the connection that holds the lock: where it is lost, so is the lock."""
        try:
            async with answering(self.target.url.address):
                yield
        except ServerError as error:
            raise ServerError(
                "The connection with the lock is lost, so the migration was ended: "
                f"{error.message}",
                hint="Run the same command again; it begins where the database is.",
            ) from error.__cause__

    def _tell(self, text: str) -> None:
        """Say what is new; in a log each step is a line."""
        if text != self.told:
            self.told = text
            self.step(text)

    async def _settle(self) -> tuple[str, ...]:
        """End what is left of our sessions, so that all is rolled back, and ask where we are."""
        async with reach(self.target) as asked:
            async with answering(self.target.url.address):
                await locks.end_runs(asked, locks.run_name(self.record.run))
            tables = self._version_tables
            if tables is None:
                return await self.target.read_revisions(asked)
            return self.history.least_advanced(await read_revisions(asked, tables))

    @property
    def _version_tables(self) -> tuple[VersionTable, ...] | None:
        """The version tables that the last run of Alembic configured; None if there was none."""
        last = self.observations[-1] if self.observations else None
        return (last.version_tables if last else ()) or None

    def _observation(self, number: int) -> Observation:
        service = self.target.service
        waits = {
            "lock_timeout": _stated_or(service.lock_timeout, self.settings.lock_timeout),
            "statement_timeout": _stated_or(
                service.statement_timeout, self.settings.statement_timeout
            ),
        }
        return Observation(
            events=self.folder / f"{service.name}-{number}",
            settings={
                "application_name": locks.run_name(self.record.run),
                **{name: f"{seconds * 1000:.0f}ms" for name, seconds in waits.items()},
            },
            wishes=WISHES,
            target=self.identity.place,
            inputs=self.inputs,
            go_on=self.go_on,
        )

    def _who_blocks(self) -> str:
        if not self.blockers:
            return "who holds it did not show"
        return f"it is held by {', '.join(map(str, self.blockers))}"


async def _is_set(event: asyncio.Event, *, within: float) -> bool:
    try:
        async with asyncio.timeout(within):
            return await event.wait()
    except TimeoutError:
        return False


def _stated_or(stated: int | None, usual: float) -> float:
    return usual if stated is None else stated


def _counted(count: int) -> str:
    if not count:
        return "nothing was pending"
    return "1 revision applied" if count == 1 else f"{count} revisions applied"


def _joined(outcome: Outcome, more: str) -> str:
    return f"{outcome.detail.rstrip('.')}; {more}"
