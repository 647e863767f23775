"""`migrations.check`: whether a service's revisions can be merged."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import replace

from huleedu_tasks.config.urls import DatabaseUrl
from huleedu_tasks.errors import HuleEduError, MigrationError, Refused, SeedError
from huleedu_tasks.migrations.alembic_config import NotUnderstood
from huleedu_tasks.migrations.functions import UPGRADE, line_of
from huleedu_tasks.migrations.model_comparison import compare_models
from huleedu_tasks.migrations.observation import throwaway_observation
from huleedu_tasks.migrations.revisions import History, named
from huleedu_tasks.postgres import databases
from huleedu_tasks.postgres.connections import connection
from huleedu_tasks.postgres.database_tables import digest_rows
from huleedu_tasks.process import scratch_directory
from huleedu_tasks.report import Fact, Level, Outcome, Problem, Report
from huleedu_tasks.review.base_branch import BaseRevision, base_problems
from huleedu_tasks.review.model_differences import model_problems
from huleedu_tasks.review.review import Review, Reviewed, problem_of
from huleedu_tasks.schema.replay import RevisionFailed
from huleedu_tasks.seeds.apply import apply

COMMAND = "migrations.check"
COLUMNS = ("head", "revisions")


async def check(review: Review) -> Report:
    """Report every problem of the revisions of each service.

    Raises:
        ConfigurationError: If the base cannot be found.
    """
    return await review.run(COMMAND, COLUMNS, _check)


async def _check(reviewed: Reviewed) -> Outcome:
    service, replays = reviewed.service, reviewed.replays
    try:
        history = await replays.histories.history(service, may_branch=True)
    except MigrationError as error:
        return reviewed.outcome({}, list(_history_problems(reviewed, error)))
    facts: dict[str, Fact] = {"head": named(history.heads), "revisions": len(history.revisions)}
    problems = [*_several_heads(reviewed, history)]
    base, found = await _base(reviewed)
    problems += found
    if reviewed.base and base is not None:
        root, ref = replays.registry.root, reviewed.base.ref
        problems += base_problems(service, history, base, ref, root)
    try:
        async with replays.database(service, history, history.heads, step=reviewed.step) as url:
            if len(history.heads) == 1:
                problems += await _of_models(reviewed, url)
            problems += [problem async for problem in _of_seeds(reviewed, url)]
    except (MigrationError, Refused) as error:
        problems.append(_not_built(reviewed, history, error))
    return replace(reviewed.outcome(facts, problems), graph=reviewed.graph(history, base))


def _history_problems(reviewed: Reviewed, error: MigrationError) -> list[Problem]:
    """Return the findings about files that do not form one history."""
    root = f"{reviewed.replays.registry.root}/"
    if not error.findings:
        return [problem_of(error, cause=error.message.replace(root, ""))]
    return [
        replace(
            problem_of(error, cause=str(finding).replace(root, "")),
            path=finding.place.removeprefix(root),
        )
        for finding in error.findings
    ]


def _several_heads(reviewed: Reviewed, history: History) -> list[Problem]:
    if len(history.heads) < 2:
        return []
    last = history.revisions[history.heads[-1]]
    files = ", ".join(reviewed.shown(history.revisions[head].path) for head in history.heads)
    return [
        Problem(
            level=Level.ERROR,
            cause=f"the history has {len(history.heads)} heads, {named(history.heads)}: {files}",
            remedy=f"Merge them: `invoke db.revision --service {reviewed.service.name} --merge "
            "-m TEXT`.",
            code="several-heads",
            path=reviewed.shown(last.path),
            line=line_of(last, "down_revision"),
        )
    ]


async def _base(
    reviewed: Reviewed,
) -> tuple[Mapping[str, BaseRevision] | None, list[Problem]]:
    """Return the revisions of the base branch; a warning if they cannot be read."""
    try:
        return await reviewed.base_revisions(), []
    except NotUnderstood as error:
        return None, [replace(problem_of(error), level=Level.WARNING)]


def _not_built(reviewed: Reviewed, history: History, error: HuleEduError) -> Problem:
    """Return the problem of a history that does not build from an empty database."""
    if not isinstance(error, RevisionFailed):
        return problem_of(error)
    revision = history.revisions.get(error.revision)
    path = reviewed.shown(revision.path) if revision else ""
    place = f": {path}" if path else ""
    return Problem(
        level=Level.ERROR,
        cause=f"the history does not build from an empty database{place}: {error.message}",
        remedy="Correct its upgrade(). It must accept empty tables. List the extensions that "
        "it needs as 'extensions' in the registry.",
        code="history-not-built",
        statement=error.statement,
        path=path,
        line=line_of(revision, UPGRADE) if revision else None,
    )


async def _of_models(reviewed: Reviewed, url: DatabaseUrl) -> list[Problem]:
    reviewed.step("comparing models and history")
    server = await reviewed.replays.server(reviewed.service)
    with scratch_directory() as scratch:
        session = await throwaway_observation(server.admin, url, scratch / "events")
        alembic = reviewed.replays.alembic(reviewed.service, url)
        try:
            compared = await compare_models(alembic, session)
        except MigrationError as error:
            has_models = error.code != "metadata-missing"
            problem = problem_of(error)
            return [problem if has_models else replace(problem, level=Level.INFO)]
    return list(model_problems(reviewed.service.name, compared))


async def _of_seeds(reviewed: Reviewed, url: DatabaseUrl) -> AsyncIterator[Problem]:
    """Yield the problems of seeds that are applied twice."""
    if not reviewed.service.seeds:
        return
    reviewed.step("applying the seeds twice")
    first: dict[str, str] = {}
    for is_repeated in (False, True):
        try:
            await _apply_seeds(reviewed, url)
        except (SeedError, Refused) as error:
            cause = f"the seeds failed when applied again: {error.message}"
            yield problem_of(error, cause=cause if is_repeated else "")
            return
        async with connection(url) as opened:
            rows = dict(await digest_rows(opened))
        if not is_repeated:
            first = rows
        elif changed := [name for name, digest in rows.items() if first.get(name) != digest]:
            yield Problem(
                level=Level.ERROR,
                cause=f"the seeds change rows when applied again: {', '.join(changed)}",
                remedy="Insert with ON CONFLICT DO NOTHING, and set no times to now().",
                code="seeds-not-idempotent",
            )


async def _apply_seeds(reviewed: Reviewed, url: DatabaseUrl) -> None:
    replays = reviewed.replays
    server = await replays.server(reviewed.service)
    await apply(
        reviewed.service,
        url,
        replays.settings,
        target=await databases.place(server.admin, url.database),
        workers=replays.histories.workers,
    )
