"""Migrate a service without the command line, with a verified target database."""

from collections.abc import Mapping
from pathlib import Path

from huleedu_tasks.config.registry import Service
from huleedu_tasks.config.settings import Settings
from huleedu_tasks.config.urls import DatabaseUrl
from huleedu_tasks.migrations import runner
from huleedu_tasks.migrations.child_process import Alembic
from huleedu_tasks.migrations.observation import Observation
from huleedu_tasks.migrations.results import Migrated
from huleedu_tasks.migrations.revisions import read_history
from huleedu_tasks.postgres.connections import connection
from huleedu_tasks.postgres.inspection import identify
from huleedu_tasks.postgres.locks import Hold
from huleedu_tasks.process import scratch_directory


async def observation_of(
    url: DatabaseUrl,
    events: Path,
    settings: Mapping[str, str] | None = None,
    optional_settings: Mapping[str, str] | None = None,
    *,
    hold: Hold | None = None,
) -> Observation:
    """Return what a run on the database of a URL is told, with that database as its target.

    Args:
        hold: The hold of the run on its lock; None without one.
    """
    async with connection(url) as asked:
        identity = await identify(asked)
    return Observation(
        events=events,
        settings=settings or {},
        optional_settings=optional_settings or {},
        target=identity.place,
        hold=hold,
    )


async def migrate(service: Service, url: DatabaseUrl, settings: Settings) -> Migrated:
    """Migrate a service's database to head."""
    with scratch_directory() as directory:
        session = await observation_of(url, directory / "events")
        alembic = Alembic(service=service, url=url, settings=settings)
        return await runner.upgrade(alembic, read_history(service), session=session)
