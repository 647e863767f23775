"""One run of a command: its stages, one after the other, over all services."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from huleedu_tasks import parallel
from huleedu_tasks.db.service_run import Context, ServiceRun
from huleedu_tasks.errors import ExitCode
from huleedu_tasks.parallel import Stage, Step
from huleedu_tasks.report import Outcome, Progress, Silence, Status, StepsOnly
from huleedu_tasks.state_dir import make_state_directory, unwritable

# The columns of a report about migrated databases.
REVISIONS = ("from", "to")


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What a command changes.

    Attributes:
        command: The name of the command.
        would: What a dry run reports; `{database}` is replaced.
        proving: The stages that change nothing. If they refuse one service, nothing is changed.
            Empty if the command uses no server.
        changing: The stages that change databases.
        ending: The last stage, for later runs; it does not change the outcomes. None for none.
        is_whole: Whether whole databases are changed. If one service fails, those that share its
            database are aborted.
        columns: The facts that the report shows.
    """

    command: str
    would: str
    proving: Sequence[Stage[ServiceRun]]
    changing: Sequence[Stage[ServiceRun]]
    ending: Stage[ServiceRun] | None = None
    is_whole: bool = False
    columns: tuple[str, ...] = ()


@dataclass(slots=True, kw_only=True, eq=False)
class Run:
    """One run of a command.

    Attributes:
        jobs: How many services use a CPU at once.
        outcomes: The outcome of each service so far.
    """

    context: Context
    jobs: int
    progress: Progress
    outcomes: tuple[Outcome, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Set the outcomes before any work."""
        self.outcomes = parallel.begun([run.service for run in self.services])

    @property
    def services(self) -> tuple[ServiceRun, ...]:
        """The services of the run, in registry order."""
        return self.context.services

    async def stage(self, stage: Stage[ServiceRun]) -> tuple[Outcome, ...]:
        """Run a stage for the services that succeeded so far, and return all outcomes."""
        self.outcomes = await parallel.run_stage(
            stage, self.services, self.outcomes, jobs=self.jobs, progress=self.progress
        )
        return self.outcomes

    async def change(self, change: Change) -> None:
        """Run the stages that prove, and then, if no service was refused, those that change."""
        for stage in change.proving:
            await self.stage(stage)
        self._abort_if_refused()
        for stage in change.changing:
            if change.is_whole:
                self.outcomes = self._whole_databases()
            await self.stage(stage)
        complete = self._whole_databases()
        if change.is_whole:
            self.outcomes = complete
        if change.ending:
            quiet = StepsOnly(self.progress)
            await parallel.run_stage(
                change.ending, self.services, complete, jobs=self.jobs, progress=quiet
            )

    async def together(
        self, stages: Sequence[Stage[ServiceRun]], *, undone_by: Stage[ServiceRun]
    ) -> bool:
        """Run stages for all services or none.

        Args:
            undone_by: Runs for every service if one of them does not succeed.

        Returns:
            Whether all services succeeded; if not, all others are aborted.
        """
        for stage in stages:
            await self.stage(stage)
            if not all(self.outcomes):
                self._abort_others()
                await parallel.run_to_end(self._undo(undone_by))
                return False
        return True

    async def prepare(self, state: Path, on_new: Callable[[], object] = str) -> None:
        """Prepare the provider once for all servers.

        Args:
            state: The state directory of the project.
            on_new: Called as soon as the provider is about to create a server.
        """
        make_state_directory(state)
        login = self.services[0].url
        services = [run.service for run in self.services]
        self.begin()
        try:
            await self.context.provider.prepare(services, login, on_new=on_new)
        except asyncio.CancelledError:
            self.interrupt()

    def interrupt(self) -> None:
        """Make every service interrupted."""
        self.outcomes = tuple(parallel.interrupted(run.name) for run in self.services)

    async def _undo(self, stage: Stage[ServiceRun]) -> None:
        begun = parallel.begun([run.service for run in self.services])
        await parallel.run_stage(stage, self.services, begun, jobs=self.jobs, progress=Silence())

    def _abort_others(self) -> None:
        """Abort all services that succeeded so far, because another one did not."""
        lost = [outcome for outcome in self.outcomes if not outcome]
        names = ", ".join(outcome.service for outcome in lost)
        self.outcomes = tuple(
            parallel.aborted(
                outcome.service, f"nothing was changed: {names} did not succeed", lost[0].exit_code
            )
            if outcome
            else outcome
            for outcome in self.outcomes
        )

    def _abort_if_refused(self) -> None:
        """Abort all services if one was refused."""
        refused = [o.service for o in self.outcomes if o.exit_code is ExitCode.REFUSED]
        if refused:
            reason = f"not begun: {', '.join(refused)} was refused"
            self.outcomes = tuple(
                replace(outcome, status=Status.ABORTED, detail=reason) if outcome else outcome
                for outcome in self.outcomes
            )

    def _whole_databases(self) -> tuple[Outcome, ...]:
        """Return the outcomes, aborted where a service that shares the database did not succeed."""
        ended = dict(zip(self.services, self.outcomes, strict=True))
        return tuple(
            _with_members(outcome, [ended.get(member) for member in run.database.members])
            for run, outcome in ended.items()
        )


async def _nothing(run: ServiceRun, step: Step) -> Outcome:
    return run.done()


NOTHING = Stage(run=_nothing, io_bound=True)


def would(action: str) -> Stage[ServiceRun]:
    """Return a stage that only reports what would be done.

    Args:
        action: The action, in which `{database}` is replaced by the database's name.
    """

    async def report(run: ServiceRun, step: Step) -> Outcome:
        detail = f"dry run: would {action.format(database=run.url.database)}"
        return replace(run.done(detail), status=Status.SKIPPED)

    return Stage(run=report, io_bound=True)


@asynccontextmanager
async def only_run(state: Path, notify: Callable[[str], object]) -> AsyncIterator[None]:
    """Hold the lock under which one command at a time changes this project's databases.

    Args:
        state: The state directory of the project.
        notify: Called with a sentence if the lock is held by another command.
    """
    from filelock import AsyncFileLock, Timeout

    make_state_directory(state)
    lock = AsyncFileLock(state / "run.lock", poll_interval=0.05, run_in_executor=False)
    try:
        try:
            await lock.acquire(timeout=0)
        except Timeout:
            notify("Waiting for another command that is changing these databases.")
            await lock.acquire()
    except OSError as error:
        raise unwritable(state, error) from error
    try:
        yield
    finally:
        await lock.release(force=True)


def _with_members(outcome: Outcome, members: Sequence[Outcome | None]) -> Outcome:
    """Return the outcome of a service, aborted if one that shares its database did not succeed.

    Args:
        members: The outcomes of all that share the database; None for one outside the run.
    """
    if not outcome or all(members):
        return outcome
    # A failed service is named rather than an aborted one.
    lost = [member for member in members if member is not None and not member]
    lost.sort(key=lambda member: member.status is not Status.FAILED)
    because = lost[0] if lost else outcome
    return replace(
        outcome,
        status=Status.ABORTED,
        detail=f"not finished: {because.service}, which shares the database, did not succeed",
        exit_code=because.exit_code,
    )
