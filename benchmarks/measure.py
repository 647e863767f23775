"""Measure alternately, so that other load on the machine affects all sides alike."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

# Fewer rounds only show that everything works.
ENOUGH_ROUNDS = 7


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


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of the alternately measured commands.

    Attributes:
        run: What is measured.
        prepare: Called before each round, and not measured.
    """

    run: Callable[[], object]
    prepare: Callable[[], object] = _nothing


def in_turn(rounds: int, *sides: Side, warm_up: bool = True) -> tuple[Timing, ...]:
    """Measure each side once in every round.

    Args:
        rounds: The number of measurements of each side.
        warm_up: Whether there is a round before them that does not count.
    """
    if warm_up:
        _one_round(sides)
    measured = [_one_round(sides) for _ in range(rounds)]
    return tuple(Timing.of(seconds) for seconds in zip(*measured, strict=True))


def _one_round(sides: Sequence[Side]) -> list[float]:
    return [_seconds(side) for side in sides]


def _seconds(side: Side) -> float:
    side.prepare()
    started = time.perf_counter()
    side.run()
    return time.perf_counter() - started
