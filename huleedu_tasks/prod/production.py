"""The selected services of staging or production, and what every `prod` command does with them."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from huleedu_tasks import parallel
from huleedu_tasks.config.registry import Service
from huleedu_tasks.config.settings import EXTERNAL_PREFIX, Settings
from huleedu_tasks.config.urls import ResolvedUrl, resolve_each
from huleedu_tasks.errors import HuleEduError
from huleedu_tasks.migrations.alembic_history import AlembicHistories
from huleedu_tasks.migrations.revisions import History
from huleedu_tasks.parallel import Work
from huleedu_tasks.prod.configuration_check import require_configuration
from huleedu_tasks.prod.drift_check import DriftCheck
from huleedu_tasks.prod.target import DISABLED, Target
from huleedu_tasks.report import Outcome, Progress, Report, Silence
from huleedu_tasks.schema.replay import Replays

# The limit of concurrent connections, because other clients use the same servers.
CONNECTIONS = 8

Targets = Mapping[str, Target]


@dataclass(frozen=True, slots=True, kw_only=True)
class Production:
    """The selected services and their settings.

    Attributes:
        settings: The unchecked settings; their errors are reported with all others.
        services: The selected services, in registry order.
        root: The root of the monorepo.
        histories: The source of each service's revisions, read by its Alembic.
        drift: How drift is looked for before a migration; None if it is not.
        rehearsals: The throwaway databases on which a plan runs its revisions; None if it does not.
        redact: Masks every password in a string.
        progress: Shows the progress of each service.
        started: The start of the command, in seconds of the monotonic clock.
    """

    settings: Settings
    services: tuple[Service, ...]
    root: Path
    histories: AlembicHistories
    drift: DriftCheck | None = None
    rehearsals: Replays | None = None
    redact: Callable[[str], str] = str
    progress: Progress = field(default_factory=Silence)
    started: float = field(default_factory=time.monotonic)

    @asynccontextmanager
    async def targets(self, command: str) -> AsyncIterator[Targets]:
        """Check the configuration, read every service's revisions, and keep its Alembic process.

        Args:
            command: The name of the command, for the messages.

        Yields:
            The database of each service, by the name of the service.

        Raises:
            Refused: In development and testing.
            ConfigurationError: If the configuration has errors; it contains all of them.
        """
        urls = require_configuration(self.services, self.settings, command)
        async with aclosing(self.histories), AsyncExitStack() as stack:
            for replays in self._all_replays:
                # One import of Alembic; each process gets an environment of its own.
                replays.histories.lender = self.histories
                await stack.enter_async_context(aclosing(replays))
            read = [self._target(service, urls[service.name]) for service in self.services]
            targets = await asyncio.gather(*read)
            yield {target.service.name: target for target in targets}

    @property
    def _all_replays(self) -> list[Replays]:
        used = [self.drift.replays if self.drift else None, self.rehearsals]
        # One object may serve both.
        return list({id(replays): replays for replays in used if replays}.values())

    async def run(self, work: Work) -> tuple[Outcome, ...]:
        """Query the databases of all services concurrently; return one outcome for each."""
        return await parallel.run(self.services, work, jobs=CONNECTIONS, progress=self.progress)

    def report(
        self,
        command: str,
        outcomes: tuple[Outcome, ...],
        columns: tuple[str, ...],
        targets: Targets,
    ) -> Report:
        """Return the report of a command, with the servers of the selected services."""
        places: dict[str, list[str]] = {}
        for name, target in targets.items():
            places.setdefault(target.url.address, []).append(name)
        return Report(
            command=command,
            environment=str(self.settings.environment),
            provider="external",
            provider_reason=f"{len(places)} servers" if len(places) > 1 else next(iter(places)),
            outcomes=outcomes,
            columns=columns,
            places=places,
            seconds=time.monotonic() - self.started,
        )

    async def _target(self, service: Service, resolved: ResolvedUrl) -> Target:
        environment = self.settings.environment
        prefix = EXTERNAL_PREFIX[environment]
        usual = resolve_each([service], self.settings)[0].get(service.name)
        return Target(
            service=service,
            resolved=resolved,
            usual=None if usual == resolved else usual,
            environment=str(environment),
            variables=prefix,
            open_allowed=self.settings.get(f"{prefix}_SSLMODE") == DISABLED,
            history=await self._history(service, resolved),
            histories=self.histories,
        )

    async def _history(self, service: Service, resolved: ResolvedUrl) -> History | HuleEduError:
        try:
            return await self.histories.history(service, resolved.url)
        except HuleEduError as error:
            return error
