"""The commands for development databases: up, down, reset, migrate, seed, status, snapshots.

Before the first write, each command proves that the databases of all services are disposable, so
that a refusal leaves all of them unchanged. It proves each again on the connection that drops or
changes the database.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from huleedu_tasks import parallel
from huleedu_tasks.config.registry import Registry, Service
from huleedu_tasks.config.settings import ProviderName, Settings
from huleedu_tasks.db.finish import EXPECT_WRITES, FINISH, KEEP
from huleedu_tasks.db.migrate import REQUIRE_DATABASE, migrate_to, preview_to
from huleedu_tasks.db.predecessors import predecessor_notes
from huleedu_tasks.db.prepare import (
    COMPLETE,
    FILL,
    SEED_IF_NEEDED,
    as_dry_run,
    missing_steps,
    not_begun,
    unchanged,
)
from huleedu_tasks.db.prove import PROVE, PROVE_SERVER, untagged_database
from huleedu_tasks.db.recreate import RECREATE
from huleedu_tasks.db.recreate_server import (
    EXAMINE_INIT_SCRIPTS,
    PROVE_RECREATION,
    RECREATE_SERVER,
    kept_server_notes,
    require_whole_servers,
)
from huleedu_tasks.db.run import Change, Run, only_run, would
from huleedu_tasks.db.seed import REQUIRE_HEAD, SEED
from huleedu_tasks.db.service_run import Context, ServiceRun, begin
from huleedu_tasks.db.start import START, START_AGAIN, stop
from huleedu_tasks.db.status import STATUS, STATUS_COLUMNS
from huleedu_tasks.db.undo_snapshots import undo_notes
from huleedu_tasks.errors import ConfigurationError
from huleedu_tasks.guard import Guard, require_disposable_environment, require_own_address
from huleedu_tasks.instances.instance import Instance
from huleedu_tasks.migrations import runner
from huleedu_tasks.migrations.alembic_history import AlembicHistories
from huleedu_tasks.migrations.inputs import Present
from huleedu_tasks.parallel import WAITING_JOBS, Step
from huleedu_tasks.report import (
    Listing,
    Outcome,
    Progress,
    Report,
    Silence,
    State,
    Status,
)
from huleedu_tasks.servers.protocol import Provider
from huleedu_tasks.shared_databases import shared_databases
from huleedu_tasks.templates.policy import TemplatePolicy

if TYPE_CHECKING:
    from huleedu_tasks.db.revision import NewRevision
    from huleedu_tasks.db.rollback import Plan, Wanted
    from huleedu_tasks.db.snapshots import Snapshots

REVISIONS = ("from", "to")
STATE = ("current", "pending")
BUILDING = (migrate_to(runner.HEAD), SEED)
RESET = Change(
    command="db.reset",
    would="recreate {database}, migrate {database} to head and seed it",
    proving=(START, PROVE, EXAMINE_INIT_SCRIPTS, PROVE_RECREATION),
    changing=(RECREATE, *BUILDING),
    ending=KEEP,
    is_whole=True,
    columns=REVISIONS,
)
RESET_SERVERS = replace(
    RESET,
    would="recreate the server's whole data, migrate {database} to head and seed it",
    proving=(PROVE_SERVER,),
    changing=(RECREATE_SERVER, *BUILDING),
)
SEED_ONLY = Change(
    command="db.seed",
    would="seed {database}",
    proving=(START, PROVE),
    changing=(REQUIRE_HEAD, EXPECT_WRITES, SEED),
    ending=FINISH,
)
PREPARE = Change(
    command="db.prepare",
    would="prepare {database}",
    proving=(START_AGAIN, PROVE),
    changing=(FILL, EXPECT_WRITES, migrate_to(runner.HEAD), SEED_IF_NEEDED),
    ending=COMPLETE,
    columns=REVISIONS,
)


def _migration(target: str) -> Change:
    return Change(
        command="db.migrate",
        would=f"migrate {{database}} to {target}",
        proving=(START, PROVE),
        changing=(REQUIRE_DATABASE, EXPECT_WRITES, migrate_to(target)),
        ending=FINISH,
        columns=REVISIONS,
    )


@dataclass(frozen=True, kw_only=True)
class Development:
    """The commands over the selected services.

    Attributes:
        services: The selected services of the registry.
        state: The project's state directory.
        instance: The instance whose databases they are; None for the main fleet.
        jobs: How many services are migrated at once; each uses one CPU.
        dry_run: Whether to report what would be done instead of doing it.
        confirmed: The names of databases that the user has typed.
        fresh: Whether a reset rebuilds every database, even if a template is valid.
        no_undo: Whether a reset, restore or rollback keeps no undo snapshot, and `--volumes` may
            destroy named snapshots.
        notify: Called with a sentence that says what the run waits for.
        added: A note for each group of services that was added to the selected ones.
        started: When the command began, in seconds of the monotonic clock.
    """

    settings: Settings
    provider: Provider
    registry: Registry
    services: tuple[Service, ...]
    state: Path
    instance: Instance | None = None
    jobs: int
    dry_run: bool = False
    confirmed: tuple[str, ...] = ()
    fresh: bool = False
    no_undo: bool = False
    progress: Progress = field(default_factory=Silence)
    notify: Callable[[str], object] = str
    added: tuple[str, ...] = ()
    started: float = field(default_factory=time.monotonic)

    async def up(self) -> Report:
        """Start the servers and wait until each database accepts its user."""
        run = self._begin("db.up")
        if self.dry_run:
            return self._report("db.up", await run.stage(would("start its server")))
        async with aclosing(run.context):
            await run.prepare(self.state)
            await run.stage(START)
        return self._report("db.up", run.outcomes, columns=("server",))

    async def down(self) -> Report:
        """Stop the servers, keeping their data."""
        require_disposable_environment(self.settings, "db.down")
        # No URL is resolved: a server can be stopped without one.
        jobs = max(self.jobs, WAITING_JOBS)
        outcomes = await parallel.run(self.services, self._stop, jobs=jobs, progress=self.progress)
        return self._report("db.down", outcomes)

    async def reset(self, *, volumes: bool = False) -> Report:
        """Bring every database to a clean state: recreated, migrated to head, seeded.

        Args:
            volumes: Whether to recreate the servers' data as well, not only the databases.
        """
        run = self._begin("db.reset")
        run.context.may_lose_snapshots = volumes and self.no_undo
        if volumes:
            require_whole_servers(run.services)
        change = RESET_SERVERS if volumes else RESET
        return await self._change(run, change, on_new=run.context.expect_migrations)

    async def migrate(self, target: str, *, sql: bool = False) -> Report:
        """Migrate to a revision.

        Args:
            target: A revision, `head`, `heads` or a number of steps such as `+1`.
            sql: Whether a dry run reports the SQL of the pending revisions, read-only.

        Raises:
            ConfigurationError: If the target is a downgrade, or a revision of one service while
                several are selected.
        """
        run = self._begin("db.migrate")
        self._require_upgrade(target)
        if self.dry_run and sql:
            self._require_files()
            shown = Change(
                command="db.migrate",
                would="",
                proving=(),
                changing=(preview_to(target),),
                columns=REVISIONS,
            )
            return replace(await self._execute(run, shown), sql=True)
        change = _migration(target)
        report = await self._change(run, change, on_new=run.context.expect_migrations)
        return replace(report, pending=_has_edits(report.outcomes))

    async def revision(self, new: "NewRevision") -> Report:
        """Write a new revision of the only selected service.

        Raises:
            ConfigurationError: If several services are selected, or an argument is not valid.
        """
        from huleedu_tasks.db.revision import COMMAND as REVISION
        from huleedu_tasks.db.revision import next_steps, writing

        run = self._begin(REVISION)
        self._require_one(REVISION)
        new.require_valid()
        self._require_files()
        change = writing(new, self.services[0])
        report = await self._change(run, change, first=run.context.expect_migrations)
        notes = [note for outcome in report.outcomes for note in next_steps(outcome)]
        return replace(report, notes=(*report.notes, *notes), sql=True)

    async def plan_rollback(self, wanted: "Wanted") -> "tuple[Report, Plan | None]":
        """Find out what a rollback of the only selected service would lose.

        A dry run does not start the server.

        Returns:
            The report, and the plan; None if the rollback is not possible.

        Raises:
            ConfigurationError: If several services are selected.
            Refused: In staging and production.
        """
        from huleedu_tasks.db.rollback import COMMAND as ROLLBACK
        from huleedu_tasks.db.rollback import FORWARD_ONLY, planning

        require_disposable_environment(self.settings, ROLLBACK, hint=FORWARD_ONLY)
        run = self._begin(ROLLBACK)
        self._require_one(ROLLBACK)
        self._require_files()
        plans: list[Plan] = []
        change = planning(wanted, plans, dry_run=self.dry_run)
        report = await self._execute(run, change, first=run.context.expect_migrations)
        return report, plans[0] if plans else None

    async def rollback(self, plan: "Plan") -> Report:
        """Roll the only selected service back as planned."""
        from huleedu_tasks.db.rollback import COMMAND as ROLLBACK
        from huleedu_tasks.db.rollback import rolling_back

        run = self._begin(ROLLBACK)
        return await self._execute(run, rolling_back(plan), first=run.context.expect_migrations)

    async def seed(self) -> Report:
        """Apply the seeds to databases that are at head."""
        run = self._begin("db.seed")
        return await self._change(run, SEED_ONLY, first=run.context.expect_seeds)

    async def prepare(self) -> Report:
        """Start, create, migrate and seed what is not ready yet, without destroying anything.

        The report is pending, for the exit code, if a database is not prepared because it has an
        unknown or an edited revision. A dry run only reads.
        """
        found = await self.states("db.prepare")
        if not self.dry_run:
            found |= await self._start_unreachable(found)
        blocked = not_begun(self.services, found)
        waiting = tuple(
            service
            for service in self.services
            if missing_steps(found[service.name]) and service.name not in blocked
        )
        notes: tuple[str, ...] = ()
        outcomes = {n: unchanged(outcome, blocked.get(n, "")) for n, outcome in found.items()}
        if self.dry_run:
            outcomes |= {service.name: as_dry_run(found[service.name]) for service in waiting}
        elif waiting:
            report = await replace(self, services=waiting).complete()
            notes = report.notes
            outcomes |= {outcome.service: outcome for outcome in report.outcomes}
        report = self._report(
            "db.prepare", tuple(outcomes.values()), columns=REVISIONS, notes=notes
        )
        return replace(report, pending=bool(blocked))

    async def complete(self) -> Report:
        """Create, migrate and seed every database, as far as it is not done yet."""
        run = self._begin(PREPARE.command)
        return await self._change(run, PREPARE, on_new=run.context.expect_migrations)

    async def status(self, *, check: bool) -> Report:
        """Report the revision of each database, without changing anything.

        Args:
            check: Whether the report is pending, for the exit code, if a database is not at head
                or an applied revision was edited.
        """
        outcomes = tuple((await self.states("db.status")).values())
        behind = any(outcome.facts.get("pending") != 0 for outcome in outcomes)
        report = self._report("db.status", outcomes, columns=STATUS_COLUMNS)
        return replace(report, pending=check and (behind or _has_edits(outcomes)))

    async def states(self, command: str) -> dict[str, Outcome]:
        """Return the state of each service's database, by the service's name; read-only."""
        run = self._begin(command)
        async with aclosing(run.context):
            return {outcome.service: outcome for outcome in await run.stage(STATUS)}

    async def drift(self, *, check: bool) -> Report:
        """Report the drift of each database's schema, without changing anything.

        Args:
            check: Whether the report is pending, for the exit code, if a schema has drifted.
        """
        from huleedu_tasks.db.drift import finding_drift
        from huleedu_tasks.schema.comparison import COLUMNS
        from huleedu_tasks.schema.replay import Replays

        run = self._begin("db.drift")
        replays = Replays(
            settings=self.settings,
            registry=self.registry,
            state=self.state,
            instance=self.instance,
            notify=self.notify,
        )
        async with aclosing(run.context), aclosing(replays):
            outcomes = await run.stage(finding_drift(replays))
        report = self._report("db.drift", outcomes, columns=COLUMNS)
        return replace(report, pending=check and any(o.differences for o in outcomes))

    async def snapshot(self, name: str) -> Report:
        """Copy every database, or none, to a named snapshot on its server.

        Raises:
            ConfigurationError: If the name is not valid, or one of them has a snapshot of it.
        """
        from huleedu_tasks.db.snapshots import require_name

        require_name(name)
        run = self._begin("db.snapshot")
        return await self._together(
            run,
            "db.snapshot",
            would=f"save {{database}} as {name}",
            work=lambda: self._snapshots(run).snapshot(name),
            columns=("revision",),
        )

    async def restore(self, name: str) -> Report:
        """Replace every database, or none, by its named snapshot.

        Raises:
            ConfigurationError: If one of them has no snapshot of that name.
        """
        from huleedu_tasks.db.snapshots import require_name

        require_name(name)
        run = self._begin("db.restore")
        return await self._together(
            run,
            "db.restore",
            would=f"replace {{database}} by its snapshot {name}",
            work=lambda: self._snapshots(run).restore(name),
            columns=STATE,
        )

    async def delete_snapshots(self, name: str) -> Report:
        """Drop the named snapshot of every database that has it.

        Raises:
            ConfigurationError: If none has.
        """
        from huleedu_tasks.db.snapshots import require_name

        require_name(name)
        run = self._begin("db.snapshots")
        return await self._together(
            run,
            "db.snapshots",
            would=f"drop the snapshot {name} of {{database}}",
            work=lambda: self._snapshots(run).delete(name),
        )

    async def list_snapshots(self) -> Listing:
        """List the snapshots of every database, without changing anything."""
        from huleedu_tasks.db.snapshot_list import snapshots_of
        from huleedu_tasks.db.snapshots import Unfinished

        run = self._begin("db.snapshots")
        async with aclosing(run.context):
            return await snapshots_of(run.services, Unfinished.of(self.state))

    async def undo(self, *, every: bool) -> Report:
        """Exchange the databases that the last command replaced with their undo snapshots.

        Args:
            every: Whether to exchange those that an earlier command replaced as well.

        Raises:
            ConfigurationError: If no service has one.
        """
        from huleedu_tasks.db.undo import Begun, Undo

        run = self._begin("db.undo")
        return await self._together(
            run,
            "db.undo",
            would="exchange {database} with its undo snapshot",
            work=Undo(run=run, begun=Begun.of(self.state), every=every).undo,
            columns=STATE,
        )

    async def unproven(self) -> tuple[str, ...]:
        """Return the databases that the user must confirm by typing their names.

        Returns:
            Their names; empty if the provider proves its servers.
        """
        if self.provider.proves_identity or not self.settings.environment.is_disposable:
            return ()
        async with aclosing(self._context()) as context:
            found = [await untagged_database(run) for run in context.services]
        untagged = (name for name in found if name and name not in self.confirmed)
        return tuple(dict.fromkeys(untagged))

    def with_whole_databases(self, done: str = "reset") -> "Development":
        """Return a copy with the services that share a database with a selected one.

        Args:
            done: What is done to them, as a participle.

        Raises:
            ConfigurationError: If the URL of one of them cannot be resolved.
        """
        if not self.settings.environment.is_disposable:
            return self
        services, notes = list(self.services), []
        for members in shared_databases(self.registry, self.services, self.settings):
            added = [member.service for member in members if member.service not in self.services]
            if added:
                selected = [member for member in members if member.service in self.services][-1]
                services += added
                notes.append(
                    f"{', '.join(service.name for service in added)}: {done} together with "
                    f"{selected.service.name}, because they share the database "
                    f"{selected.resolved.url.database!r}."
                )
        in_order = tuple(service for service in self.registry.services if service in services)
        return replace(self, services=in_order, added=tuple(notes))

    @property
    def keeps_undo(self) -> bool:
        """Whether a database that is replaced or rolled back is kept as the undo snapshot."""
        return self.settings.undo and not self.no_undo

    # Running a command.

    def _begin(self, command: str) -> Run:
        """Return a run over the services, after the checks that need no connection."""
        require_disposable_environment(self.settings, command)
        context = self._context()
        for run in context.services:
            require_own_address(run.service, run.resolved, self.provider)
        return Run(context=context, jobs=self.jobs, progress=self.progress)

    def _context(self) -> Context:
        context = Context(
            settings=self.settings,
            provider=self.provider,
            registry=self.registry,
            guard=Guard(settings=self.settings, provider=self.provider, confirmed=self.confirmed),
            templates=TemplatePolicy(
                settings=self.settings,
                present=Present.of(self.settings),
                # No templates are left on a server that is not the provider's own.
                keeps_templates=self.provider.proves_identity,
                fresh=self.fresh,
            ),
            histories=AlembicHistories(settings=self.settings, state=self.state),
            notify=self.notify,
            keeps_undo=self.keeps_undo,
        )
        begin(context, self.services)
        return context

    async def _change(
        self,
        run: Run,
        change: Change,
        *,
        first: Callable[[], object] = str,
        on_new: Callable[[], object] = str,
    ) -> Report:
        """Change databases, or report what would be changed. The arguments are as of `_execute`."""
        self._require_files()
        if self.dry_run:
            return await self._dry_run(run, change.command, change.would, change.columns)
        return await self._execute(run, change, first=first, on_new=on_new)

    async def _execute(
        self,
        run: Run,
        change: Change,
        *,
        first: Callable[[], object] = str,
        on_new: Callable[[], object] = str,
    ) -> Report:
        """Run the stages of a change.

        Args:
            first: Called before the servers are prepared.
            on_new: Called as soon as the provider is about to create a server.
        """

        async def work() -> None:
            first()
            if change.proving:
                await run.prepare(self.state, on_new)
            else:
                run.begin()
            await run.change(change)

        await self._alone(run, work)
        pairs = zip(run.services, run.outcomes, strict=True)
        outcomes = tuple([await self._with_missing_objects(one, outcome) for one, outcome in pairs])
        notes = (
            *self.added,
            *undo_notes(run.services),
            *predecessor_notes(run.services),
            *kept_server_notes(run.services, self.settings),
        )
        return self._report(change.command, outcomes, columns=change.columns, notes=notes)

    async def _together(
        self,
        run: Run,
        command: str,
        *,
        would: str,
        work: Callable[[], Awaitable[None]],
        columns: tuple[str, ...] = (),
    ) -> Report:
        """Change all databases or none, or report what would be changed.

        Args:
            would: As in `Change`.
            work: Runs the stages.
            columns: As in `Change`.
        """
        if self.dry_run:
            return await self._dry_run(run, command, would, columns)

        async def prepared() -> None:
            await run.prepare(self.state)
            await work()

        await self._alone(run, prepared)
        notes = (*self.added, *undo_notes(run.services), *predecessor_notes(run.services))
        return self._report(command, run.outcomes, columns=columns, notes=notes)

    async def _dry_run(
        self, run: Run, command: str, action: str, columns: tuple[str, ...]
    ) -> Report:
        outcomes = await run.stage(would(action))
        return self._report(command, outcomes, columns=columns, notes=self.added)

    async def _alone(self, run: Run, work: Callable[[], Awaitable[None]]) -> None:
        """Work while no other command changes the databases of this project."""
        # Ctrl-C while waiting for another command. The stages handle it themselves.
        run.interrupt()
        with suppress(asyncio.CancelledError):
            async with only_run(self.state, self.notify), aclosing(run.context):
                await work()

    def _snapshots(self, run: Run) -> "Snapshots":
        from huleedu_tasks.db.snapshots import Snapshots, Unfinished

        return Snapshots(run=run, unfinished=Unfinished.of(self.state))

    async def _start_unreachable(self, found: Mapping[str, Outcome]) -> dict[str, Outcome]:
        """Start the servers of databases that cannot be reached, and return their states."""
        silent = tuple(
            service for service in self.services if found[service.name].state is State.UNREACHABLE
        )
        if not silent:
            return {}
        started = {o.service: o for o in (await replace(self, services=silent).up()).outcomes}
        running = tuple(service for service in silent if started[service.name])
        return started | await replace(self, services=running).states("db.prepare")

    async def _stop(self, service: Service, step: Step) -> Outcome:
        if not self.dry_run:
            return await stop(service, self.provider, step)
        detail = "dry run: would stop its server"
        return Outcome(service=service.name, status=Status.SKIPPED, detail=detail)

    async def _with_missing_objects(self, run: ServiceRun, outcome: Outcome) -> Outcome:
        """Name the init script that creates the object that a migration or seed did not find."""
        if outcome.status is not Status.FAILED or self.provider.name is not ProviderName.EMBEDDED:
            return outcome
        from huleedu_tasks.compose import init_scripts

        output = f"{outcome.detail}\n{outcome.output}"
        missing = await init_scripts.missing_objects(
            self.registry, self.settings, run.service, output
        )
        if not missing:
            return outcome
        hint = init_scripts.missing_hint(run.service, missing)
        return replace(outcome, hint=hint, code=init_scripts.CODE)

    def _report(
        self,
        command: str,
        outcomes: tuple[Outcome, ...],
        *,
        columns: tuple[str, ...] = (),
        notes: tuple[str, ...] = (),
    ) -> Report:
        return Report(
            command=command,
            environment=str(self.settings.environment),
            provider=str(self.provider.name),
            provider_reason=self.provider.reason,
            outcomes=outcomes,
            columns=columns,
            notes=notes,
            seconds=time.monotonic() - self.started,
            dry_run=self.dry_run,
            instance=self.instance.as_json() if self.instance else {},
        )

    # Requirements.

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

    def _require_one(self, command: str) -> None:
        """Require that one service is selected."""
        if len(self.services) > 1:
            raise ConfigurationError(
                f"{command} works on one service, and {len(self.services)} are selected.",
                code="service-ambiguous",
                hint=f"Name one service, for example --service {self.services[0].name}.",
            )

    def _require_upgrade(self, target: str) -> None:
        """Require that a target is no downgrade, and exists in every selected history."""
        if target == "base" or target.startswith("-"):
            raise ConfigurationError(
                f"db.migrate does not downgrade, and {target!r} is a downgrade.",
                code="downgrade-unsupported",
                hint="Go back with `invoke db.rollback`, or rebuild the database with "
                "`invoke db.reset`.",
            )
        is_general = target in ("head", "heads") or target.startswith("+")
        if len(self.services) > 1 and not is_general:
            raise ConfigurationError(
                f"Revision {target!r} belongs to one service, and {len(self.services)} were "
                "selected.",
                code="service-ambiguous",
                hint=f"Select that service, for example with --service {self.services[0].name}.",
            )


def _has_edits(outcomes: Iterable[Outcome]) -> bool:
    """Whether an applied revision of a service was edited."""
    return any(outcome.state is State.EDITED for outcome in outcomes)
