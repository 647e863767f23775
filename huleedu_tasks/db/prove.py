"""Prove that databases may be changed or destroyed, before the first of them is."""

from collections.abc import Mapping

from huleedu_tasks.db.service_run import ServiceRun, after_migrated
from huleedu_tasks.errors import Refused
from huleedu_tasks.parallel import Stage, Step
from huleedu_tasks.postgres import clones, databases
from huleedu_tasks.report import Outcome


async def prove(run: ServiceRun, step: Step) -> Outcome:
    """Prove that the database may be changed or destroyed."""
    await run.prove_disposable()
    return run.done()


async def prove_server(run: ServiceRun, step: Step) -> Outcome:
    """Prove that all data of the server may be destroyed, without using its password."""
    step("proving")
    # Revisions that cannot be read must fail before the data is destroyed.
    await run.history()
    comments = await run.context.provider.comments_inside(run.service, run.url)
    run.context.guard.prove_comments(run.service, comments)
    _require_no_snapshots(run, comments)
    run.is_proven = True
    return run.done()


def snapshot_names(comments: Mapping[str, str]) -> list[str]:
    """Return the names of the databases that are named snapshots, sorted.

    Args:
        comments: The comment of each database by its name.
    """
    tags = {name: clones.readable_tag(name, comment) for name, comment in comments.items()}
    return sorted(name for name, tag in tags.items() if tag and tag.snapshot)


def _require_no_snapshots(run: ServiceRun, comments: Mapping[str, str]) -> None:
    """Require that a server has no named snapshots, unless they may be lost.

    Raises:
        Refused: If it has: recreating the server would destroy them.
    """
    names = [] if run.context.may_lose_snapshots else snapshot_names(comments)
    if names:
        raise Refused(
            f"{run.name}: recreating the server {run.server.name!r} would destroy its snapshots: "
            f"{', '.join(names)}.",
            code="snapshots-lost",
            hint="Pass --no-undo to destroy them as well, or run `invoke db.reset` without "
            "--volumes, which keeps them.",
        )


async def untagged_database(run: ServiceRun) -> str:
    """Return the name of the service's database if it exists without an environment tag.

    Returns:
        Its name; empty string if it does not exist or has a tag.
    """
    database = run.url.database
    admin = await run.admin()
    exists = await databases.exists(admin, database)
    return database if exists and await databases.read_tag(admin, database) is None else ""


PROVE = Stage(run=prove, io_bound=True, after=after_migrated)
PROVE_SERVER = Stage(run=prove_server, io_bound=True, after=after_migrated)
