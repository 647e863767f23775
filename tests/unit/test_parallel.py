"""Work on several services: every service gets an outcome."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from huleedu_tasks import parallel
from huleedu_tasks.config.registry import Service
from huleedu_tasks.errors import ExitCode, Finding, HuleEduError, Refused
from huleedu_tasks.parallel import Stage, Step, Work
from huleedu_tasks.report import Outcome, Silence, Status
from tests.support.values import service

NAMES = ("a", "b", "c", "d")
BEGUN = tuple(Outcome(service=name) for name in NAMES)
LIMIT = 5.0


@dataclass
class Heard:
    """A `Progress` that records its calls."""

    steps: list[tuple[str, str]] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)

    def step(self, service: str, text: str) -> None:
        self.steps.append((service, text))

    def done(self, outcome: Outcome) -> None:
        self.ended.append(outcome.service)


@dataclass
class Trace:
    """Work that yields to the event loop, and records when it began and ended."""

    turns: dict[str, int] = field(default_factory=dict)
    failing: Sequence[str] = ()
    notes: list[str] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0

    async def __call__(self, service: Service, step: Step) -> Outcome:
        self.notes.append(f"begin {service.name}")
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        for _ in range(self.turns.get(service.name, 3)):
            await asyncio.sleep(0)
        self.at_once -= 1
        self.notes.append(f"end {service.name}")
        if service.name in self.failing:
            raise HuleEduError("broke")
        return Outcome(service=service.name)


async def run(work: Work, names: Sequence[str] = NAMES, jobs: int = 8) -> dict[str, Outcome]:
    return await run_next(work, [Outcome(service=name) for name in names], jobs=jobs)


@dataclass(eq=False)
class Run:
    """The state of a service in a run: only those that must succeed before it."""

    service: Service
    after: "list[Run]" = field(default_factory=list)


async def run_next(
    work: Work,
    before: Sequence[Outcome] = BEGUN,
    jobs: int = 8,
    after: dict[str, list[str]] | None = None,
    *,
    io_bound: bool = False,
) -> dict[str, Outcome]:
    runs = {outcome.service: Run(service(outcome.service)) for outcome in before}
    for name, others in (after or {}).items():
        runs[name].after = [runs[other] for other in others]

    async def work_on(run: Run, step: Step) -> Outcome:
        return await work(run.service, step)

    stage = Stage(run=work_on, io_bound=io_bound, after=lambda run: run.after)
    outcomes = await parallel.run_stage(
        stage, list(runs.values()), before, jobs=jobs, progress=Silence()
    )
    assert [outcome.service for outcome in outcomes] == list(runs)
    return {outcome.service: outcome for outcome in outcomes}


async def cancelled(
    work: Work, begun: asyncio.Event, after: dict[str, list[str]] | None = None, jobs: int = 8
) -> dict[str, Outcome]:
    """Run until the work has begun, then cancel it."""
    running = asyncio.create_task(run_next(work, jobs=jobs, after=after))
    await asyncio.wait_for(begun.wait(), LIMIT)
    running.cancel()
    return await asyncio.wait_for(running, LIMIT)


async def test_outcomes_are_in_the_given_order() -> None:
    trace = Trace(turns={"a": 20, "b": 10, "c": 5, "d": 1})
    assert all((await run(trace)).values())
    assert trace.notes[-4:] == ["end d", "end c", "end b", "end a"]


@pytest.mark.parametrize("jobs", [1, 2, 3])
async def test_no_more_services_than_jobs_run_at_once(jobs: int) -> None:
    trace = Trace()
    await run(trace, jobs=jobs)
    assert trace.most_at_once == jobs


async def test_services_that_only_wait_are_not_limited_by_the_jobs() -> None:
    trace = Trace()
    await run_next(trace, jobs=1, io_bound=True)
    assert trace.most_at_once == len(NAMES)


@pytest.mark.parametrize("jobs", [1, 8])
async def test_work_begins_after_its_predecessors(jobs: int) -> None:
    trace = Trace(turns={"c": 20})
    await run_next(trace, jobs=jobs, after={"a": ["c", "d"], "d": ["b"]})
    for first, then in [("c", "a"), ("d", "a"), ("b", "d")]:
        assert trace.notes.index(f"end {first}") < trace.notes.index(f"begin {then}")


async def test_after_a_failure_its_successors_are_aborted_and_the_others_continue() -> None:
    trace = Trace(failing=["b"])
    outcomes = await run_next(trace, after={"c": ["b"], "d": ["c"]})
    assert [outcomes[name].status for name in NAMES] == [
        Status.OK,
        Status.FAILED,
        Status.ABORTED,
        Status.ABORTED,
    ]
    assert outcomes["c"].detail.startswith("b did not succeed")
    assert outcomes["d"].detail.startswith("c did not succeed")
    assert outcomes["c"].exit_code is ExitCode.FAILED
    assert "begin c" not in trace.notes


async def test_an_expected_failure_keeps_all_its_facts() -> None:
    async def refuse(service: Service, step: Step) -> Outcome:
        raise Refused(
            "No.",
            hint="Do this.",
            findings=[Finding(place="X", problem="is not set"), Finding(place="", problem="bad")],
            output="log",
        )

    outcome = (await run(refuse, ["a"]))["a"]
    assert outcome.status is Status.FAILED
    assert outcome.exit_code is ExitCode.REFUSED
    assert outcome.detail == "No. X: is not set. bad."
    assert (outcome.hint, outcome.output) == ("Do this.", "log")


async def test_an_unexpected_error_is_a_failure_of_its_service_with_a_traceback() -> None:
    async def broken(service: Service, step: Step) -> Outcome:
        if service.name == "b":
            raise ZeroDivisionError("by zero")
        return Outcome(service=service.name)

    outcomes = await run(broken)
    assert [name for name in NAMES if not outcomes[name]] == ["b"]
    assert outcomes["b"].detail == "ZeroDivisionError: by zero"
    assert outcomes["b"].exit_code is ExitCode.FAILED
    assert "in broken" in outcomes["b"].output


async def test_after_a_cancel_every_service_has_an_outcome() -> None:
    begun = asyncio.Event()

    async def work(service: Service, step: Step) -> Outcome:
        if service.name == "b":
            begun.set()
            await asyncio.Event().wait()
        return Outcome(service=service.name)

    outcomes = await cancelled(work, begun, after={"d": ["b"]}, jobs=1)
    assert outcomes["a"].status is Status.OK
    for name in ("b", "c", "d"):
        assert outcomes[name].status is Status.ABORTED
        assert outcomes[name].exit_code is ExitCode.INTERRUPTED
        assert outcomes[name].detail == "interrupted"


async def test_a_cancelled_service_may_clean_up_before_the_run_ends() -> None:
    begun, cleaned = asyncio.Event(), []

    async def work(service: Service, step: Step) -> Outcome:
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.append(service.name)
        raise AssertionError("cancelled above")

    await cancelled(work, begun)
    assert sorted(cleaned) == list(NAMES)


async def test_a_failed_service_keeps_its_outcome_and_its_successors_are_aborted() -> None:
    trace = Trace()
    failed = Outcome(service="b", status=Status.FAILED, detail="broke", exit_code=ExitCode.FAILED)
    before = [Outcome(service="a", detail="started"), failed, Outcome(service="c")]
    outcomes = await run_next(trace, before, after={"c": ["b"]})
    assert trace.notes == ["begin a", "end a"]
    assert outcomes["a"].detail == "started"
    assert outcomes["b"] is failed
    assert outcomes["c"].status is Status.ABORTED


async def test_after_an_interruption_no_next_stage_begins() -> None:
    trace = Trace()
    before = [parallel.interrupted("a"), Outcome(service="b", detail="started")]
    outcomes = await run_next(trace, before)
    assert trace.notes == []
    assert {outcome.exit_code for outcome in outcomes.values()} == {ExitCode.INTERRUPTED}
    assert outcomes["b"].detail == "started, then interrupted"


async def test_progress_receives_every_step_and_every_outcome() -> None:
    heard = Heard()

    async def work(service: Service, step: Step) -> Outcome:
        step("migrating")
        return Outcome(service=service.name)

    services = [service(name) for name in NAMES]
    outcomes = await parallel.run(services, work, jobs=2, progress=heard)
    assert sorted(heard.steps) == [(name, "migrating") for name in NAMES]
    assert sorted(heard.ended) == list(NAMES)
    assert all(outcome.seconds >= 0 for outcome in outcomes)


async def test_an_interruption_at_the_end_of_a_stage_prevents_the_next_one() -> None:
    begun = []

    async def first(service: Service, step: Step) -> Outcome:
        own = asyncio.current_task()
        assert own
        own.add_done_callback(lambda _: whole.cancel())
        return Outcome(service=service.name)

    async def second(service: Service, step: Step) -> Outcome:
        begun.append(service.name)
        return Outcome(service=service.name)

    async def both() -> tuple[Outcome, ...]:
        services = [service("a")]
        outcomes = await parallel.run(services, first, jobs=1, progress=Silence())
        return await parallel.run_next(services, outcomes, second, jobs=1, progress=Silence())

    whole = asyncio.create_task(both())
    (outcome,) = await asyncio.wait_for(whole, LIMIT)
    assert begun == []
    assert outcome.exit_code is ExitCode.INTERRUPTED


async def test_work_that_must_finish_finishes_despite_an_interruption() -> None:
    begun, release = asyncio.Event(), asyncio.Event()

    async def short() -> str:
        begun.set()
        await release.wait()
        return "done"

    whole = asyncio.create_task(parallel.run_to_end(short()))
    await begun.wait()
    whole.cancel()
    await asyncio.sleep(0)
    whole.cancel()
    release.set()
    assert await asyncio.wait_for(whole, LIMIT) == "done"
