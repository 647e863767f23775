"""Record the files of applied revisions, and report those that were edited since."""

from collections.abc import Sequence
from dataclasses import replace

from huleedu_tasks import parallel
from huleedu_tasks.db.service_run import ServiceRun
from huleedu_tasks.migrations.edits import Edit, edits_since_applied, with_digests
from huleedu_tasks.postgres import databases
from huleedu_tasks.report import Outcome, State


async def record_applied(
    run: ServiceRun, before: Sequence[str], after: Sequence[str]
) -> tuple[Edit, ...]:
    """Store the digests of applied revisions in the environment tag; return the edited ones.

    Args:
        before: The revisions of the database before the migration.
        after: The revisions of the database now.
    """
    history, admin, database = await run.history(), await run.admin(), run.url.database
    tag = await databases.read_tag(admin, database) or run.context.tag
    recorded = with_digests(tag, run.name, history, before, after)
    if recorded != tag:
        await databases.write_tag_as_owner(admin, database, recorded)
    return edits_since_applied(recorded, run.name, history, after)


def with_edits(run: ServiceRun, edits: Sequence[Edit], outcome: Outcome) -> Outcome:
    """Return the outcome of a service whose applied revisions were edited."""
    if not edits:
        return outcome
    detail = "; ".join(edit.described(run.context.registry.root) for edit in edits)
    hint = (
        f"Run `invoke db.reset --service {run.name}`, or restore the file and put the change into "
        "a new revision."
    )
    if outcome.detail:
        detail = parallel.joined(outcome, detail)
    return replace(outcome, state=State.EDITED, detail=detail, hint=hint)
