"""The time limits of the statements of a run, which a service may state itself."""

from dataclasses import dataclass

from huleedu_tasks.config.registry import Service
from huleedu_tasks.config.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeLimits:
    """How long a statement may wait for a lock, and take, in seconds; 0 is without limit."""

    lock: float
    statement: float

    def as_parameters(self) -> dict[str, str]:
        """Return the parameters of a PostgreSQL session."""
        waits = {"lock_timeout": self.lock, "statement_timeout": self.statement}
        return {name: f"{seconds * 1000:.0f}ms" for name, seconds in waits.items()}


def time_limits(service: Service, settings: Settings) -> TimeLimits:
    """Return the limits of a service: its own, or else those of the settings."""
    return TimeLimits(
        lock=_value_or_default(service.lock_timeout, settings.lock_timeout),
        statement=_value_or_default(service.statement_timeout, settings.statement_timeout),
    )


def _value_or_default(stated: int | None, usual: float) -> float:
    return usual if stated is None else stated
