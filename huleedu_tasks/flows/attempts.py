"""Migrating one database under the eyes of the run: watched, tried again, and asked afterwards."""

import asyncio
import random
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from huleedu_tasks.config.settings import Settings
from huleedu_tasks.errors import ExitCode, HuleEduError, ServerError
from huleedu_tasks.flows import fleet
from huleedu_tasks.flows.fleet import Step
from huleedu_tasks.flows.pins import Pin
from huleedu_tasks.flows.validation import Target, reach
from huleedu_tasks.journal import Record
from huleedu_tasks.migrations import runner
from huleedu_tasks.migrations.revisions import History
from huleedu_tasks.migrations.runner import AlembicFailed, LockTimeout, Migrated, Session, named
from huleedu_tasks.postgres import locks
from huleedu_tasks.postgres.connections import answering
from huleedu_tasks.postgres.databases import current_revisions
from huleedu_tasks.postgres.inspection import Identity
from huleedu_tasks.report import Outcome, Status

if TYPE_CHECKING:
    import asyncpg

BETWEEN_LOOKS = 0.2
LONGEST_PAUSE = 30.0
ANSWER_TIMEOUT = 15.0
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
    blockers: tuple[locks.Blocker, ...] = ()
    sessions: list[Session] = field(default_factory=list)
    told: str = ""

    async def run(self) -> Ended:
        """Migrate, and ask the database where it is, whatever has happened."""
        started = time.monotonic()
        kept_in_part: bool | None = False
        try:
            outcome = await self._until_done()
        except HuleEduError as error:
            outcome = fleet.failed(self.target.service, error)
            kept_in_part = error.kept_in_part if isinstance(error, AlembicFailed) else None
        except asyncio.CancelledError:
            outcome = fleet.interrupted(self.target.service.name)
            kept_in_part = None
        try:
            at = await self._settle()
        except ServerError as error:
            where = f"where {self.pin.database} is cannot be told: {error.message}"
            return self._ended(replace(outcome, detail=_joined(outcome, where)), None, started)
        if outcome and at != self.pin.after:
            outcome = replace(outcome, status=Status.FAILED, exit_code=ExitCode.FAILED)
            kept_in_part = None
        if not outcome:
            where = f"{self.pin.database} is at {named(at)}{_kept(kept_in_part)}"
            outcome = replace(outcome, detail=_joined(outcome, where))
        return self._ended(outcome, at, started)

    def _ended(self, outcome: Outcome, at: tuple[str, ...] | None, started: float) -> Ended:
        applied = (
            () if at is None else runner.applied(self.sessions, self.history, self.pin.before, at)
        )
        return Ended(
            outcome=replace(outcome, revisions=applied), at=at, seconds=time.monotonic() - started
        )

    async def _until_done(self) -> Outcome:
        """Try again as long as nothing but somebody's lock stands in the way."""
        last = self.settings.lock_attempts
        for number in range(1, last + 1):
            try:
                migrated = await self._attempt(number)
                break
            except LockTimeout as error:
                error.message = f"{error.message}; {self._who_blocks()}"
                if number == last or error.kept_in_part is not False:
                    raise
                pause = min(2.0 ** (number - 1), LONGEST_PAUSE) * random.uniform(0.8, 1.2)
                self.record.add(
                    "waited too long",
                    service=self.pin.service,
                    attempt=number,
                    blockers=self._who_blocks(),
                )
                self.step(
                    f"attempt {number} of {last}: {self._who_blocks()}; rolled back, and again in "
                    f"{pause:.0f} s"
                )
                await asyncio.sleep(pause)
        count = len(self.history.between(migrated.before, migrated.after))
        return Outcome(service=self.pin.service, detail=_counted(count), output=migrated.output)

    async def _attempt(self, number: int) -> Migrated:
        """Run Alembic once, and end it should the lock be lost meanwhile."""
        session = self._session(number)
        self.sessions.append(session)
        self.blockers = ()
        service, url = self.target.service, self.target.url
        migrating = asyncio.ensure_future(
            runner.upgrade(service, url, self.settings, self.history, session=session)
        )
        watching = asyncio.ensure_future(self._watch(session))
        try:
            await asyncio.wait({migrating, watching}, return_when=asyncio.FIRST_COMPLETED)
            if not migrating.done():
                watching.result()
            return await migrating
        finally:
            for each in (migrating, watching):
                each.cancel()
            await asyncio.gather(migrating, watching, return_exceptions=True)

    async def _watch(self, session: Session) -> None:
        """Tell which revision runs and whom it waits for, until we are cancelled.

        Raises:
            ServerError: If the connection that holds the lock is lost.
        """
        name = locks.run_name(self.record.run)
        while True:
            await asyncio.sleep(BETWEEN_LOOKS)
            try:
                async with answering(self.target.url.address), asyncio.timeout(ANSWER_TIMEOUT):
                    blockers = await locks.blockers(self.lock, name)
            except ServerError as error:
                raise ServerError(
                    "The connection with the lock is lost, so the migration was ended: "
                    f"{error.message}",
                    hint="Run the same command again; it begins where the database is.",
                ) from error
            begun = [e["revision"] for e in session.told() if e["event"] == "begun"]
            self.blockers = blockers or self.blockers
            waits = ", ".join(blocker.name for blocker in blockers)
            if begun:
                self._tell(f"running {begun[-1]}" + (f", waiting for {waits}" if waits else ""))

    def _tell(self, text: str) -> None:
        """Say what is new; in a log each step is a line."""
        if text != self.told:
            self.told = text
            self.step(text)

    async def _settle(self) -> tuple[str, ...]:
        """End what is left of our sessions, so that all is rolled back, and ask where we are."""
        async with reach(self.target) as asked, answering(self.target.url.address):
            await locks.end_runs(asked, locks.run_name(self.record.run))
            return await current_revisions(asked)

    def _session(self, number: int) -> Session:
        service = self.target.service
        waits = {
            "lock_timeout": _stated_or(service.lock_timeout, self.settings.lock_timeout),
            "statement_timeout": _stated_or(
                service.statement_timeout, self.settings.statement_timeout
            ),
        }
        return Session(
            events=self.folder / f"{service.name}-{number}",
            settings={
                "application_name": locks.run_name(self.record.run),
                **{name: f"{seconds * 1000:.0f}ms" for name, seconds in waits.items()},
            },
            wishes=WISHES,
            target=self.identity.place,
        )

    def _who_blocks(self) -> str:
        if not self.blockers:
            return "who holds it did not show"
        return f"it is held by {', '.join(map(str, self.blockers))}"


def _stated_or(stated: int | None, usual: float) -> float:
    return usual if stated is None else stated


def _counted(count: int) -> str:
    if not count:
        return "nothing was pending"
    return "1 revision applied" if count == 1 else f"{count} revisions applied"


def _kept(in_part: bool | None) -> str:
    if in_part:
        return "; a part of the next revision may have been kept, since it commits before its end"
    return "" if in_part is None else ", with nothing of the failed revision"


def _joined(outcome: Outcome, more: str) -> str:
    return f"{outcome.detail.rstrip('.')}; {more}"
