"""Compares a service's models with its database, in a process of its Alembic."""

import json
from dataclasses import dataclass

from huleedu_tasks import process
from huleedu_tasks.errors import MigrationError
from huleedu_tasks.migrations.alembic_failures import cause_in, failure_of
from huleedu_tasks.migrations.child_process import Alembic
from huleedu_tasks.migrations.observation import Observation
from huleedu_tasks.postgres.model_objects import MODEL_OBJECTS, ModelObject

_ARGUMENTS = ["revision", "--autogenerate", "--message=comparison"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A comparison of models and history.

    Attributes:
        operations: The operations that autogenerate would write, as Python; empty if it sees no
            difference.
        history: The objects of the database that the history has built.
        models: The objects after its tables were created from the models instead; None if the
            models could not be created.
        problem: Why not; an empty string if they were.
    """

    operations: tuple[str, ...]
    history: frozenset[ModelObject]
    models: frozenset[ModelObject] | None
    problem: str


async def compare_models(alembic: Alembic, session: Observation) -> Compared:
    """Compare the models with a throwaway database at head, which stays as it is.

    Args:
        session: The instructions for the run.

    Raises:
        MigrationError: If `env.py` has no metadata, or Alembic fails.
        Refused: If `env.py` connects to a different database.
    """
    service = alembic.service
    with process.scratch_directory() as scratch:
        told = scratch / "comparison"
        comparing = {"file": str(told), "query": MODEL_OBJECTS}
        instructions = session.instructions(alembic.url.reveal(), comparing=comparing)
        done = await alembic.run(_ARGUMENTS, instructions)
        facts = json.loads(told.read_bytes()) if told.exists() else {}
    if session.was_refused:
        raise failure_of(service, alembic.url, done, session, "")
    if not facts.get("has_metadata", True):
        raise MigrationError(
            "env.py passes no metadata to Alembic (target_metadata is None), so there are no "
            "models to compare with.",
            code="metadata-missing",
            hint="Set target_metadata in env.py to the metadata of the models, such as "
            "Base.metadata.",
            output=done.output,
        )
    if "history" not in facts:
        raise MigrationError(
            f"Alembic could not compare the models: {cause_in(done.output)}",
            code="models-not-compared",
            hint="Correct what the service's output names.",
            output=done.output,
        )
    models = facts.get("models")
    return Compared(
        operations=tuple(filter(None, facts["operations"])),
        history=frozenset(ModelObject(*row) for row in facts["history"]),
        models=None if models is None else frozenset(ModelObject(*row) for row in models),
        problem=facts["problem"],
    )
