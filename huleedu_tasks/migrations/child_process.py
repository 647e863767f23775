"""The child process in which a service's code runs: its command line and its environment.

The override variable of that process contains the complete URL. PGPASSWORD contains the password,
for code that connects without the URL. Secrets in the output are masked before it is returned.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from huleedu_tasks import process
from huleedu_tasks.config.placeholders import fill_in
from huleedu_tasks.config.registry import Service
from huleedu_tasks.config.secret import Redactor, Secret
from huleedu_tasks.config.settings import Settings
from huleedu_tasks.config.urls import DatabaseUrl
from huleedu_tasks.errors import MigrationError
from huleedu_tasks.migrations.forkserver import NotForked, WarmWorkers

WORKER = Path(__file__).parent / "child" / "worker.py"
INSTRUCTIONS = "HULEEDU_WORKER"
OPTIONS = "HULEEDU_WORKER_OPTIONS"


@dataclass(frozen=True, slots=True, kw_only=True)
class Alembic:
    """The Alembic of one service, which migrates its database in child processes.

    Attributes:
        url: The URL of the database.
        settings: The settings of the command.
        workers: Forks the processes from one that has imported Alembic; None to start interpreters.
    """

    service: Service
    url: DatabaseUrl
    settings: Settings
    workers: WarmWorkers | None = None

    async def run(
        self,
        arguments: list[str],
        instructions: str,
        *,
        options: str = "",
        timeout: float | None = None,
    ) -> process.Completed:
        """Run a command of Alembic.

        Args:
            arguments: The command and its arguments.
            instructions: The JSON document that the worker reads.
            options: Options of PostgreSQL for libpq; empty for none.
            timeout: As for `run_alembic`.

        Raises:
            MigrationError: As `run_alembic`.
        """
        environment = environment_with_url(self.service, self.url, self.settings)
        environment[INSTRUCTIONS] = instructions
        if options:
            environment["PGOPTIONS"] = f"{environment.get('PGOPTIONS', '')} {options}".strip()
        return await run_alembic(
            self.service,
            self.settings,
            environment,
            arguments,
            workers=self.workers,
            timeout=timeout,
        )


async def run_alembic(
    service: Service,
    settings: Settings,
    environment: Mapping[str, str],
    arguments: list[str],
    *,
    workers: WarmWorkers | None = None,
    timeout: float | None = None,
) -> process.Completed:
    """Run Alembic for a service, in a forked process where that makes no difference.

    A service with an interpreter of its own, or with variables that an interpreter reads only at
    its start, needs a new one.

    Args:
        environment: The environment of the process, with the instructions for the worker.
        arguments: Alembic's command and its arguments.
        workers: Forks the process from one that has imported Alembic; None to start an interpreter.
        timeout: Seconds it may take; None for the setting.

    Returns:
        How it ended, with masked secrets in its output.

    Raises:
        MigrationError: If it exceeds the timeout, or its interpreter cannot be started.
    """
    arguments = [*service.alembic_arguments, *arguments]
    timeout = timeout or settings.migration_timeout
    done = None
    if workers and not service.python and workers.can_fork(environment, service.directory):
        # Otherwise start an interpreter.
        with suppress(NotForked):
            done = await workers.run(
                arguments,
                cwd=service.directory,
                environment=_with_options(environment, service),
                timeout=timeout,
            )
    if done is None:
        done = await run_script(
            service, WORKER, arguments, environment=environment, timeout=timeout
        )
    mask = Redactor([Secret(environment.get("PGPASSWORD", "")), *settings.secrets()])
    done = replace(done, output=mask(done.output))
    if done.timed_out:
        raise MigrationError(
            f"The migrations exceeded {timeout:g} s and were terminated.",
            code="migration-timeout",
            hint="Find out what they wait for, or set HULEEDU_MIGRATION_TIMEOUT to more seconds.",
            output=done.output,
        )
    return done


async def run_script(
    service: Service,
    script: Path,
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str],
    timeout: float,
) -> process.Completed:
    """Run a script of this package with a service's interpreter, in the service's directory.

    Args:
        script: The path of the script. It ends when its standard input is closed.
        timeout: Seconds it may take.

    Raises:
        MigrationError: If the interpreter cannot be started.
    """
    python = service.python or (sys.executable,)
    command = [*_from_directory(service, python), str(script), *arguments]
    try:
        return await process.run(
            command,
            cwd=service.directory,
            environment=_with_options(environment, service),
            timeout=timeout,
            stdin=process.Lifeline(),
            keeps=process.PRINTED,
        )
    except OSError as error:
        raise MigrationError(
            f"{python[0]!r} could not be started: {error.strerror}",
            code="interpreter-missing",
            hint="Correct 'python' or 'alembic' of this service in the registry.",
        ) from error


def environment_of(
    service: Service, settings: Settings, url: DatabaseUrl | None = None
) -> dict[str, str]:
    """Return the environment of a service's own code, without its override variable.

    Args:
        url: The URL for variables with a part of it; None leaves these variables out.
    """
    environment = settings.service_environment()
    if service.python:
        # `pdm run` would use our virtual environment instead of the service's.
        environment.pop("VIRTUAL_ENV", None)
    return environment | fill_in(service.environment, str(settings.environment), url)


def environment_with_url(service: Service, url: DatabaseUrl, settings: Settings) -> dict[str, str]:
    """Return the environment of a service's own code, with its override variable."""
    environment = environment_of(service, settings, url)
    if url.is_local:
        # PG* variables of the developer are meant for remote servers.
        own = service.environment
        environment = {n: v for n, v in environment.items() if n in own or not n.startswith("PG")}
    environment |= {
        "HULEEDU_ENVIRONMENT": str(settings.environment),
        settings.own_name("HULEEDU_ENVIRONMENT"): str(settings.environment),
        service.url_variable: url.reveal(),
        service.alembic_url_variable: url.reveal(),
    }
    if url.password:
        environment["PGPASSWORD"] = url.password.reveal()
    return environment


def _from_directory(service: Service, python: tuple[str, ...]) -> list[str]:
    program = python[0]
    # As in a shell, a name with a slash is a path, and any other one is found in PATH.
    path = str(service.directory / program) if "/" in program else program
    return [path, *python[1:]]


def _with_options(environment: Mapping[str, str], service: Service) -> dict[str, str]:
    """Return an environment with the service's options for the worker."""
    options = service.alembic_options
    return {**environment, **({OPTIONS: json.dumps(options)} if options else {})}
