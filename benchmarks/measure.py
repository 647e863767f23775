"""Measure alternately, so that other load on the machine affects all sides alike."""

import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

# Fewer rounds only show that everything works.
ENOUGH_ROUNDS = 7
# Enough of a row without a goal whose other side takes long.
FEW_ROUNDS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """A duration in seconds: the median, and the range."""

    median: float
    fastest: float
    slowest: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Timing":
        """Summarise rounds."""
        return cls(median=median(seconds), fastest=min(seconds), slowest=max(seconds))

    @classmethod
    def total(cls, parts: Sequence["Timing"]) -> "Timing":
        """Add durations of consecutive steps."""
        return cls(
            median=sum(part.median for part in parts),
            fastest=sum(part.fastest for part in parts),
            slowest=sum(part.slowest for part in parts),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one side took.

    Attributes:
        wall: How long it took.
        processor: The processor time of its processes.
    """

    wall: Timing
    processor: Timing


def _nothing() -> None:
    pass


def _no_time() -> float:
    return 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of the alternately measured commands.

    Attributes:
        run: What is measured.
        prepare: Called before each round, and not measured.
        elsewhere: Returns the processor time of processes that are no children, such as servers.
    """

    run: Callable[[], object]
    prepare: Callable[[], object] = _nothing
    elsewhere: Callable[[], float] = _no_time


def in_turn(rounds: int, *sides: Side, warm_up: bool = True) -> tuple[Timing, ...]:
    """Measure how long each side takes, once in every round.

    Args:
        rounds: The number of measurements of each side.
        warm_up: Whether there is a round before them that does not count.
    """
    return tuple(cost.wall for cost in costs_in_turn(rounds, *sides, warm_up=warm_up))


def costs_in_turn(rounds: int, *sides: Side, warm_up: bool = True) -> tuple[Cost, ...]:
    """Measure the time and the processor time of each side, once in every round."""
    if warm_up:
        _one_round(sides)
    measured = [_one_round(sides) for _ in range(rounds)]
    return tuple(
        Cost(
            wall=Timing.of([wall for wall, _ in costs]),
            processor=Timing.of([processor for _, processor in costs]),
        )
        for costs in zip(*measured, strict=True)
    )


def _one_round(sides: Sequence[Side]) -> list[tuple[float, float]]:
    return [_cost(side) for side in sides]


def _cost(side: Side) -> tuple[float, float]:
    """Return how long a side took, and the processor time of its children and servers."""
    side.prepare()
    before = _processor_time() + side.elsewhere()
    started = time.perf_counter()
    side.run()
    wall = time.perf_counter() - started
    return wall, _processor_time() + side.elsewhere() - before


def _processor_time() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return children.ru_utime + children.ru_stime
