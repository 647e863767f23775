"""Revisions as the report shows them before they run: with their SQL."""

import hashlib
from collections.abc import Sequence

from huleedu_tasks.db.service_run import ServiceRun
from huleedu_tasks.migrations.results import Rendered
from huleedu_tasks.migrations.revisions import Revision
from huleedu_tasks.report import Kind, Level, PlannedRevision, Problem
from huleedu_tasks.repository import shown


def planned_revision(
    run: ServiceRun,
    revision: Revision,
    rendered: Rendered | None,
    problems: Sequence[Problem] = (),
) -> PlannedRevision:
    """Return a revision with its SQL, and a problem if it has no offline SQL.

    Args:
        rendered: The SQL of the service's revisions; None if none was rendered.
        problems: Further problems of the revision.
    """
    sql = rendered.sql.get(revision.id) if rendered else None
    reason = unrendered(revision, rendered)
    unknown = Problem(
        level=Level.INFO,
        cause=f"its SQL is known only when it runs ({reason})",
        remedy=f"Read {revision.path.name}.",
        kind=Kind.OTHER,
    )
    return PlannedRevision(
        revision=revision.id,
        message=revision.message,
        path=shown(revision.path, run.context.registry.root),
        sha256=hashlib.sha256(revision.path.read_bytes()).hexdigest(),
        sql=sql,
        problems=(*((unknown,) if reason else ()), *problems),
    )


def unrendered(revision: Revision, rendered: Rendered | None) -> str:
    """Return why a revision has no offline SQL; an empty string if it has, or none was rendered."""
    if rendered is None or revision.id in rendered.sql:
        return ""
    reason = rendered.unrendered.get(revision.id) or rendered.problem
    return reason or "Alembic rendered no SQL"
