"""Start and stop the servers."""

from huleedu_tasks.config.registry import Service
from huleedu_tasks.db.init_snapshots import keep_init_snapshots
from huleedu_tasks.db.service_run import ServiceRun, after_migrated
from huleedu_tasks.parallel import Stage, Step
from huleedu_tasks.report import Outcome
from huleedu_tasks.servers.protocol import Provider


async def start(run: ServiceRun, step: Step) -> Outcome:
    """Start the server, and wait until the database accepts its user."""
    step("starting")
    started = await run.context.provider.start(run.service, run.url, admin=run.admin)
    database = run.database
    async with database.lock:
        if started.is_new and not database.is_on_new_server:
            database.is_on_new_server = True
            await keep_init_snapshots(run, started.counted)
    return run.done(facts={"server": started.done})


async def stop(service: Service, provider: Provider, step: Step) -> Outcome:
    """Stop a server without removing its data."""
    step("stopping")
    return Outcome(service=service.name, detail=await provider.stop(service))


async def start_again(run: ServiceRun, step: Step) -> Outcome:
    """Start the server of a database that has answered already; it usually runs."""
    return await start(run, lambda _: None)


START_AGAIN = Stage(run=start_again, io_bound=True, after=after_migrated)
START = Stage(run=start, io_bound=True, after=after_migrated)
