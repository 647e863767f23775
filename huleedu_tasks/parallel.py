"""One piece of work over many services: bounded, results in registry order, safe to interrupt.

Every service that goes in comes out with an outcome, whatever happens to it or to the others.
"""

import asyncio
import time
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

from huleedu_tasks.config.registry import Service
from huleedu_tasks.errors import ExitCode, HuleEduError, Interrupted, SeedError
from huleedu_tasks.migrations.modules import missing_module_hint
from huleedu_tasks.postgres.failures import explained
from huleedu_tasks.report import Outcome, Progress, Status

# The code of a failure for a module that an interpreter did not find.
MODULE_MISSING = "module-missing"
T = TypeVar("T")
Step = Callable[[str], None]
Work = Callable[[Service, Step], Awaitable[Outcome]]


async def run(
    services: Sequence[Service], work: Work, *, jobs: int, progress: Progress
) -> tuple[Outcome, ...]:
    """Do the work for each service; a failure of one leaves the others running.

    Args:
        work: Returns an outcome or raises; any exception becomes a failed outcome.
        jobs: How many services are worked on at once.

    Returns:
        An outcome for each service, in the order given. If the run is cancelled, those that had
        not ended are aborted.
    """
    return await run_next(services, begun(services), work, jobs=jobs, progress=progress)


async def run_next(
    services: Sequence[Service],
    before: Sequence[Outcome],
    work: Work,
    *,
    jobs: int,
    progress: Progress,
    after: Mapping[str, Sequence[str]] | None = None,
) -> tuple[Outcome, ...]:
    """Do the next piece of work for the services that are well; the others keep their outcome.

    Args:
        before: How each service's work has ended so far.
        after: Names of services whose own work must have ended well before a service's begins;
            it is aborted if one of them does not.

    Returns:
        The outcomes of all the work so far.
    """
    if is_interrupted() or any(o.exit_code is ExitCode.INTERRUPTED for o in before):
        return tuple(interrupted_after(outcome) if outcome else outcome for outcome in before)
    slots = asyncio.Semaphore(jobs)
    well = {outcome.service: bool(outcome) for outcome in before}
    tasks: dict[str, asyncio.Task[Outcome]] = {}

    async def one(service: Service) -> Outcome:
        for name in (after or {}).get(service.name, ()):
            lost = well.get(name) is False
            if lost or (name in tasks and not await asyncio.shield(tasks[name])):
                outcome = aborted(service.name, f"{name} did not end well, and must come first")
                progress.done(outcome)
                return outcome
        async with slots:
            outcome = await _outcome_of(service, work, progress)
            progress.done(outcome)
            return outcome

    # All tasks exist before the first of them runs, and looks for another.
    for service in services:
        if well[service.name]:
            tasks[service.name] = asyncio.create_task(one(service))
    try:
        await asyncio.gather(*tasks.values())
    except asyncio.CancelledError:
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
    return tuple(
        outcome.followed_by(_collected(outcome.service, tasks[outcome.service]))
        if outcome.service in tasks
        else outcome
        for outcome in before
    )


def is_interrupted() -> bool:
    """Whether somebody wants this to end, even if what it waited for was done just then."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def whatever_happens(work: Coroutine[Any, Any, T]) -> T:
    """Do work to its end although somebody interrupts; it must be short."""
    task = asyncio.ensure_future(work)
    while not task.done():
        with suppress(asyncio.CancelledError):
            await asyncio.shield(task)
    return task.result()


def begun(services: Sequence[Service]) -> tuple[Outcome, ...]:
    """Return the outcomes of work of which nothing is done yet."""
    return tuple(Outcome(service=service.name) for service in services)


def aborted(service: str, reason: str, exit_code: ExitCode = ExitCode.FAILED) -> Outcome:
    """Return the outcome of work that was not begun, or not finished."""
    return Outcome(service=service, status=Status.ABORTED, detail=reason, exit_code=exit_code)


def interrupted(service: str) -> Outcome:
    """Return the outcome of work that a person ended."""
    outcome = aborted(service, "interrupted", ExitCode.INTERRUPTED)
    return replace(outcome, hint="Run the same command again; it begins from any state.")


def interrupted_after(outcome: Outcome) -> Outcome:
    """Return the outcome of work that was well as far as it came, and has stages left."""
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
    findings = [str(finding) for finding in error.findings]
    hint = hint_of(service, error)
    return Outcome(
        service=service.name,
        status=Status.FAILED,
        detail=" ".join([error.message, *(f"{text}." for text in findings)]),
        hint=hint,
        code=error.code or (MODULE_MISSING if hint != error.hint else ""),
        output=error.output,
        exit_code=error.exit_code,
    )


def hint_of(service: Service, error: HuleEduError) -> str:
    """Return what to do about an error of a service; of a missing module, how to import it."""
    is_seed = isinstance(error, SeedError)
    return missing_module_hint(service, error.message, of_seed=is_seed) or error.hint


def unfinished(service: Service, error: BaseException) -> Outcome:
    """Return the outcome of work that has raised, whatever that was.

    Beside our own errors and an interruption that is a bug here, a driver's error that was not
    foreseen, or no memory.
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
    """Return the detail of an outcome with another sentence."""
    return f"{outcome.detail.rstrip('.')}; {more}"


async def _outcome_of(service: Service, work: Work, progress: Progress) -> Outcome:
    started = time.monotonic()
    try:
        with explained():
            outcome = await work(service, lambda text: progress.step(service.name, text))
    except Exception as error:
        # The other services go on.
        outcome = unfinished(service, error)
    return replace(outcome, seconds=time.monotonic() - started)


def _collected(service: str, task: "asyncio.Task[Outcome]") -> Outcome:
    if task.cancelled():
        return interrupted(service)
    return task.result()
