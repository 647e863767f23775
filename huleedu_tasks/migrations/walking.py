"""Runs single steps of a history, up and down, in one process of a service's Alembic."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from huleedu_tasks.errors import MigrationError
from huleedu_tasks.migrations.alembic_failures import failure_of
from huleedu_tasks.migrations.child_process import Alembic
from huleedu_tasks.migrations.observation import Observation

_COMMAND = ["upgrade", "heads"]
_CORRECT = "Correct the cause that the service's output names, and run the command again."


class Direction(StrEnum):
    """Whether a step applies a revision or undoes it."""

    UP = "upgrade"
    DOWN = "downgrade"


class Step(NamedTuple):
    """One revision, applied or undone.

    Attributes:
        is_compared: Whether the fingerprint of the schema is computed after it.
    """

    direction: Direction
    revision: str
    is_compared: bool = True

    def __str__(self) -> str:
        return f"the {self.direction} of {self.revision}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedStep:
    """A step that failed; it was rolled back as far as the revision allows.

    Attributes:
        message: The error of the server or of Python, in one line.
        statement: The SQL that failed; an empty string if the error is not of a statement.
        output: The output of the service's code, with the traceback.
    """

    step: Step
    message: str
    statement: str
    output: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Walked:
    """How far a walk came.

    Attributes:
        done: The steps after which the schema was as expected, in order.
        differing: The step after which it was not, which ended the walk; None if there is none.
        failed: The step that failed; None if none did.
    """

    done: tuple[Step, ...]
    differing: Step | None = None
    failed: FailedStep | None = None


async def walk(
    alembic: Alembic,
    session: Observation,
    steps: Sequence[Step],
    *,
    fingerprint: str = "",
    is_observing: bool = False,
) -> Walked:
    """Run steps one after the other, each in a transaction of its own.

    Args:
        session: The instructions for the run.
        steps: The steps, which must fit the revisions of the database and each other.
        fingerprint: A query that returns a digest of the schema, to end the walk where an upgrade
            repeated or a downgrade does not give the same schema as before; an empty string to
            compare none.
        is_observing: Whether the effects of each statement are written to the events.

    Raises:
        MigrationError: If Alembic fails outside of a revision, or runs none of the steps.
        Refused: If `env.py` connects to a different database.
    """
    walking = {
        "steps": [list(step) for step in steps],
        "fingerprint": fingerprint,
        "is_observing": is_observing,
    }
    instructions = session.instructions(alembic.url.reveal(), walking=walking)
    done = await alembic.run(_COMMAND, instructions)
    ended, differing, failed = _events(session, done.output)
    if (done.returncode != 0 and failed is None) or session.was_refused:
        raise failure_of(alembic.service, alembic.url, done, session, _CORRECT)
    if steps and not (ended or differing or failed):
        raise MigrationError(
            f"Alembic ended without an error, and env.py ran no revision of {alembic.service.name}",
            code="revision-not-reached",
            hint="Call context.run_migrations() in env.py.",
            output=done.output,
        )
    return Walked(done=ended, differing=differing, failed=failed)


def _events(
    session: Observation, output: str
) -> tuple[tuple[Step, ...], Step | None, FailedStep | None]:
    """Return the steps that ended well, the one that differed, and the one that failed."""
    ended: list[Step] = []
    differing: Step | None = None
    failed: FailedStep | None = None
    begun = None
    for event in session.read_events():
        if event["event"] == "begun":
            begun = Step(Direction(event["direction"]), event["revision"])
        elif event["event"] == "stepped":
            step = Step(Direction(event["direction"]), event["revision"])
            if event["is_equal"]:
                ended.append(step)
            else:
                differing = step
        elif event["event"] == "failed" and (event["revision"] or _is_open(begun, ended)) and begun:
            failed = FailedStep(
                step=begun,
                message=event["message"],
                statement=event["statement"].strip(),
                output=output,
            )
    return tuple(ended), differing, failed


def _is_open(begun: Step | None, ended: Sequence[Step]) -> bool:
    """Whether a step did not end: its record in the version table, or its commit, failed."""
    return begun is not None and (not ended or ended[-1][:2] != begun[:2])
