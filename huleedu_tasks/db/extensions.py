"""The extensions that the registry states for a service's database."""

from huleedu_tasks.db.service_run import ServiceRun
from huleedu_tasks.migrations.results import Used
from huleedu_tasks.postgres import databases
from huleedu_tasks.postgres.connections import connection


async def create_extensions(run: ServiceRun) -> None:
    """Create the extensions of all services that share a new database."""
    services = run.database.services
    extensions = dict.fromkeys(name for service in services for name in service.extensions)
    if not extensions:
        return
    async with connection(run.url, uncounted=True) as owner:
        for name in extensions:
            await databases.create_extension(owner, name)
    if run.database.build:
        run.database.build.add(Used(sessions=1))
