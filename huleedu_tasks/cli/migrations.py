"""What is checked before a revision is merged."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from huleedu_tasks.cli.command import command
from huleedu_tasks.cli.command_line import whole_number

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from huleedu_tasks.cli.command_run import Command
    from huleedu_tasks.report import Report, Result
    from huleedu_tasks.review.review import Review

Names = Sequence[str] | None
JOBS = "How many services are reviewed at once."


@command(
    base="Branch, tag or commit that is merged into: its head must be followed.",
    jobs=JOBS,
)
def check(
    app: Command,
    service: Names = None,
    base: str = "",
    jobs: str = "",
    format: str = "",
    out: Names = None,
    json: bool = False,
) -> Result:
    """Find what is wrong with revisions, models and seeds."""
    from huleedu_tasks.review.merge_check import check as find_problems

    return _run(app, service, base, jobs, find_problems)


@command(
    base="Test the revisions that this branch, tag or commit does not have.",
    jobs=JOBS,
)
def test_(
    app: Command,
    service: Names = None,
    base: str = "",
    jobs: str = "",
    format: str = "",
    out: Names = None,
    json: bool = False,
) -> Result:
    """Apply, undo and apply again each revision."""
    from huleedu_tasks.review.rehearsal import rehearse

    return _run(app, service, base, jobs, rehearse)


@command(
    base="Lint the revisions that this branch, tag or commit does not have.",
    sizes="JSON file with the sizes of tables, such as a plan; default: table-sizes.json.",
    jobs=JOBS,
)
def lint(
    app: Command,
    service: Names = None,
    base: str = "",
    sizes: str = "",
    jobs: str = "",
    format: str = "",
    out: Names = None,
    json: bool = False,
) -> Result:
    """Find locks, rewrites and losses of data in revisions."""
    from huleedu_tasks.review.lint import lint as find_hazards

    work = partial(find_hazards, sizes=sizes, directory=app.start)
    return _run(app, service, base, jobs, work)


def _run(
    app: Command,
    names: Names,
    base: str,
    jobs: str,
    work: Callable[[Review], Coroutine[Any, Any, Report]],
) -> Report:
    from huleedu_tasks.review.review import Review

    services = app.services(names)
    with app.screen.progress([service.name for service in services]) as progress:
        review = Review(
            settings=app.settings,
            registry=app.registry,
            services=services,
            state=app.state,
            instance=app.instance,
            base=base,
            jobs=whole_number("--jobs", jobs, at_least=1) if jobs else app.settings.jobs,
            progress=progress,
            notify=app.screen.say,
        )
        return app.run(work(review))
