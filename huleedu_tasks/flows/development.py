"""The development databases: up, down, reset, migrate, seed, status.

Whatever writes is proven first for every service, so that a refusal leaves all of them untouched,
and proven again on the very connection that destroys.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from huleedu_tasks import seeds
from huleedu_tasks.config.registry import Service, seeding_order
from huleedu_tasks.config.settings import Settings
from huleedu_tasks.config.urls import ResolvedUrl, resolve_all
from huleedu_tasks.errors import (
    ConfigurationError,
    ExitCode,
    HuleEduError,
    Refused,
)
from huleedu_tasks.flows import fleet
from huleedu_tasks.flows.fleet import Step, Work
from huleedu_tasks.guard import Guard, require_disposable_environment, require_own_address
from huleedu_tasks.migrations import runner
from huleedu_tasks.migrations.revisions import History, read_history
from huleedu_tasks.postgres import databases
from huleedu_tasks.postgres.connections import (
    MAINTENANCE_DATABASE,
    DatabaseMissing,
    Unreachable,
    connection,
)
from huleedu_tasks.postgres.databases import Mark
from huleedu_tasks.report import Fact, Outcome, Progress, Report, Silence, Status
from huleedu_tasks.servers import Provider
from huleedu_tasks.state import make_state_folder, unwritable

REVISION_COLUMNS = ("from", "to")
STATUS_COLUMNS = ("reachable", "current", "head", "pending", "seeded")


@dataclass(frozen=True, kw_only=True)
class Development:
    """The flows over the selected services.

    Attributes:
        state: The project's state folder.
        jobs: How many services are worked on at once.
        dry_run: Whether to say what would be done instead of doing it.
        confirmed: Names of databases a person has typed.
        notify: Told in a sentence what the run waits for.

    """

    settings: Settings
    provider: Provider
    services: tuple[Service, ...]
    state: Path
    jobs: int
    dry_run: bool = False
    confirmed: tuple[str, ...] = ()
    progress: Progress = field(default_factory=Silence)
    notify: Callable[[str], object] = str
    started: float = field(default_factory=time.monotonic)

    async def up(self) -> Report:
        """Start the servers and wait until each database accepts its user."""
        self._require_development("db.up")
        if self.dry_run:
            return self._report("db.up", await self._run(self._would("start its server")))
        return self._report("db.up", await self._start())

    async def down(self) -> Report:
        """Stop the servers, keeping their data."""
        require_disposable_environment(self.settings, "db.down")
        if self.dry_run:
            return self._report("db.down", await self._run(self._would("stop its server")))

        async def stop(service: Service, step: Step) -> Outcome:
            step("stopping")
            return Outcome(service=service.name, detail=await self.provider.stop(service))

        return self._report("db.down", await self._run(stop))

    async def reset(self) -> Report:
        """Bring every database to a clean state: recreated, migrated to head, seeded."""
        return await self._change(
            "db.reset",
            "recreate {database}, migrate it to head and seed it",
            self._recreate,
            self._upgrade(runner.HEAD),
            self._seed,
        )

    async def migrate(self, target: str) -> Report:
        """Migrate to a revision."""
        return await self._change(
            "db.migrate",
            f"migrate {{database}} to {target}",
            self._require_database,
            self._upgrade(target),
        )

    async def seed(self) -> Report:
        """Apply the seeds to databases that are at head."""
        return await self._change("db.seed", "seed {database}", self._require_head, self._seed)

    async def status(self, *, check: bool) -> Report:
        """Tell where each database is; change nothing.

        Args:
            check: Whether the exit code shall say that one is not at head.

        """
        self._require_development("db.status")
        outcomes = await self._run(self._status)
        behind = any(outcome.facts.get("pending") != 0 for outcome in outcomes)
        report = self._report("db.status", outcomes, columns=STATUS_COLUMNS)
        return replace(report, pending=check and behind)

    async def unproven(self) -> tuple[str, ...]:
        """Return the databases that only a person who types their name can release."""
        if self.provider.proves_identity or not self.settings.environment.is_disposable:
            return ()
        found = []
        for service in self.services:
            url = self._urls[service.name].url
            async with connection(url, database=MAINTENANCE_DATABASE) as admin:
                there = await databases.exists(admin, url.database)
                if there and await databases.read_mark(admin, url.database) is None:
                    found.append(url.database)
        return tuple(name for name in found if name not in self.confirmed)

    # How the flows are put together.

    async def _change(self, command: str, would: str, *stages: Work) -> Report:
        """Start, prove, and then do one stage after the other for each service."""
        self._require_development(command)
        self._require_files()
        columns = () if command == "db.seed" else REVISION_COLUMNS
        if self.dry_run:
            outcomes = await self._run(self._would(would))
            return self._report(command, outcomes)
        async with self._only_run():
            outcomes = await self._start()
            outcomes = self._all_or_none(await self._then(outcomes, self._prove))
            for stage in stages:
                after = self._seed_after if stage == self._seed else None
                outcomes = await self._then(outcomes, stage, after=after)
        return self._report(command, outcomes, columns=columns)

    async def _run(self, work: Work) -> tuple[Outcome, ...]:
        return await fleet.run(self.services, work, jobs=self.jobs, progress=self.progress)

    async def _start(self) -> tuple[Outcome, ...]:
        first = self._urls[self.services[0].name].url
        make_state_folder(self.state)
        try:
            await self.provider.prepare(self.services, first)
        except asyncio.CancelledError:
            return tuple(fleet.interrupted(service) for service in self.services)

        async def start(service: Service, step: Step) -> Outcome:
            step("starting")
            done = await self.provider.start(service, self._urls[service.name].url)
            return Outcome(service=service.name, facts={"server": done})

        return await self._run(start)

    async def _then(
        self,
        outcomes: Sequence[Outcome],
        work: Work,
        *,
        after: dict[str, tuple[str, ...]] | None = None,
    ) -> tuple[Outcome, ...]:
        """Do the next stage for the services that are well; keep the others' outcomes."""
        if any(outcome.exit_code is ExitCode.INTERRUPTED for outcome in outcomes):
            return tuple(outcomes)
        well = {outcome.service: outcome for outcome in outcomes if outcome}
        services = [service for service in self.services if service.name in well]
        if after is not None:
            services = list(seeding_order(services))
        unwell = {outcome.service for outcome in outcomes if not outcome}
        later = {}
        for service in services:
            missing = [name for name in (after or {}).get(service.name, ()) if name in unwell]
            if missing:
                reason = f"{missing[0]} did not end well, and must be seeded first"
                later[service.name] = fleet.aborted(service, reason)
        services = [service for service in services if service.name not in later]
        for outcome in await fleet.run(
            services, work, jobs=self.jobs, progress=self.progress, after=after
        ):
            later[outcome.service] = outcome
        return tuple(
            outcome.followed_by(later[outcome.service]) if outcome.service in later else outcome
            for outcome in outcomes
        )

    def _all_or_none(self, outcomes: tuple[Outcome, ...]) -> tuple[Outcome, ...]:
        """Let nothing go on where one service was refused."""
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
        """Wait until no other command changes this project's databases, and keep others out."""
        from filelock import AsyncFileLock, Timeout

        make_state_folder(self.state)
        lock = AsyncFileLock(self.state / "run.lock", poll_interval=0.05, run_in_executor=False)
        try:
            try:
                await lock.acquire(timeout=0)
            except Timeout:
                self.notify("Another command works on these databases; waiting for it to end.")
                await lock.acquire()
        except OSError as error:
            raise unwritable(self.state, error) from error
        try:
            yield
        finally:
            await lock.release(force=True)

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

    # What must hold before.

    def _require_development(self, command: str) -> None:
        require_disposable_environment(self.settings, command)
        for service in self.services:
            require_own_address(service, self._urls[service.name], self.provider)

    def _require_files(self) -> None:
        findings = [finding for service in self.services for finding in service.missing_files()]
        if findings:
            raise ConfigurationError(
                "The registry names files that are not there; nothing was done.",
                findings=findings,
                hint="Create them, or correct the registry: 'directory', 'alembic_config' and "
                "'seeds' state what convention does not.",
            )

    @cached_property
    def _urls(self) -> dict[str, ResolvedUrl]:
        return resolve_all(self.services, self.settings)

    @cached_property
    def _guard(self) -> Guard:
        return Guard(settings=self.settings, provider=self.provider, confirmed=self.confirmed)

    @property
    def _seed_after(self) -> dict[str, tuple[str, ...]]:
        return {service.name: service.seed_after for service in self.services}

    # The stages: each takes a service from one state to the next.

    def _would(self, text: str) -> Work:
        async def say(service: Service, step: Step) -> Outcome:
            database = self._urls[service.name].url.database
            detail = f"dry run: would {text.format(database=database)}"
            return Outcome(service=service.name, status=Status.SKIPPED, detail=detail)

        return say

    async def _prove(self, service: Service, step: Step) -> Outcome:
        url = self._urls[service.name].url
        async with connection(url, database=MAINTENANCE_DATABASE) as admin:
            await self._guard.prove_disposable(admin, service, url.database)
        return Outcome(service=service.name)

    async def _recreate(self, service: Service, step: Step) -> Outcome:
        step("recreating")
        # Broken revisions must not cost the data of the day before.
        read_history(service)
        url = self._urls[service.name].url
        async with connection(url, database=MAINTENANCE_DATABASE) as admin:
            await self._guard.prove_disposable(admin, service, url.database)
            await databases.drop(admin, url.database)
            mark = Mark(environment=str(self.settings.environment))
            await databases.create(admin, url.database, mark)
        if service.extensions:
            async with connection(url) as owner:
                for name in service.extensions:
                    await databases.create_extension(owner, name)
        return Outcome(service=service.name)

    async def _require_database(self, service: Service, step: Step) -> Outcome:
        """Make the database if it is missing, and mark it if a person has released it."""
        url = self._urls[service.name].url
        mark = Mark(environment=str(self.settings.environment))
        async with connection(url, database=MAINTENANCE_DATABASE) as admin:
            await self._guard.prove_disposable(admin, service, url.database)
            if not await databases.exists(admin, url.database):
                await databases.create(admin, url.database, mark)
            elif url.database in self.confirmed:
                await databases.write_mark(admin, url.database, mark)
        return Outcome(service=service.name)

    def _upgrade(self, target: str) -> Work:
        async def upgrade(service: Service, step: Step) -> Outcome:
            step("migrating")
            history = read_history(service)
            url = self._urls[service.name].url
            done = await runner.upgrade(service, url, self.settings, history, target)
            facts = {"from": runner.named(done.before), "to": runner.named(done.after)}
            detail = "already there" if done.before == done.after else "migrated"
            return Outcome(service=service.name, detail=detail, facts=facts, output=done.output)

        return upgrade

    async def _require_head(self, service: Service, step: Step) -> Outcome:
        history = read_history(service)
        url = self._urls[service.name].url
        async with connection(url) as asked:
            current = await databases.current_revisions(asked)
        if current != history.heads:
            raise Refused(
                f"{url.database} is at {runner.named(current)}, and its seeds are written for "
                f"{runner.named(history.heads)}.",
                hint="Run `invoke db.migrate` first.",
            )
        return Outcome(service=service.name)

    async def _seed(self, service: Service, step: Step) -> Outcome:
        if not service.seeds:
            return Outcome(service=service.name, detail="no seeds")
        step("seeding")
        await seeds.apply(
            service,
            self._urls[service.name].url,
            environment=str(self.settings.environment),
            timeout=self.settings.migration_timeout,
        )
        return Outcome(service=service.name, detail="seeded")

    async def _status(self, service: Service, step: Step) -> Outcome:
        url = self._urls[service.name].url
        history = _history_or_problem(service)
        facts: dict[str, Fact] = {
            "reachable": False,
            "current": None,
            "head": runner.named(history.heads) if isinstance(history, History) else None,
            "pending": None,
            "seeded": None,
        }
        try:
            async with connection(url) as asked:
                current = await databases.current_revisions(asked)
                mark = await databases.read_mark(asked, url.database)
        except (Unreachable, DatabaseMissing) as error:
            return Outcome(
                service=service.name,
                status=Status.SKIPPED,
                detail=error.message,
                hint=error.hint,
                facts=facts,
            )
        facts |= {"reachable": True, "current": runner.named(current)}
        facts["seeded"] = _seeded(service, mark)
        if not isinstance(history, History):
            return replace(fleet.failed(service, history), facts=facts)
        pending = history.pending(current)
        facts["pending"] = pending
        detail = (
            f"revision {runner.named(current)} is unknown here: another branch of the code "
            "made it; `invoke db.reset` starts anew"
            if pending is None
            else ""
        )
        return Outcome(service=service.name, facts=facts, detail=detail)


def _history_or_problem(service: Service) -> History | HuleEduError:
    try:
        if findings := service.missing_files():
            raise ConfigurationError("Files are missing.", findings=findings)
        return read_history(service)
    except HuleEduError as error:
        return error


def _seeded(service: Service, mark: Mark | None) -> str:
    """Say whether the seeds were applied, and whether they are still the same files."""
    if not service.seeds:
        return "no seeds"
    if mark is None or not mark.seeds:
        return "no"
    return "yes" if mark.seeds == seeds.fingerprint(service) else "changed since"
