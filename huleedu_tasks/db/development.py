"""The development databases: up, down, reset, migrate, seed, status.

Before the first write, each command proves that the databases of all services are disposable, so
that a refusal leaves all of them unchanged. It proves each again on the connection that drops or
changes the database.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from huleedu_tasks import parallel
from huleedu_tasks.compose import init_scripts
from huleedu_tasks.config.registry import Registry, Service, seeding_predecessors
from huleedu_tasks.config.settings import ProviderName, Settings
from huleedu_tasks.config.urls import ResolvedUrl, resolve_all
from huleedu_tasks.db.renewals import Renewals
from huleedu_tasks.db.stages import STATUS_COLUMNS, Stages
from huleedu_tasks.errors import ConfigurationError, ExitCode, Finding, Refused
from huleedu_tasks.guard import Guard, require_disposable_environment, require_own_address
from huleedu_tasks.migrations import runner
from huleedu_tasks.migrations.alembic_history import AlembicHistories
from huleedu_tasks.migrations.inputs import Present
from huleedu_tasks.parallel import Work
from huleedu_tasks.report import Outcome, Progress, Report, Silence, Status, StepsOnly
from huleedu_tasks.servers.protocol import Provider
from huleedu_tasks.shared_databases import Sharing
from huleedu_tasks.state_dir import make_state_directory, unwritable
from huleedu_tasks.templates.policy import TemplatePolicy

# Stages that only wait for servers use no CPU; the number of connections limits them.
WAITING_JOBS = 16
REVISION_COLUMNS = ("from", "to")


@dataclass(frozen=True, kw_only=True)
class Development:
    """The flows over the selected services.

    Attributes:
        services: The selected services of the registry.
        state: The project's state directory.
        jobs: How many services are migrated at once; each uses one CPU.
        dry_run: Whether to report what would be done instead of doing it.
        confirmed: The names of databases that the user has typed.
        fresh: Whether a reset rebuilds every database, even if a template is valid.
        notify: Called with a sentence that says what the run waits for.
        added: A note for each group of services that was added to the selected ones.
        started: When the command began, in seconds of the monotonic clock.
    """

    settings: Settings
    provider: Provider
    registry: Registry
    services: tuple[Service, ...]
    state: Path
    jobs: int
    dry_run: bool = False
    confirmed: tuple[str, ...] = ()
    fresh: bool = False
    progress: Progress = field(default_factory=Silence)
    notify: Callable[[str], object] = str
    added: tuple[str, ...] = ()
    started: float = field(default_factory=time.monotonic)

    async def up(self) -> Report:
        """Start the servers and wait until each database accepts its user."""
        self._require_development("db.up")
        if self.dry_run:
            return self._report("db.up", await self._run(self._stages.would("start its server")))
        outcomes = await self._next(await self._prepare(), self._stages.start)
        return self._report("db.up", outcomes, columns=("server",))

    async def down(self) -> Report:
        """Stop the servers, keeping their data."""
        require_disposable_environment(self.settings, "db.down")
        stages = self._stages_with({})
        work = stages.would("stop its server") if self.dry_run else stages.stop
        return self._report("db.down", await self._run(work))

    def with_whole_databases(self) -> "Development":
        """Return a copy with the services that share a database with a selected one.

        Raises:
            ConfigurationError: If the URL of one of them cannot be resolved.
        """
        if not self.settings.environment.is_disposable:
            return self
        missing = self._sharing.others(self.services)
        names = {other.name for others in missing.values() for other in others}
        names |= {service.name for service in self.services}
        notes = [
            f"{', '.join(other.name for other in others)}: reset together with {name}, because "
            f"they share the database {self._urls[name].url.database!r}."
            for name, others in missing.items()
        ]
        services = tuple(service for service in self.registry.services if service.name in names)
        return replace(self, services=services, added=tuple(notes))

    async def reset(self, *, volumes: bool = False) -> Report:
        """Bring every database to a clean state: recreated, migrated to head, seeded.

        Args:
            volumes: Whether to recreate the servers' data as well, not only the databases.
        """
        self._require_development("db.reset")
        stages = self._stages
        if volumes:
            self._require_whole_servers()
        recreated = "the server's whole data" if volumes else "{database}"
        return await self._change(
            "db.reset",
            f"recreate {recreated}, migrate {{database}} to head and seed it",
            (stages.prove_inside,) if volumes else stages.proving_reset,
            (
                stages.renew if volumes else stages.recreate,
                stages.upgrade(runner.HEAD),
                stages.seed,
            ),
            stages.keep,
            on_new=stages.expect_migrations,
            is_whole=True,
        )

    async def migrate(self, target: str) -> Report:
        """Migrate to a revision.

        Args:
            target: A revision, `head`, `heads` or a number of steps such as `+1`.

        Raises:
            ConfigurationError: If the target is a downgrade, or a revision of one service while
                several are selected.
        """
        self._require_development("db.migrate")
        if target == "base" or target.startswith("-"):
            raise ConfigurationError(
                f"db.migrate does not downgrade, and {target!r} is a downgrade.",
                code="downgrade-unsupported",
                hint="Rebuild the database with `invoke db.reset`, or run `alembic downgrade` "
                "yourself.",
            )
        if len(self.services) > 1 and not _fits_every_service(target):
            raise ConfigurationError(
                f"Revision {target!r} belongs to one service, and {len(self.services)} were "
                "selected.",
                code="service-ambiguous",
                hint=f"Select that service, for example with --service {self.services[0].name}.",
            )
        stages = self._stages
        return await self._change(
            "db.migrate",
            f"migrate {{database}} to {target}",
            (stages.start, stages.prove),
            (stages.require_database, stages.upgrade(target)),
            stages.finish,
            on_new=stages.expect_migrations,
        )

    async def seed(self) -> Report:
        """Apply the seeds to databases that are at head."""
        self._require_development("db.seed")
        stages = self._stages
        return await self._change(
            "db.seed",
            "seed {database}",
            (stages.start, stages.prove),
            (stages.require_head, stages.seed),
            stages.finish,
            first=stages.expect_seeds,
        )

    async def status(self, *, check: bool) -> Report:
        """Report the revision of each database, without changing anything.

        Args:
            check: Whether the report is pending, for the exit code, if a database is not at head.
        """
        self._require_development("db.status")
        async with aclosing(self._stages):
            outcomes = await self._run(self._stages.status)
        behind = any(outcome.facts.get("pending") != 0 for outcome in outcomes)
        report = self._report("db.status", outcomes, columns=STATUS_COLUMNS)
        return replace(report, pending=check and behind)

    async def unproven(self) -> tuple[str, ...]:
        """Return the databases that the user must confirm by typing their names.

        Returns:
            Their names; empty if the provider proves its servers.
        """
        if self.provider.proves_identity or not self.settings.environment.is_disposable:
            return ()
        found = [await self._stages.untagged_database(service) for service in self.services]
        untagged = (name for name in found if name and name not in self.confirmed)
        return tuple(dict.fromkeys(untagged))

    # Running the stages.

    async def _change(
        self,
        command: str,
        would: str,
        proving: Sequence[Work],
        changing: Sequence[Work],
        ending: Work | None = None,
        *,
        first: Callable[[], object] = str,
        on_new: Callable[[], object] = str,
        is_whole: bool = False,
    ) -> Report:
        """Run the stages that prove, and then, if no service was refused, those that change.

        Args:
            would: What a dry run reports; `{database}` is replaced.
            proving: The stages that change nothing.
            changing: The stages that change databases.
            ending: A last stage, for later runs; it does not change the outcomes.
            first: Called before the servers are prepared.
            on_new: Called as soon as the provider is about to create a server.
            is_whole: Whether whole databases are changed. If one service fails, those that share
                its database are aborted.
        """
        self._require_files()
        columns = () if command == "db.seed" else REVISION_COLUMNS
        if self.dry_run:
            outcomes = await self._run(self._stages.would(would))
            return replace(self._report(command, outcomes), notes=self.added)
        outcomes = self._all_interrupted
        # Ctrl-C while waiting for another command. The stages handle it themselves.
        with suppress(asyncio.CancelledError):
            async with self._only_run(), aclosing(self._stages):
                first()
                outcomes = await self._prepare(on_new)
                for stage in proving:
                    outcomes = await self._next(outcomes, stage)
                outcomes = self._all_or_none(outcomes)
                for stage in changing:
                    if is_whole:
                        outcomes = self._sharing.all_or_none(outcomes)
                    outcomes = await self._next(outcomes, stage)
                finished = self._sharing.all_or_none(outcomes)
                outcomes = finished if is_whole else outcomes
                if ending:
                    await self._next(finished, ending, StepsOnly(self.progress))
        outcomes = tuple(map(self._with_missing_objects, outcomes))
        report = self._report(command, outcomes, columns=columns)
        return replace(report, notes=(*self.added, *self._stages.notes()))

    async def _run(self, work: Work) -> tuple[Outcome, ...]:
        return await parallel.run(
            self.services, work, jobs=self._waiting_jobs, progress=self.progress
        )

    async def _next(
        self, outcomes: Sequence[Outcome], stage: Work, progress: Progress | None = None
    ) -> tuple[Outcome, ...]:
        return await parallel.run_next(
            self.services,
            outcomes,
            stage,
            jobs=self._waiting_jobs if stage in self._stages.waiting else self.jobs,
            progress=progress or self.progress,
            after=self._order(stage),
        )

    def _order(self, stage: Work) -> dict[str, Sequence[str]]:
        """Return, for each service, the services that must finish a stage before it."""
        stages, services = self._stages, self.services
        if stage == stages.seed:
            return seeding_predecessors(services)
        if stage in (stages.recreate, stages.renew):
            leaders = {service.name: self._sharing.leader(service).name for service in services}
            return {name: [leader] for name, leader in leaders.items() if leader != name}
        return {service.name: service.migrate_after for service in services}

    async def _prepare(self, on_new: Callable[[], object] = str) -> tuple[Outcome, ...]:
        """Prepare the provider once for all servers, and return an outcome for each service."""
        make_state_directory(self.state)
        login = self._urls[self.services[0].name].url
        try:
            await self.provider.prepare(self.services, login, on_new=on_new)
        except asyncio.CancelledError:
            return self._all_interrupted
        return parallel.begun(self.services)

    def _all_or_none(self, outcomes: tuple[Outcome, ...]) -> tuple[Outcome, ...]:
        """Abort all services if one was refused."""
        refused = [o.service for o in outcomes if o.exit_code is ExitCode.REFUSED]
        if not refused:
            return outcomes
        reason = f"not begun: {', '.join(refused)} was refused"
        return tuple(
            replace(outcome, status=Status.ABORTED, detail=reason) if outcome else outcome
            for outcome in outcomes
        )

    @asynccontextmanager
    async def _only_run(self) -> AsyncIterator[None]:
        """Hold the lock under which one command at a time changes this project's databases."""
        from filelock import AsyncFileLock, Timeout

        make_state_directory(self.state)
        lock = AsyncFileLock(self.state / "run.lock", poll_interval=0.05, run_in_executor=False)
        try:
            try:
                await lock.acquire(timeout=0)
            except Timeout:
                self.notify("Waiting for another command that is changing these databases.")
                await lock.acquire()
        except OSError as error:
            raise unwritable(self.state, error) from error
        try:
            yield
        finally:
            await lock.release(force=True)

    def _with_missing_objects(self, outcome: Outcome) -> Outcome:
        """Name the init script that creates the object that a migration or seed did not find."""
        if outcome.status is not Status.FAILED or self.provider.name is not ProviderName.EMBEDDED:
            return outcome
        (service,) = self.registry.select([outcome.service])
        output = f"{outcome.detail}\n{outcome.output}"
        missing = init_scripts.missing_objects(self.registry, self.settings, service, output)
        if not missing:
            return outcome
        hint = init_scripts.missing_hint(service, missing)
        return replace(outcome, hint=hint, code=init_scripts.CODE)

    def _report(
        self, command: str, outcomes: tuple[Outcome, ...], columns: tuple[str, ...] = ()
    ) -> Report:
        return Report(
            command=command,
            environment=str(self.settings.environment),
            provider=str(self.provider.name),
            provider_reason=self.provider.reason,
            outcomes=outcomes,
            columns=columns,
            seconds=time.monotonic() - self.started,
            dry_run=self.dry_run,
        )

    # Requirements.

    def _require_development(self, command: str) -> None:
        require_disposable_environment(self.settings, command)
        for service in self.services:
            require_own_address(service, self._urls[service.name], self.provider)

    def _require_files(self) -> None:
        findings = [finding for service in self.services for finding in service.missing_files()]
        if findings:
            raise ConfigurationError(
                "The registry names files that do not exist; nothing was changed.",
                code="file-missing",
                findings=findings,
                hint="Create them, or correct 'directory', 'alembic_config' or 'seeds' in the "
                "registry.",
            )

    def _require_whole_servers(self) -> None:
        selected = {service.name for service in self.services}
        servers = {service.compose_service for service in self.services}
        findings = [
            Finding(place=service.name, problem=f"shares the server {service.compose_service!r}")
            for service in self.registry.services
            if service.compose_service in servers and service.name not in selected
        ]
        if findings:
            raise Refused(
                "--volumes would destroy databases of services that were not selected.",
                code="volume-shared",
                findings=findings,
                hint="Select them with --service as well, or omit --volumes.",
            )

    @cached_property
    def _urls(self) -> dict[str, ResolvedUrl]:
        return resolve_all(self.services, self.settings)

    @cached_property
    def _sharing(self) -> Sharing:
        return Sharing.of(self.registry, self.services, self.settings)

    @cached_property
    def _stages(self) -> Stages:
        return self._stages_with(self._urls)

    def _stages_with(self, urls: Mapping[str, ResolvedUrl]) -> Stages:
        sharing = self._sharing if urls else Sharing()
        return Stages(
            settings=self.settings,
            provider=self.provider,
            urls=urls,
            guard=Guard(settings=self.settings, provider=self.provider, confirmed=self.confirmed),
            registry=self.registry,
            templates=TemplatePolicy(
                settings=self.settings,
                present=Present.of(self.settings),
                # No templates are left on a server that is not the provider's own.
                keeps_templates=self.provider.proves_identity,
                fresh=self.fresh,
                sharing=sharing,
            ),
            answers=AlembicHistories(settings=self.settings, state=self.state),
            sharing=sharing,
            renewals=Renewals(settings=self.settings, registry=self.registry, urls=urls),
            notify=self.notify,
        )

    @property
    def _waiting_jobs(self) -> int:
        return max(self.jobs, WAITING_JOBS)

    @property
    def _all_interrupted(self) -> tuple[Outcome, ...]:
        return tuple(parallel.interrupted(service.name) for service in self.services)


def _fits_every_service(target: str) -> bool:
    """Whether a target exists in every history: a head, or a number of steps."""
    return target in ("head", "heads") or target.startswith("+")
