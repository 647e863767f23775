"""Exchange databases with their undo snapshots."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from huleedu_tasks.db.predecessors import is_unfinished, retire_predecessor
from huleedu_tasks.db.prove import PROVE
from huleedu_tasks.db.run import NOTHING, Run
from huleedu_tasks.db.service_run import ServiceRun, after_leader
from huleedu_tasks.db.start import START
from huleedu_tasks.db.status import STATUS
from huleedu_tasks.db.undo_snapshots import record_time, time_kept
from huleedu_tasks.errors import ConfigurationError
from huleedu_tasks.parallel import Stage, Step
from huleedu_tasks.postgres import databases, replacing
from huleedu_tasks.report import Outcome

if TYPE_CHECKING:
    import asyncpg


@dataclass(slots=True, kw_only=True)
class Undo:
    """The undo snapshots of the services of one run.

    Attributes:
        every: Whether to exchange every database that has one, and not only those that the last
            command replaced.
        kept: When each was kept, in seconds since the epoch.
        exchanged: The services whose databases were exchanged.
    """

    run: Run
    every: bool
    kept: dict[ServiceRun, float] = field(default_factory=dict)
    exchanged: set[ServiceRun] = field(default_factory=set)

    async def undo(self) -> None:
        """Exchange the databases that the last command replaced with their undo snapshots.

        Raises:
            ConfigurationError: If no service has one.
        """
        if not await self.run.together((START, PROVE, self._finding), undone_by=NOTHING):
            return
        if not self.kept:
            raise ConfigurationError(
                "No selected service has an undo snapshot; nothing was changed.",
                code="nothing-to-undo",
                hint="One is kept when a command replaces a database that was written to since it "
                "was built. `invoke db.snapshots` lists them.",
            )
        if await self.run.together([self._exchanging], undone_by=self._exchanging_back):
            await self.run.stage(STATUS)

    @property
    def _chosen(self) -> Sequence[ServiceRun]:
        last = max(self.kept.values())
        return [run for run, time in self.kept.items() if self.every or time == last]

    @property
    def _finding(self) -> Stage[ServiceRun]:
        async def find(run: ServiceRun, step: Step) -> Outcome:
            if not run.is_leader:
                return run.done()
            admin, database = await run.prove_disposable(), run.url.database
            await replacing.discard_successor(admin, database)
            await _settle(admin, run)
            name = replacing.undo_name(database)
            if await databases.exists(admin, name):
                self.kept[run] = await time_kept(admin, name)
            return run.done()

        return Stage(run=find, io_bound=True)

    @property
    def _exchanging(self) -> Stage[ServiceRun]:
        async def exchange(run: ServiceRun, step: Step) -> Outcome:
            if run.database.leader not in self._chosen:
                return run.done("nothing to undo")
            if not run.is_leader:
                return run.done("undone")
            step("undoing")
            admin, database = await run.prove_disposable(), run.url.database
            undo = replacing.undo_name(database)
            await run.context.guard.prove_disposable(admin, run.service, undo)
            await record_time(admin, run, database)
            await replacing.exchange(admin, database, undo)
            self.exchanged.add(run)
            return run.done("undone")

        return Stage(run=exchange, io_bound=True, after=after_leader)

    @property
    def _exchanging_back(self) -> Stage[ServiceRun]:
        async def exchange(run: ServiceRun, step: Step) -> Outcome:
            if run in self.exchanged:
                database = run.url.database
                await replacing.exchange(await run.admin(), database, replacing.undo_name(database))
            return run.done()

        return Stage(run=exchange, io_bound=True)


async def _settle(admin: "asyncpg.Connection", run: ServiceRun) -> None:
    """Finish what a killed or failed command has left of replacing the database.

    The predecessor of a complete database becomes its undo snapshot if it was written to, and that
    of an unfinished one does in any case.
    """
    name = replacing.predecessor_name(run.url.database)
    if not await databases.exists(admin, name):
        return
    if await is_unfinished(admin, run):
        await record_time(admin, run, name)
        await replacing.keep_as_undo(admin, run.url.database)
    else:
        run.database.keeps_predecessor = True
        await retire_predecessor(admin, run)
    run.database.has_undo = False
