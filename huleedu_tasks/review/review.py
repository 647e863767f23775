"""What the commands of the collection `migrations` have in common."""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from pathlib import Path

from huleedu_tasks import parallel
from huleedu_tasks.config.registry import Registry, Service
from huleedu_tasks.config.settings import Settings
from huleedu_tasks.errors import ExitCode, HuleEduError
from huleedu_tasks.instances.instance import Instance
from huleedu_tasks.migrations.revision_graph import graph_of_branch
from huleedu_tasks.migrations.revisions import History
from huleedu_tasks.parallel import Step
from huleedu_tasks.report import (
    Fact,
    GraphRevision,
    Level,
    Outcome,
    Problem,
    Progress,
    Report,
    Silence,
    State,
    Status,
)
from huleedu_tasks.repository import shown
from huleedu_tasks.review.base_branch import Base, BaseRevision
from huleedu_tasks.schema.replay import PROVIDER, PROVIDER_REASON, Replays


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """A review of the revisions of services, on throwaway databases.

    Attributes:
        registry: All services.
        services: The selected services, in registry order.
        state: The project's state directory.
        instance: The instance whose servers of development may be used; None for the main fleet.
        base: The branch that the revisions are merged into, as the user stated it; an empty string
            to review the whole history.
        jobs: How many services are reviewed at once.
        notify: Called with a sentence if another command uses a throwaway server.
    """

    settings: Settings
    registry: Registry
    services: tuple[Service, ...]
    state: Path
    instance: Instance | None = None
    base: str = ""
    jobs: int = 1
    progress: Progress = field(default_factory=Silence)
    notify: Callable[[str], object] = str

    @property
    def root(self) -> Path:
        """The root of the monorepo."""
        return self.registry.root

    async def run(self, command: str, columns: tuple[str, ...], work: "ReviewWork") -> Report:
        """Review each service, and report the problems of all.

        Args:
            columns: The facts that the report shows.
            work: Reviews one service.

        Raises:
            ConfigurationError: If the base cannot be found.
        """
        started = time.monotonic()
        base = await Base.find(self.base, self.root, self.settings) if self.base else None
        replays = Replays(
            settings=self.settings,
            registry=self.registry,
            state=self.state,
            instance=self.instance,
            notify=self.notify,
        )

        async def one(service: Service, step: Step) -> Outcome:
            return await work(Reviewed(service=service, base=base, replays=replays, step=step))

        async with aclosing(replays):
            replays.histories.workers.prepare()
            outcomes = await parallel.run(
                self.services, one, jobs=self.jobs, progress=self.progress
            )
        return Report(
            command=command,
            environment=str(self.settings.environment),
            provider=PROVIDER,
            provider_reason=PROVIDER_REASON,
            outcomes=outcomes,
            columns=columns,
            seconds=time.monotonic() - started,
            pending=any(outcome.state is State.FINDINGS for outcome in outcomes),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Reviewed:
    """A service under review.

    Attributes:
        base: The branch that its revisions are merged into; None for the whole history.
        step: Called with each step.
    """

    service: Service
    base: Base | None
    replays: Replays
    step: Step

    async def base_revisions(self) -> Mapping[str, BaseRevision] | None:
        """Return the revisions of the base branch; None without a base."""
        return await self.base.revisions(self.service) if self.base else None

    def shown(self, path: Path) -> str:
        """Return a path relative to the root of the monorepo."""
        return shown(path, self.replays.registry.root)

    def graph(
        self, history: History, base: Mapping[str, BaseRevision] | None
    ) -> tuple[GraphRevision, ...]:
        """Return the graph of the history, with the revisions of the base branch if there is one.

        Args:
            base: As `base_revisions` returns them.
        """
        known = {name: found.revision for name, found in base.items()} if base else None
        return graph_of_branch(history, known, self.base.ref if self.base else "")

    def outcome(self, facts: Mapping[str, Fact], problems: Sequence[Problem]) -> Outcome:
        """Return the outcome of a review that came to its end."""
        found = tuple(problems)
        judged = Outcome(service=self.service.name, facts=facts).with_problems(found)
        if judged:
            return judged
        # The review itself succeeded.
        return replace(judged, status=Status.OK, state=State.FINDINGS, exit_code=ExitCode.DONE)


ReviewWork = Callable[[Reviewed], Awaitable[Outcome]]


def problem_of(error: HuleEduError, *, cause: str = "") -> Problem:
    """Return an error as a problem of a review.

    Args:
        cause: The cause; an empty string for the message of the error.
    """
    return Problem(
        level=Level.ERROR, cause=cause or error.message, remedy=error.hint, code=error.code
    )
