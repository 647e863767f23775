"""Run work for several services concurrently: limited, in registry order, interruptible.

Every service gets an outcome, even if its work fails or is interrupted.
"""

import asyncio
import time
import traceback
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar

from huleedu_tasks.config.registry import Service
from huleedu_tasks.errors import ExitCode, HuleEduError, Interrupted, SeedError
from huleedu_tasks.postgres.server_errors import converted_errors
from huleedu_tasks.report import Outcome, Progress, Status

# The error code for a module that the interpreter did not find.
MODULE_MISSING = "module-missing"
# A stage that only waits for servers uses no CPU; the number of connections limits it.
WAITING_JOBS = 16


class HasService(Protocol):
    """The state of one service in a run; compared by identity."""

    @property
    def service(self) -> Service:
        """The service."""


T = TypeVar("T")
R = TypeVar("R", bound=HasService)
Step = Callable[[str], None]
Work = Callable[[Service, Step], Awaitable[Outcome]]


def _none(_: object) -> Sequence[Any]:
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage(Generic[R]):
    """One stage of a run: every service finishes it before any begins the next one.

    Attributes:
        run: Works on one service and returns an outcome; any exception becomes a failed outcome.
        io_bound: Whether it only waits for servers; if not, it occupies one CPU per service.
        after: Returns those that must succeed in this stage before one begins it.
    """

    run: Callable[[R, Step], Awaitable[Outcome]]
    io_bound: bool
    after: Callable[[R], Sequence[R]] = _none


async def run(
    services: Sequence[Service], work: Work, *, jobs: int, progress: Progress
) -> tuple[Outcome, ...]:
    """Run the work for each service; a failure does not stop the others.

    Args:
        services: The services, in registry order.
        work: Returns an outcome or raises; any exception becomes a failed outcome.
        jobs: The maximum number of services that are worked on at once.
        progress: Is told of every step and outcome.

    Returns:
        An outcome for each service, in the given order. If the run is cancelled, unfinished
        services are aborted.
    """
    return await run_next(services, begun(services), work, jobs=jobs, progress=progress)


async def run_next(
    services: Sequence[Service],
    before: Sequence[Outcome],
    work: Work,
    *,
    jobs: int,
    progress: Progress,
) -> tuple[Outcome, ...]:
    """Run the next work for the services that succeeded so far; the others keep their outcome.

    Args:
        services: The services, in registry order.
        before: The outcome of each service so far.
        work: As in `run`.
        jobs: As in `run`.
        progress: As in `run`.

    Returns:
        The outcome of each service over all work.
    """

    async def work_on(alone: _Alone, step: Step) -> Outcome:
        return await work(alone.service, step)

    stage = Stage(run=work_on, io_bound=False)
    runs = [_Alone(service) for service in services]
    return await run_stage(stage, runs, before, jobs=jobs, progress=progress)


async def run_stage(
    stage: Stage[R],
    runs: Sequence[R],
    before: Sequence[Outcome],
    *,
    jobs: int,
    progress: Progress,
) -> tuple[Outcome, ...]:
    """Run a stage for those that succeeded so far; the others keep their outcome.

    Args:
        runs: One for each service, in registry order.
        before: The outcome of each so far.
        jobs: The maximum number that use a CPU at once.
        progress: Is told of every step and outcome.

    Returns:
        The outcome of each over all stages. If the run is cancelled, the unfinished are aborted.
    """
    if is_interrupted() or any(o.exit_code is ExitCode.INTERRUPTED for o in before):
        return tuple(interrupted_after(outcome) if outcome else outcome for outcome in before)
    slots = asyncio.Semaphore(max(jobs, WAITING_JOBS) if stage.io_bound else jobs)
    tasks: dict[R, asyncio.Task[Outcome]] = {}

    async def succeeds(run: R) -> bool:
        return run in tasks and bool(await asyncio.shield(tasks[run]))

    async def one(run: R) -> Outcome:
        for other in stage.after(run):
            if not await succeeds(other):
                reason = f"{other.service.name} did not succeed, and must run first"
                outcome = aborted(run.service.name, reason)
                progress.done(outcome)
                return outcome
        async with slots:
            outcome = await _outcome_of(run, stage, progress)
            progress.done(outcome)
            return outcome

    # Create all tasks before the first one runs, which awaits those of others.
    for run, outcome in zip(runs, before, strict=True):
        if outcome:
            tasks[run] = asyncio.create_task(one(run))
    try:
        await asyncio.gather(*tasks.values())
    except asyncio.CancelledError:
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
    return tuple(
        outcome.followed_by(_outcome_of_task(outcome.service, tasks[run]))
        if run in tasks
        else outcome
        for run, outcome in zip(runs, before, strict=True)
    )


def is_interrupted() -> bool:
    """Whether the current task was cancelled, even if what it awaited has finished."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def run_to_end(work: Awaitable[T]) -> T:
    """Finish work even if the task is cancelled; the work must be short."""
    task = asyncio.ensure_future(work)
    while not task.done():
        with suppress(asyncio.CancelledError):
            await asyncio.shield(task)
    return task.result()


def begun(services: Sequence[Service]) -> tuple[Outcome, ...]:
    """Return the initial outcomes, before any work."""
    return tuple(Outcome(service=service.name) for service in services)


def aborted(service: str, reason: str, exit_code: ExitCode = ExitCode.FAILED) -> Outcome:
    """Return the outcome of work that did not begin or did not finish."""
    return Outcome(service=service, status=Status.ABORTED, detail=reason, exit_code=exit_code)


def interrupted(service: str) -> Outcome:
    """Return the outcome of work that Ctrl-C or a signal ended."""
    outcome = aborted(service, "interrupted", ExitCode.INTERRUPTED)
    return replace(outcome, hint="Run the same command again; it begins from any state.")


def interrupted_after(outcome: Outcome) -> Outcome:
    """Return the outcome of work that was interrupted between two stages."""
    return replace(
        outcome,
        status=Status.ABORTED,
        detail=", ".join(filter(None, (outcome.detail, "then interrupted"))),
        exit_code=ExitCode.INTERRUPTED,
    )


def failed(service: Service, error: HuleEduError) -> Outcome:
    """Return the outcome of work that raised an expected error."""
    if isinstance(error, Interrupted):
        return interrupted(service.name)
    from huleedu_tasks.migrations.modules import hint_of

    findings = [str(finding) for finding in error.findings]
    hint = hint_of(service, error)
    return Outcome(
        service=service.name,
        status=Status.FAILED,
        detail=" ".join([error.message, *(f"{text}." for text in findings)]),
        hint=hint,
        code=error.code if hint == error.hint or isinstance(error, SeedError) else MODULE_MISSING,
        output=error.output,
        exit_code=error.exit_code,
    )


def unfinished(service: Service, error: BaseException) -> Outcome:
    """Return the outcome of work that raised any exception.

    An exception other than `HuleEduError` and an interruption is a bug of this package, an
    unexpected error of a driver, or `MemoryError`; its traceback becomes the output.
    """
    if isinstance(error, (asyncio.CancelledError, KeyboardInterrupt)):
        return interrupted(service.name)
    if isinstance(error, HuleEduError):
        return failed(service, error)
    output = "".join(traceback.format_exception(error))
    return failed(
        service,
        HuleEduError(f"{type(error).__name__}: {error}", code="internal-error", output=output),
    )


def joined(outcome: Outcome, more: str) -> str:
    """Return the detail of an outcome with another clause appended."""
    return f"{outcome.detail.rstrip('.')}; {more}"


@dataclass(frozen=True, slots=True, eq=False)
class _Alone:
    """A service without any state of the run."""

    service: Service


async def _outcome_of(run: R, stage: Stage[R], progress: Progress) -> Outcome:
    service = run.service
    started = time.monotonic()
    try:
        with converted_errors():
            outcome = await stage.run(run, lambda text: progress.step(service.name, text))
    except Exception as error:
        outcome = unfinished(service, error)
    return replace(outcome, seconds=time.monotonic() - started)


def _outcome_of_task(service: str, task: "asyncio.Task[Outcome]") -> Outcome:
    if task.cancelled():
        return interrupted(service)
    return task.result()
