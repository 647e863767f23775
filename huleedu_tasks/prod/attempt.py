"""Migrating one database under the eyes of the run: watched, tried again, and asked afterwards."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from huleedu_tasks import parallel
from huleedu_tasks.config.settings import Settings
from huleedu_tasks.errors import (
    ExitCode,
    HuleEduError,
    Refused,
    ServerError,
)
from huleedu_tasks.migrations import runner
from huleedu_tasks.migrations.revisions import History
from huleedu_tasks.migrations.rollback import (
    PARTIAL_HINT,
    Fate,
    Unfinished,
    open_transaction,
    unfinished,
)
from huleedu_tasks.migrations.runner import (
    ApprovedInputs,
    LockTimeout,
    Migrated,
    Observation,
    named,
)
from huleedu_tasks.parallel import Step
from huleedu_tasks.postgres import locks
from huleedu_tasks.postgres.connections import answering
from huleedu_tasks.postgres.databases import VersionTable
from huleedu_tasks.postgres.inspection import Identity, read_revisions
from huleedu_tasks.prod.journal import Record
from huleedu_tasks.prod.plan import pin_now
from huleedu_tasks.prod.plan_file import PlanEntry, stale
from huleedu_tasks.prod.validate import Target, reach
from huleedu_tasks.report import Outcome, Status

if TYPE_CHECKING:
    import asyncpg

BETWEEN_LOOKS = 0.2
LAST_LOOK = 2.0
LONGEST_PAUSE = 30.0
# PostgreSQL, Appendix A: connection exceptions, and a session ended by an administrator.
SESSION_ENDS = ("08", "57P")
# The server looks this often whether its client is still there; not every one can.
OPTIONAL_SETTINGS = {"client_connection_check_interval": "500ms"}


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
        directory: Where the runs of Alembic tell what they do.
        inputs: The files that must be loaded as they were approved; None to compare none.
        go_on: A file; no further revision is begun once it is gone. None to run all.
    """

    target: Target
    settings: Settings
    history: History
    pin: PlanEntry
    identity: Identity
    lock: "asyncpg.Connection"
    record: Record
    directory: Path
    step: Step
    inputs: ApprovedInputs | None = None
    go_on: Path | None = None
    blockers: tuple[locks.Blocker, ...] = ()
    observations: list[Observation] = field(default_factory=list)
    told: str = ""
    hold: locks.Hold | None = None
    # The transaction that was open when we ended the last attempt.
    open_at_end: int | None = None
    # One question at a time on the connection that holds the lock.
    asking: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def run(self) -> Ended:
        """Migrate, and ask the database where it is, whatever has happened."""
        started = time.monotonic()
        try:
            outcome = await self._until_done()
        except GeneratorExit:
            raise
        except BaseException as error:
            outcome = parallel.unfinished(self.target.service, error)
        # Whoever interrupts once more waits for this; else nobody would know what was done.
        outcome, at = await parallel.whatever_happens(self._conclude(outcome))
        return Ended(outcome=outcome, at=at, seconds=time.monotonic() - started)

    async def _conclude(self, outcome: Outcome) -> tuple[Outcome, tuple[str, ...] | None]:
        """Have all rolled back that is not done, and say where the database is."""
        if outcome.status is Status.FAILED:
            outcome = await self._explained(outcome)
        try:
            at, lost = await self._settle()
        except Exception as error:
            why = error.message if isinstance(error, HuleEduError) else f"{error!r}"
            return self._not_known(outcome, why), None
        applied = runner.applied(self.observations, self.history, self.pin.before, at)
        if outcome.code == locks.LOST:
            # Another run may have applied the others.
            applied = tuple(each for each in applied if each.seconds is not None)
        outcome = replace(outcome, revisions=applied)
        if outcome and at == self.pin.after:
            return replace(outcome, detail=_counted(len(applied))), at
        if outcome:
            detail = f"it was to go to {named(self.pin.after)}"
            outcome = replace(
                outcome,
                status=Status.FAILED,
                exit_code=ExitCode.FAILED,
                code="revision-not-reached",
                detail=detail,
            )
        if lost and lost.fate is Fate.PARTIAL:
            outcome = replace(outcome, hint=PARTIAL_HINT)
        where = f"{self.pin.database} is at {named(at)}"
        where = f"{where}, and {lost}" if lost else where
        return replace(outcome, detail=parallel.joined(outcome, where)), at

    def _not_known(self, outcome: Outcome, why: str) -> Outcome:
        asks = f"`invoke prod.status --service {self.pin.service}` asks again"
        where = f"the revision of {self.pin.database} is not known: {why.rstrip('.')}; {asks}"
        if outcome:
            # What was not seen is no success.
            outcome = replace(
                outcome,
                status=Status.FAILED,
                exit_code=ExitCode.FAILED,
                code="revision-unverified",
            )
        return replace(outcome, detail=parallel.joined(outcome, where), revisions=())

    async def _until_done(self) -> Outcome:
        """Try again as long as nothing but another session's lock stands in the way."""
        async with self._on_lock():
            self.hold = await locks.take_token(self.lock, place=self._place)
        last = self.settings.lock_attempts
        number = 1
        while True:
            await self._require_plan(first=number == 1)
            try:
                migrated = await self._attempt(number)
                return Outcome(service=self.pin.service, output=migrated.output)
            except LockTimeout as error:
                error.message = f"{error.message}; {self._who_blocks()}"
                if number >= last or not await self._was_rolled_back():
                    raise
            await self._pause(number, last)
            number += 1

    async def _was_rolled_back(self) -> bool:
        """Whether the server says that nothing of the last attempt is left."""
        try:
            _, lost = await self._settle()
        except ServerError:
            return False
        return lost is None or lost.fate is Fate.ROLLED_BACK

    async def _explained(self, outcome: Outcome) -> Outcome:
        """Name the loss of the lock as the cause of what has failed because of it."""
        if outcome.exit_code is ExitCode.REFUSED or not self.hold:
            return outcome
        with suppress(Exception):
            async with self._on_lock():
                if await locks.is_held(self.lock, self.hold):
                    return outcome
        done = f"its migration was ended: {outcome.detail.rstrip('.')}"
        lost = parallel.failed(self.target.service, locks.lock_lost(self._place, done))
        return replace(lost, output=outcome.output)

    @property
    def _place(self) -> str:
        return f"{self.pin.database} on {self.target.url.address}"

    async def _require_plan(self, *, first: bool) -> None:
        """See that what is about to run is what was agreed to, down to each file.

        Args:
            first: Whether the database must be where it was; later it may have come further.

        Raises:
            MigrationError: If it is not.
            Refused: If it is not, or the lock is lost.
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
        self._say(f"attempt {number} of {last}: {blockers}; {again}")
        await asyncio.sleep(pause)

    async def _attempt(self, number: int) -> Migrated:
        """Run Alembic once, and end it should the lock be lost meanwhile."""
        observation = self._observation(number)
        self.observations.append(observation)
        self.blockers, self.open_at_end = (), None
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
                read=self._read,
            )
        )
        over = asyncio.Event()
        watching = asyncio.ensure_future(self._watch(observation, over))
        try:
            await asyncio.wait({migrating, watching}, return_when=asyncio.FIRST_COMPLETED)
            if not migrating.done():
                watching.result()
            return await migrating
        except Refused as error:
            if error.code == locks.LOST:
                # Nothing more is asked there; it may not even answer.
                self.lock.terminate()
            raise
        finally:
            if not migrating.done():
                await parallel.whatever_happens(self._look(observation))
            migrating.cancel()
            # A question that is cut off would leave the lock's connection busy.
            over.set()
            await asyncio.gather(migrating, watching, return_exceptions=True)

    async def _look(self, observation: Observation) -> None:
        """See whether the transaction of a revision is open, before the run is ended."""
        # Who does not answer soon does not keep it from being ended.
        with suppress(HuleEduError, TimeoutError):
            async with asyncio.timeout(LAST_LOOK), self._asked() as asked:
                self.open_at_end = await open_transaction(observation, asked)

    async def _watch(self, observation: Observation, over: asyncio.Event) -> None:
        """Tell which revision runs and whom it waits for, until it is over.

        Raises:
            Refused: If the connection that holds the lock is lost.
        """
        name = locks.run_name(self.record.run)
        while not await _is_set(over, within=BETWEEN_LOOKS):
            try:
                async with self._on_lock():
                    blockers = await locks.blockers(self.lock, name)
            except ServerError:
                # Another session has cancelled the question, and not the lock.
                continue
            self.blockers = blockers or self.blockers
            waits = ", ".join(blocker.name for blocker in blockers)
            if begun := observation.begun:
                self._tell(f"running {begun}" + (f", waiting for {waits}" if waits else ""))

    @asynccontextmanager
    async def _on_lock(self) -> AsyncIterator[None]:
        """Ask on the connection that holds the lock: where it is lost, so is the lock."""
        try:
            async with self.asking, answering(self.target.url.address):
                yield
        except ServerError as error:
            if not self._is_lost(error):
                raise
            done = f"its migration was ended: {error.message.rstrip('.')}"
            raise locks.lock_lost(self._place, done) from error.__cause__

    def _is_lost(self, error: ServerError) -> bool:
        """Whether the lock's session does not answer any more, and not only to a question."""
        cause = error.__cause__
        state = str(getattr(cause, "sqlstate", None) or "")
        return (
            self.lock.is_closed()
            or isinstance(cause, TimeoutError)
            or state.startswith(SESSION_ENDS)
        )

    def _tell(self, text: str) -> None:
        """Say what is new; in a log each step is a line."""
        if text != self.told:
            self.told = text
            self._say(text)

    def _say(self, text: str) -> None:
        # Who only looks on does not end a migration in its middle.
        with suppress(Exception):
            self.step(text)

    async def _settle(self) -> tuple[tuple[str, ...], Unfinished | None]:
        """End what is left of our sessions, so that all is rolled back, and ask where we are.

        Raises:
            ServerError: If the database does not say.
        """
        async with self._asked() as asked:
            async with answering(self.target.url.address):
                await locks.end_runs(asked, locks.run_name(self.record.run), self.hold)
            at = await self._revisions(asked)
            if not self.observations:
                return at, None
            recorded = [each.id for each in self.history.between((), at)]
            last = self.observations[-1]
            return at, await unfinished(last, asked, recorded, open_at_end=self.open_at_end)

    @asynccontextmanager
    async def _asked(self) -> "AsyncIterator[asyncpg.Connection]":
        """Connect to the database, or ask on the lock's connection where it lets nobody else in."""
        async with AsyncExitStack() as stack:
            try:
                asked = await stack.enter_async_context(reach(self.target))
            except ServerError:
                if self.lock.is_closed():
                    raise
                await stack.enter_async_context(self.asking)
                asked = self.lock
            yield asked

    async def _read(self, tables: Sequence[VersionTable] | None) -> tuple[str, ...]:
        async with self._asked() as asked:
            return self.history.least_advanced(await read_revisions(asked, tables))

    async def _revisions(self, asked: "asyncpg.Connection") -> tuple[str, ...]:
        """Ask for the revisions in the version tables that Alembic has configured last."""
        last = self.observations[-1] if self.observations else None
        if last and last.version_tables:
            return self.history.least_advanced(await read_revisions(asked, last.version_tables))
        return await self.target.read_revisions(asked)

    def _observation(self, number: int) -> Observation:
        service = self.target.service
        waits = {
            "lock_timeout": _stated_or(service.lock_timeout, self.settings.lock_timeout),
            "statement_timeout": _stated_or(
                service.statement_timeout, self.settings.statement_timeout
            ),
        }
        return Observation(
            events=self.directory / f"{service.name}-{number}",
            settings={
                "application_name": locks.run_name(self.record.run),
                **{name: f"{seconds * 1000:.0f}ms" for name, seconds in waits.items()},
            },
            optional_settings=OPTIONAL_SETTINGS,
            target=self.identity.place,
            hold=self.hold,
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
