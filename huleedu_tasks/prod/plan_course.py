"""What happens when a plan is carried out, in sentences for those who approve it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from huleedu_tasks.config.registry import Service
from huleedu_tasks.config.settings import Settings
from huleedu_tasks.prod.time_limits import TimeLimits, time_limits


@dataclass(frozen=True, slots=True, kw_only=True)
class Changing:
    """A database that the run changes.

    Attributes:
        has_revisions: Whether revisions are pending; otherwise it is only tagged.
        is_rehearsed: Whether all of them ran in the rehearsal; None if none are pending.
        is_lossy: Whether one of them destroys data.
    """

    service: Service
    host: str
    has_revisions: bool
    is_rehearsed: bool | None
    is_lossy: bool


def course_of(changing: Sequence[Changing], settings: Settings) -> Iterator[str]:
    """Yield what locks for how long, what a failure leaves, and what is asked.

    Args:
        changing: The databases that the run changes, in its order; at least one.
    """
    yield from _known_from(changing)
    hosts = ", ".join(f"`{host}`" for host in dict.fromkeys(entry.host for entry in changing))
    yield f"Before the first change you are asked to type the host: {hosts}."
    yield (
        "If a database, a revision file or the SQL is not as it was when the plan was made, the "
        "command changes nothing, and exits with 3."
    )
    if len(changing) > 1:
        names = ", ".join(entry.service.name for entry in changing)
        yield (
            f"The databases are migrated one after the other: {names}. If one fails, those behind "
            "it are not begun."
        )
    pending = [entry for entry in changing if entry.has_revisions]
    if pending:
        yield from _locks(pending, settings)
        yield from _backup(pending)
        yield (
            "A revision that fails is rolled back, unless it commits in between; the report says "
            "where each database is. Then, and after an interruption, run the same command with "
            "the same plan again: it goes on with the rest. `invoke prod.history` shows each step."
        )


def _known_from(changing: Sequence[Changing]) -> Iterator[str]:
    rehearsed = [entry for entry in changing if entry.is_rehearsed]
    guessed = [entry.service.name for entry in changing if entry.is_rehearsed is False]
    if rehearsed:
        yield (
            "The locks and losses above are those that PostgreSQL reported when each revision ran, "
            "in a transaction of its own, on a copy of the schema without rows."
        )
    if guessed:
        yield (
            f"Not every revision of {', '.join(guessed)} ran in a rehearsal: the locks and losses "
            "of the others are only what their SQL suggests."
        )


def _locks(pending: Sequence[Changing], settings: Settings) -> Iterator[str]:
    """Yield how long statements wait and take; services with the same limits together."""
    services: dict[TimeLimits, list[str]] = {}
    for entry in pending:
        limits = time_limits(entry.service, settings)
        services.setdefault(limits, []).append(entry.service.name)
    for limits, names in services.items():
        which = f"{', '.join(names)}: a" if len(services) > 1 else "A"
        yield f"{which} statement {_waiting(limits, settings)} {_running(limits)}"
    yield (
        "A lock is held until its transaction ends. With Alembic's default, all revisions of a "
        f"service are one transaction; it is rolled back after {settings.migration_timeout:g} s."
    )


def _waiting(limits: TimeLimits, settings: Settings) -> str:
    queue = "while all later ones queue behind it"
    if not limits.lock:
        return f"waits for a lock without limit, {queue}."
    return (
        f"waits for a lock for {limits.lock:g} s at most, {queue}. Then its transaction is rolled "
        f"back, and tried again: {settings.lock_attempts} attempts in all."
    )


def _running(limits: TimeLimits) -> str:
    if not limits.statement:
        return "It may run without limit."
    return f"One that runs for {limits.statement:g} s is cancelled and rolled back."


def _backup(pending: Sequence[Changing]) -> Iterator[str]:
    is_lossy = any(entry.is_lossy for entry in pending)
    warning = " Without one, what is destroyed is lost." if is_lossy else ""
    yield (
        "No backup is taken unless you add `--backup-dir DIRECTORY` or `--backup-command COMMAND`."
        f"{warning}"
    )
