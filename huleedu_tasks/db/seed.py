"""Apply the seeds of a service to its database."""

from huleedu_tasks.db.service_run import ServiceRun, after_migrated, after_seeded
from huleedu_tasks.errors import Refused
from huleedu_tasks.migrations.revisions import named
from huleedu_tasks.parallel import Stage, Step
from huleedu_tasks.postgres.connections import connection
from huleedu_tasks.report import Outcome
from huleedu_tasks.seeds.apply import apply


async def require_head(run: ServiceRun, step: Step) -> Outcome:
    """Refuse a database that is not at head: seeds are written for head."""
    history = await run.history()
    async with connection(run.url) as session:
        current = await run.context.histories.current(run.service, run.url, session, history)
    if current != history.heads:
        raise Refused(
            f"{run.url.database} is at {named(current)}, and its seeds are written for "
            f"{named(history.heads)}.",
            code="database-not-at-head",
            hint="Run `invoke db.migrate` first.",
        )
    return run.done()


async def seed(run: ServiceRun, step: Step) -> Outcome:
    """Apply the seeds, unless the database is a copy of a template."""
    if run.database.is_copied:
        return run.done()
    if not run.service.seeds:
        return run.done("no seeds")
    step("seeding")
    context = run.context
    async with run.database.lock:
        applied = await apply(
            run.service,
            run.url,
            context.settings,
            target=await run.prove_place(),
            workers=context.histories.workers,
        )
    if applied.output.strip():
        context.notify(f"{run.name}: its seeds printed:\n{applied.output.rstrip()}")
    if run.database.build:
        run.database.build.add(applied.used)
    return run.done("seeded")


REQUIRE_HEAD = Stage(run=require_head, io_bound=False, after=after_migrated)
SEED = Stage(run=seed, io_bound=False, after=after_seeded)
