"""Migrate one database: watch the run of Alembic, retry on a lock timeout, verify the revision."""

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
from huleedu_tasks.migrations.alembic_failures import LockTimeout
from huleedu_tasks.migrations.observation import ApprovedInputs, Observation, applied_revisions
from huleedu_tasks.migrations.results import Migrated
from huleedu_tasks.migrations.revision_graph import graph_of_database
from huleedu_tasks.migrations.revisions import History, named
from huleedu_tasks.migrations.unfinished_revision import (
    PARTIAL_HINT,
    Fate,
    Unfinished,
    open_transaction,
    unfinished,
)
from huleedu_tasks.parallel import Step
from huleedu_tasks.postgres import locks
from huleedu_tasks.postgres.connections import answering
from huleedu_tasks.postgres.databases import VersionTable
from huleedu_tasks.postgres.inspection import Identity
from huleedu_tasks.postgres.version_tables import read_revisions
from huleedu_tasks.prod.journal import Record
from huleedu_tasks.prod.plan import pin_now
from huleedu_tasks.prod.plan_file import PlanEntry, stale
from huleedu_tasks.prod.target import Target, reach
from huleedu_tasks.prod.time_limits import time_limits
from huleedu_tasks.report import Outcome, Status

if TYPE_CHECKING:
    import asyncpg

WATCH_INTERVAL_SECONDS = 0.2
LAST_LOOK_SECONDS = 2.0
LONGEST_PAUSE_SECONDS = 30.0
# PostgreSQL, Appendix A: connection exceptions, and a session ended by an administrator.
SESSION_ENDS = ("08", "57P")
# How often the server checks that its client is still connected; some platforms do not support it.
OPTIONAL_SETTINGS = {"client_connection_check_interval": "500ms"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The result of migrating one database.

    Attributes:
        at: The revisions in the version tables afterwards; `None` if they could not be read.
        seconds: The duration of all attempts.
    """

    outcome: Outcome
    at: tuple[str, ...] | None
    seconds: float


@dataclass(kw_only=True)
class Attempts:
    """The attempts to migrate one database.

    Attributes:
        pin: The plan entry of the service.
        identity: The identity of the planned database.
        lock: The connection that holds the advisory lock; the database is watched through it.
        directory: The directory in which the Alembic processes write their events.
        inputs: The approved files, compared when they are loaded; `None` to compare none.
        go_on: A file. No further revision is begun after it was removed. `None` to run all.
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
    last_shown: str = ""
    hold: locks.Hold | None = None
    # The transaction that was open when the last attempt was stopped.
    open_at_end: int | None = None
    # asyncpg runs one statement at a time on the connection that holds the lock.
    statement_turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def run(self) -> Ended:
        """Migrate, then read the revision of the database, also after a failure."""
        started = time.monotonic()
        try:
            outcome = await self._until_done()
        except GeneratorExit:
            raise
        except BaseException as error:
            outcome = parallel.unfinished(self.target.service, error)
        # A second interrupt waits for this; without it the result would be unknown.
        outcome, at = await parallel.run_to_end(self._conclude(outcome))
        return Ended(outcome=outcome, at=at, seconds=time.monotonic() - started)

    async def _conclude(self, outcome: Outcome) -> tuple[Outcome, tuple[str, ...] | None]:
        """End the sessions that are left, and return the outcome and the revisions.

        The revisions are `None` if they could not be read.
        """
        if outcome.status is Status.FAILED:
            outcome = await self._with_cause(outcome)
        try:
            at, lost = await self._end_sessions()
        except Exception as error:
            why = error.message if isinstance(error, HuleEduError) else f"{error!r}"
            return self._unverified(outcome, why), None
        applied = applied_revisions(self.observations, self.history, self.pin.before, at)
        if outcome.code == locks.LOST:
            # Another run may have applied the others.
            applied = tuple(revision for revision in applied if revision.seconds is not None)
        graph = graph_of_database(self.history, at)
        outcome = replace(outcome, revisions=applied, graph=graph)
        if outcome and at == self.pin.after:
            return replace(outcome, detail=_revisions_applied(len(applied))), at
        if outcome:
            detail = f"Alembic exited before it reached {named(self.pin.after)}"
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

    def _unverified(self, outcome: Outcome, why: str) -> Outcome:
        again = f"run `invoke prod.status --service {self.pin.service}` to read it again"
        where = f"the revision of {self.pin.database} is not known: {why.rstrip('.')}; {again}"
        if outcome:
            # A result that was not verified is not a success.
            outcome = replace(
                outcome,
                status=Status.FAILED,
                exit_code=ExitCode.FAILED,
                code="revision-unverified",
            )
        return replace(outcome, detail=parallel.joined(outcome, where), revisions=())

    async def _until_done(self) -> Outcome:
        """Migrate, and retry while another session's lock is the only cause of failure."""
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
                said = f"{error.message}; {self._blocking_sessions()}"
                if number >= last or not await self._was_rolled_back():
                    raise error.changed(message=said) from error
            await self._pause(number, last)
            number += 1

    async def _was_rolled_back(self) -> bool:
        """Whether the server reports that the last attempt was rolled back completely."""
        try:
            _, lost = await self._end_sessions()
        except ServerError:
            return False
        return lost is None or lost.fate is Fate.ROLLED_BACK

    async def _with_cause(self, outcome: Outcome) -> Outcome:
        """Return an outcome with the loss of the lock as its cause, if the lock was lost."""
        if outcome.exit_code is ExitCode.REFUSED or not self.hold:
            return outcome
        with suppress(Exception):
            async with self._on_lock():
                if await locks.is_held(self.lock, self.hold):
                    return outcome
        done = f"its migration was stopped: {outcome.detail.rstrip('.')}"
        lost = parallel.failed(self.target.service, locks.lock_lost(self._place, done))
        return replace(lost, output=outcome.output)

    @property
    def _place(self) -> str:
        return f"{self.pin.database} on {self.target.url.address}"

    async def _require_plan(self, *, first: bool) -> None:
        """Require that the database and the revision files are those of the confirmed plan.

        Both are read again: the migrations before this one, or a pause, may have taken long.

        Args:
            first: Whether the database must be at the planned revision; after an attempt it may
                be at a later one.

        Raises:
            MigrationError: If the revision files cannot be read.
            Refused: If something changed, or the lock was lost.
        """
        async with self._on_lock():
            now = await pin_now(self.target, self.lock)
        expected = self.pin if first else self.pin.from_where(now)
        if changes := stale(expected, now):
            changed = "; ".join(changes).removeprefix(f"{self.pin.service}: ")
            when = "before any change" if first else "before the next attempt"
            raise Refused(
                f"Aborted {when}: the database or a file changed after the plan was confirmed: "
                f"{changed}.",
                code="plan-changed",
                hint="Run the same command again. If --plan is refused again, make a new plan with "
                "`invoke prod.plan --out FILE`.",
            )

    async def _pause(self, number: int, last: int) -> None:
        pause = min(2.0 ** (number - 1), LONGEST_PAUSE_SECONDS) * random.uniform(0.8, 1.2)
        blockers = self._blocking_sessions()
        self.record.add(
            "waited too long", service=self.pin.service, attempt=number, blockers=blockers
        )
        again = f"rolled back, retrying in {pause:.0f} s"
        self._show(f"attempt {number} of {last}: {blockers}; {again}")
        await asyncio.sleep(pause)

    async def _attempt(self, number: int) -> Migrated:
        """Run Alembic once, and stop it if the lock is lost."""
        observation = self._observation(number)
        self.observations.append(observation)
        self.blockers, self.open_at_end = (), None
        migrating = asyncio.ensure_future(
            runner.upgrade(
                self.target.histories.alembic(self.target.service, self.target.url),
                self.history,
                # The planned revisions: the head of the files may change meanwhile.
                *self.pin.after,
                session=observation,
                tables=self.target.histories.known_version_tables(
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
                # This connection is not used any more, and closing it could wait without limit.
                self.lock.terminate()
            raise
        finally:
            if not migrating.done():
                await parallel.run_to_end(self._note_open_transaction(observation))
            migrating.cancel()
            # A cancelled statement would leave the lock's connection busy.
            over.set()
            await asyncio.gather(migrating, watching, return_exceptions=True)

    async def _note_open_transaction(self, observation: Observation) -> None:
        """Note the open transaction of a revision, before the run is stopped."""
        # A server that does not answer in time must not delay the stop.
        with suppress(HuleEduError, TimeoutError):
            async with asyncio.timeout(LAST_LOOK_SECONDS), self._connected() as opened:
                self.open_at_end = await open_transaction(observation, opened)

    async def _watch(self, observation: Observation, over: asyncio.Event) -> None:
        """Show the running revision and the sessions that block it, until `over` is set.

        Raises:
            Refused: If the connection that holds the lock is lost.
        """
        name = locks.run_name(self.record.run)
        while not await _is_set(over, within=WATCH_INTERVAL_SECONDS):
            try:
                async with self._on_lock():
                    blockers = await locks.blockers(self.lock, name)
            except ServerError:
                # Another session cancelled the statement; the lock is still held.
                continue
            self.blockers = blockers or self.blockers
            waits = ", ".join(blocker.name for blocker in blockers)
            if begun := observation.begun:
                self._show_once(f"running {begun}" + (f", waiting for {waits}" if waits else ""))

    @asynccontextmanager
    async def _on_lock(self) -> AsyncIterator[None]:
        """Use the connection that holds the lock in a `with` block.

        Raises:
            Refused: If the connection, and with it the lock, was lost.
            ServerError: If a statement failed and the lock is still held.
        """
        try:
            async with self.statement_turn, answering(self.target.url.address):
                yield
        except ServerError as error:
            if not self._is_lost(error):
                raise
            done = f"its migration was stopped: {error.message.rstrip('.')}"
            raise locks.lock_lost(self._place, done) from error.__cause__

    def _is_lost(self, error: ServerError) -> bool:
        """Whether an error ended the session of the lock, and not only one statement."""
        cause = error.__cause__
        state = str(getattr(cause, "sqlstate", None) or "")
        return (
            self.lock.is_closed()
            or isinstance(cause, TimeoutError)
            or state.startswith(SESSION_ENDS)
        )

    def _show_once(self, text: str) -> None:
        """Show a step once, because in a log each step is a line."""
        if text != self.last_shown:
            self.last_shown = text
            self._show(text)

    def _show(self, text: str) -> None:
        # An error of the display must not end a migration.
        with suppress(Exception):
            self.step(text)

    async def _end_sessions(self) -> tuple[tuple[str, ...], Unfinished | None]:
        """End the sessions of this run, which rolls them back, and read the revisions.

        Returns:
            The revisions, and the unfinished revision; `None` if every begun one is recorded.

        Raises:
            ServerError: If the database does not answer.
        """
        async with self._connected() as opened:
            async with answering(self.target.url.address):
                await locks.end_runs(opened, locks.run_name(self.record.run), self.hold)
            at = await self._revisions(opened)
            if not self.observations:
                return at, None
            recorded = [revision.id for revision in self.history.between((), at)]
            last = self.observations[-1]
            return at, await unfinished(last, opened, recorded, open_at_end=self.open_at_end)

    @asynccontextmanager
    async def _connected(self) -> "AsyncIterator[asyncpg.Connection]":
        """Connect to the database; use the lock's connection if it accepts no other one."""
        async with AsyncExitStack() as stack:
            try:
                opened = await stack.enter_async_context(reach(self.target))
            except ServerError:
                if self.lock.is_closed():
                    raise
                await stack.enter_async_context(self.statement_turn)
                opened = self.lock
            yield opened

    async def _read(self, tables: Sequence[VersionTable] | None) -> tuple[str, ...]:
        async with self._connected() as opened:
            return self.history.least_advanced(await read_revisions(opened, tables))

    async def _revisions(self, opened: "asyncpg.Connection") -> tuple[str, ...]:
        """Return the revisions in the version tables that Alembic configured last."""
        last = self.observations[-1] if self.observations else None
        if last and last.version_tables:
            return self.history.least_advanced(await read_revisions(opened, last.version_tables))
        return await self.target.read_revisions(opened)

    def _observation(self, number: int) -> Observation:
        service = self.target.service
        return Observation(
            events=self.directory / f"{service.name}-{number}",
            settings={
                "application_name": locks.run_name(self.record.run),
                **time_limits(service, self.settings).as_parameters(),
            },
            optional_settings=OPTIONAL_SETTINGS,
            target=self.identity.place,
            hold=self.hold,
            inputs=self.inputs,
            go_on=self.go_on,
        )

    def _blocking_sessions(self) -> str:
        if not self.blockers:
            return "the session that holds the lock was not seen"
        return f"the lock is held by {', '.join(map(str, self.blockers))}"


async def _is_set(event: asyncio.Event, *, within: float) -> bool:
    try:
        async with asyncio.timeout(within):
            return await event.wait()
    except TimeoutError:
        return False


def _revisions_applied(count: int) -> str:
    if not count:
        return "nothing was pending"
    return "1 revision applied" if count == 1 else f"{count} revisions applied"
