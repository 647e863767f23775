"""Runs a service's migrations in a child process, with its `env.py` and `config.py` unchanged.

The override variable carries the URL without its password, and PGPASSWORD the password as it is:
a `%` in a URL breaks `config.set_main_option` in many an `env.py`, and its traceback would show
the password. asyncpg and psycopg both read PGPASSWORD.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from huleedu_tasks import process
from huleedu_tasks.config.registry import Service
from huleedu_tasks.config.settings import Settings
from huleedu_tasks.config.urls import DatabaseUrl
from huleedu_tasks.errors import MigrationError
from huleedu_tasks.migrations.revisions import History
from huleedu_tasks.postgres.connections import connection
from huleedu_tasks.postgres.databases import current_revisions

WORKER = Path(__file__).with_name("worker.py")
HEAD = "head"


@dataclass(frozen=True, slots=True, kw_only=True)
class Migrated:
    """What a run did, as the database itself says.

    Attributes:
        before: The revisions it was at.
        after: The revisions it is at.
        output: What Alembic and the service's code printed.
    """

    before: tuple[str, ...]
    after: tuple[str, ...]
    output: str = ""


async def upgrade(
    service: Service, url: DatabaseUrl, settings: Settings, history: History, target: str = HEAD
) -> Migrated:
    """Upgrade a service's database, and ask it afterwards where it is.

    No process is started if it is there already.

    Args:
        target: A revision, as `alembic upgrade` takes it.

    Raises:
        MigrationError: If Alembic fails, takes too long, or leaves the database elsewhere.
        ServerError: If the database cannot be asked.
    """
    before = await _revisions(url)
    wanted = history.resolve(target)
    if wanted and before == (wanted,):
        return Migrated(before=before, after=before)
    if wanted and history.is_past(before, wanted):
        raise MigrationError(
            f"{service.database} is at {named(before)}, which is past {wanted}; nothing was run.",
            hint="Migrations go forward only; in development `invoke db.reset` starts anew.",
        )
    hint = _remedy(before, history)
    output = await _run_alembic(service, url, settings, ["upgrade", target], hint)
    after = await _revisions(url)
    if wanted and after != (wanted,):
        raise MigrationError(
            f"Alembic ended without an error, but {service.database} is at "
            f"{named(after)}, not at {wanted}.",
            hint=f"Its env.py did not migrate, or migrated another database: it must use "
            f"the URL in {service.url_variable}.",
            output=output,
        )
    return Migrated(before=before, after=after, output=output)


def named(revisions: tuple[str, ...]) -> str:
    """Return revisions as people read them."""
    return ", ".join(revisions) or "no revision"


async def _revisions(url: DatabaseUrl) -> tuple[str, ...]:
    async with connection(url) as asked:
        return await current_revisions(asked)


async def _run_alembic(
    service: Service, url: DatabaseUrl, settings: Settings, arguments: list[str], hint: str
) -> str:
    python = service.python or (sys.executable,)
    alembic = [str(WORKER), "-c", str(service.alembic_config), *arguments]
    command = [*_from_directory(service, python), *alembic]
    try:
        done = await process.run(
            command,
            cwd=service.directory,
            environment=_environment(service, url, settings),
            timeout=settings.migration_timeout,
            lifeline=True,
        )
    except OSError as error:
        raise MigrationError(
            f"{python[0]!r} cannot be started: {error.strerror}",
            hint="Correct 'python' of this service in the registry.",
        ) from error
    if done.timed_out:
        raise MigrationError(
            f"Its migrations took longer than {settings.migration_timeout:g} s and were ended.",
            hint="See what it waits for; HULEEDU_MIGRATION_TIMEOUT allows more time.",
            output=done.output,
        )
    if done.returncode != 0:
        raise MigrationError(
            f"Alembic failed with exit code {done.returncode}: {_cause(done.output)}",
            hint=hint,
            output=done.output,
        )
    return done.output


def _from_directory(service: Service, python: tuple[str, ...]) -> list[str]:
    program = python[0]
    # As a shell has it: with a slash it is a path, without one it is looked up in PATH.
    path = str(service.directory / program) if "/" in program else program
    return [path, *python[1:]]


def _environment(service: Service, url: DatabaseUrl, settings: Settings) -> dict[str, str]:
    environment = settings.child_environment()
    if url.is_local:
        # The developer's PGSSLMODE and the like are meant for servers elsewhere.
        environment = {n: v for n, v in environment.items() if not n.startswith("PG")}
    if service.python:
        # Ours would be taken for the service's by `pdm run` and the like.
        environment.pop("VIRTUAL_ENV", None)
    environment |= service.environment
    environment |= {
        "HULEEDU_ENVIRONMENT": str(settings.environment),
        service.url_variable: url.without_password().reveal(),
    }
    if url.password:
        environment["PGPASSWORD"] = url.password.reveal()
    return environment


def _remedy(before: tuple[str, ...], history: History) -> str:
    """Say what helps if Alembic fails."""
    unknown = tuple(revision for revision in before if revision not in history.revisions)
    if unknown:
        return (
            f"Revision {named(unknown)} was made by another branch of the code: check that out, "
            "or in development start anew with `invoke db.reset`."
        )
    return "The service's own output names the cause; correct it and run the command again."


def _cause(output: str) -> str:
    """Return the line that names the cause: a traceback's exception, else the last one."""
    _, traceback, rest = output.rpartition("Traceback (most recent call last):\n")
    lines = [line for line in rest.splitlines() if line.strip()]
    # SQLAlchemy's exceptions go on for lines; the frames before them are indented.
    raised = [line for line in lines if traceback and not line.startswith(" ")]
    return (raised[:1] or lines[-1:] or ["it printed nothing"])[0].strip()
