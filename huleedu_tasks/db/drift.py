"""`db.drift`: the schema of each database compared with that which its migrations create."""

from dataclasses import replace

from huleedu_tasks.db.service_run import ServiceRun
from huleedu_tasks.migrations.revision_graph import graph_of_database
from huleedu_tasks.parallel import Stage, Step
from huleedu_tasks.postgres.connections import connection
from huleedu_tasks.report import Outcome
from huleedu_tasks.schema.comparison import Live, find_drift, outcome_of
from huleedu_tasks.schema.replay import Replays


def finding_drift(replays: Replays) -> Stage[ServiceRun]:
    """Return the stage that reports the drift of a database, without changing it."""

    async def find(run: ServiceRun, step: Step) -> Outcome:
        live = Live(
            service=run.service,
            url=run.url,
            history=await run.history(),
            histories=run.context.histories,
            environment=run.context.settings.tool_environment(),
        )
        async with connection(run.url) as opened:
            drift = await find_drift(live, opened, replays, step=step)
        graph = graph_of_database(live.history, drift.revisions)
        return replace(outcome_of(run.service, drift), graph=graph)

    return Stage(run=find, io_bound=False)
