"""The stages of the development flows: each brings one service to its next state."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from huleedu_tasks import parallel, process
from huleedu_tasks.config.registry import Registry, Service
from huleedu_tasks.config.settings import Settings
from huleedu_tasks.config.urls import ResolvedUrl
from huleedu_tasks.db.renewals import Renewals
from huleedu_tasks.errors import ConfigurationError, HuleEduError, Refused, ServerError
from huleedu_tasks.guard import Guard
from huleedu_tasks.migrations import runner
from huleedu_tasks.migrations.alembic_history import AlembicHistories
from huleedu_tasks.migrations.revisions import NO_HISTORY, History
from huleedu_tasks.migrations.runner import Observation, Used
from huleedu_tasks.parallel import Step, Work
from huleedu_tasks.postgres import clones, databases, replacing
from huleedu_tasks.postgres.connections import (
    MAINTENANCE_DATABASES,
    UNCOUNTED,
    DatabaseMissing,
    Unreachable,
    close,
    connect_beside,
    connection,
)
from huleedu_tasks.postgres.databases import EnvironmentTag, VersionTable
from huleedu_tasks.report import Fact, Outcome, State, Status
from huleedu_tasks.seeds import applying
from huleedu_tasks.seeds.files import fingerprint
from huleedu_tasks.servers.protocol import Provider
from huleedu_tasks.shared_databases import Sharing
from huleedu_tasks.templates.policy import COPIED, NOTHING_YET, TemplatePolicy

if TYPE_CHECKING:
    import asyncpg

STATUS_COLUMNS = ("reachable", "current", "head", "pending", "seeded", "last_reset")
NEW_DATA = "the server's data is new"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stages:
    """The stages, and what they have to know of each other in one run.

    Attributes:
        urls: The URL of each service's database, by the service's name.
        registry: All services.
        templates: The templates, and the builds of this run.
        answers: What each service's Alembic reports, and the processes that run it.
        renewals: Which servers are recreated as a whole.
        sharing: Which services share a database. The state of a shared database is stored under
            the name of the first of them.
        notify: Called with the output of seeds.
    """

    settings: Settings
    provider: Provider
    urls: Mapping[str, ResolvedUrl]
    guard: Guard
    registry: Registry
    templates: TemplatePolicy
    answers: AlembicHistories
    renewals: Renewals
    sharing: Sharing = field(default_factory=Sharing)
    notify: Callable[[str], object] = str
    # Services whose database is a complete copy of a template.
    _copied: set[str] = field(default_factory=set)
    # Services whose server was created in this run.
    _on_new_data: set[str] = field(default_factory=set)
    # Fingerprints of the init scripts when the reset began, by the service's name.
    _scripts: dict[str, str] = field(default_factory=dict)
    # Databases of services outside the run of which an init snapshot was saved: Compose service
    # and name.
    _copied_beside: set[tuple[str, str]] = field(default_factory=set)
    # Services whose database was replaced and is not complete yet.
    _unfinished: set[str] = field(default_factory=set)
    # Services whose previous database still exists.
    _kept: set[str] = field(default_factory=set)
    _admins: "dict[str, asyncpg.Connection]" = field(default_factory=dict)
    _histories: dict[str, History] = field(default_factory=dict)
    # The lock on each shared database, by the name of its first service.
    _turns: dict[str, asyncio.Lock] = field(default_factory=dict)
    # The version tables that a migration of this run has reported, by the service's name.
    _tables: dict[str, Sequence[VersionTable]] = field(default_factory=dict)

    def expect_migrations(self) -> None:
        """Start the process that imports Alembic, while the run waits for servers."""
        if not all(service.python for service in self.registry.services):
            self.answers.workers.prepare()

    def expect_seeds(self) -> None:
        """Start the process that imports what seeds need, while the run waits for servers."""
        if any(service.seeds for service in self.registry.services):
            self.answers.workers.prepare(applying.CHILD)

    @property
    def waiting(self) -> tuple[Work, ...]:
        """The stages that only wait for servers."""
        return (
            self.start,
            self.prove,
            self.prove_inside,
            self.examine,
            self.prove_renewal,
            self.renew,
            self.recreate,
            self.keep,
        )

    @property
    def proving_reset(self) -> tuple[Work, ...]:
        """The stages that must succeed for every service before a reset changes anything."""
        return self.start, self.prove, self.examine, self.prove_renewal

    def would(self, action: str) -> Work:
        """Return work that only reports what would be done.

        Args:
            action: The action, in which `{database}` is replaced by the database's name.
        """

        async def say(service: Service, step: Step) -> Outcome:
            resolved = self.urls.get(service.name)
            database = resolved.url.database if resolved else service.database
            detail = f"dry run: would {action.format(database=database)}"
            return Outcome(service=service.name, status=Status.SKIPPED, detail=detail)

        return say

    async def prove(self, service: Service, step: Step) -> Outcome:
        """Prove that the database may be changed or destroyed."""
        url = self.urls[service.name].url
        async with self._admin(service) as admin:
            await self.guard.prove_disposable(admin, service, url.database)
        return Outcome(service=service.name)

    async def start(self, service: Service, step: Step) -> Outcome:
        """Start the server, and wait until the database accepts its user."""
        step("starting")
        started = await self.provider.start(service, self.urls[service.name].url)
        leader = self.sharing.leader(service).name
        async with self._turn(service):
            if started.is_new and leader not in self._on_new_data:
                self._on_new_data.add(leader)
                await self._keep_init_snapshot(service)
        return Outcome(service=service.name, facts={"server": started.done})

    async def stop(self, service: Service, step: Step) -> Outcome:
        """Stop the server without removing its data."""
        step("stopping")
        return Outcome(service=service.name, detail=await self.provider.stop(service))

    async def prove_inside(self, service: Service, step: Step) -> Outcome:
        """Prove that all data of a server may be destroyed, without using its password."""
        step("proving")
        await self._history(service)
        url = self.urls[service.name].url
        self.guard.prove_comments(service, await self.provider.comments_inside(service, url))
        self.renewals.prove(service)
        return Outcome(service=service.name)

    async def examine(self, service: Service, step: Step) -> Outcome:
        """Require a new server if the init scripts must run again for the service.

        That is the case if there is no init snapshot from the current scripts.
        """
        scripts = self._scripts[service.name] = await self.provider.init_scripts(service)
        if scripts:
            async with self._admin(service) as admin:
                database = self.urls[service.name].url.database
                if not await _init_snapshot_copy(admin, database, scripts):
                    await self.renewals.require(admin, service)
        return Outcome(service=service.name)

    async def prove_renewal(self, service: Service, step: Step) -> Outcome:
        """Prove that a server may be destroyed, if it must be recreated for any of its services."""
        if not self.renewals.is_needed(service):
            return Outcome(service=service.name)
        return await self.prove_inside(service, step)

    async def renew(self, service: Service, step: Step) -> Outcome:
        """Recreate the server's data: run initdb and the init scripts again."""
        if self._is_led(service):
            return Outcome(service=service.name)
        self.renewals.expect_all_proven(service)
        step("recreating its volume")
        url = self.urls[service.name].url
        if admin := self._admins.pop(service.name, None):
            await close(admin)
        started = await self.provider.renew(service, url)
        if started.is_new:
            await self._keep_init_snapshot(service)
        scripts = await self.provider.init_scripts(service)
        async with self._admin(service) as admin:
            await databases.write_tag(admin, url.database, self._tag)
            before = await clones.activity(admin, url.database)
            # Writes of other sessions cannot be distinguished from those of the init scripts.
            before = replace(before, writes=None)
            await self.templates.begin(admin, service, scripts, why=NEW_DATA, before=before)
        await self._create_extensions(service)
        return Outcome(service=service.name, facts={"server": started.done})

    async def recreate(self, service: Service, step: Step) -> Outcome:
        """Replace the database by a copy of a valid template, or else by a new database.

        A copy of a template is complete, and later stages do not change it. A new database is a
        copy of the init snapshot if init scripts filled the database, and empty otherwise. The
        previous database is dropped when its successor is complete.
        """
        if self._is_led(service):
            return await self._recreated(service)
        if self.renewals.is_needed(service):
            return await self.renew(service, step)
        step("recreating")
        detail = ""
        # Revisions that cannot be read must fail before the data is replaced.
        for member in self.sharing.with_service(service):
            await self._history(member)
        self._require_own_tables(service)
        url = self.urls[service.name].url
        scripts = self._scripts[service.name]
        async with self._admin(service) as admin:
            await self.guard.prove_disposable(admin, service, url.database)
            untouched = None if scripts else await self._untouched(admin, service)
            await self.templates.begin(admin, service, scripts, before=untouched or NOTHING_YET)
            if copied := await self._restore(admin, service):
                return copied
            # On a server that is kept, a snapshot from earlier scripts is better than none.
            required = "" if self.renewals.is_kept(service) else scripts
            init_snapshot = (
                await _init_snapshot_copy(admin, url.database, required) if scripts else ""
            )
            if untouched is not None:
                await databases.write_tag(admin, url.database, self._tag)
            else:
                tag = replace(self._tag, unfinished=True)
                async with replacing.building(admin, url.database) as successor:
                    if init_snapshot:
                        await clones.clone(admin, init_snapshot, successor, tag)
                    else:
                        await databases.create(admin, successor, tag)
                detail = await self._put_in_place(admin, service)
                await self._drop_blocking_predecessor(admin, service)
        await self._create_extensions(service)
        return Outcome(service=service.name, detail=detail)

    async def require_database(self, service: Service, step: Step) -> Outcome:
        """Create the database if it does not exist, and tag it if the user has confirmed it."""
        url = self.urls[service.name].url
        async with self._turn(service), self._admin(service) as admin:
            await self.guard.prove_disposable(admin, service, url.database)
            if not await databases.exists(admin, url.database):
                await databases.create(admin, url.database, self._tag)
            elif url.database in self.guard.confirmed:
                await databases.write_tag(admin, url.database, self._tag)
        return Outcome(service=service.name)

    def upgrade(self, target: str) -> Work:
        """Return work that migrates to a revision."""

        async def upgrade(service: Service, step: Step) -> Outcome:
            if self._is_copied(service):
                return Outcome(service=service.name)
            async with self._turn(service):
                return await self._upgrade(service, target, step)

        return upgrade

    async def _upgrade(self, service: Service, target: str, step: Step) -> Outcome:
        step("migrating")
        self._require_own_tables(service)
        history = await self._history(service)
        url = self.urls[service.name].url
        with process.scratch_directory() as scratch:
            session = Observation(
                events=scratch / "events",
                optional_settings=UNCOUNTED,
                target=await self._place(service, url.database),
            )
            try:
                done = await runner.upgrade(
                    service,
                    url,
                    self.settings,
                    history,
                    target,
                    session=session,
                    tables=self.answers.known_version_tables(service, url),
                    workers=self.answers.workers,
                )
            except (Exception, asyncio.CancelledError) as error:
                if isinstance(error, Exception):
                    self._require_own_tables(service, session.version_tables)
                if not session.begun:
                    raise
                asks = self._placed(service, history, session, error)
                return await parallel.whatever_happens(asks)
        if done.reported:
            self._require_own_tables(service, done.reported.tables)
            self.answers.learn(service, url, done.reported)
        if build := self.templates.build(service):
            build.add(done.used)
        facts = {"from": runner.named(done.before), "to": runner.named(done.after)}
        detail = "already there" if done.before == done.after else "migrated"
        if not history.revisions:
            detail = "no revisions yet"
        return Outcome(service=service.name, detail=detail, facts=facts, output=done.output)

    async def _placed(
        self, service: Service, history: History, session: Observation, error: BaseException
    ) -> Outcome:
        """Return the outcome of a migration that was not finished, with the current revision."""
        outcome = parallel.unfinished(service, error)
        database = self.urls[service.name].url.database
        try:
            at = runner.named(
                await runner.revisions_of(
                    self.urls[service.name].url, history, session.version_tables or None
                )
            )
        except Exception as reason:
            where = (
                f"the revision of {database} is not known: {str(reason).rstrip('.')}; "
                f"run `invoke db.status --service {service.name}`"
            )
            return replace(outcome, detail=parallel.joined(outcome, where))
        detail = parallel.joined(outcome, f"{database} is at {at}")
        if outcome.status is Status.ABORTED:
            # The next reset does not depend on the revision.
            detail = outcome.detail
        return replace(outcome, detail=detail, facts={"to": at})

    async def require_head(self, service: Service, step: Step) -> Outcome:
        """Refuse a database that is not at head: seeds are written for head."""
        history = await self._history(service)
        url = self.urls[service.name].url
        async with connection(url) as session:
            current = await self.answers.current(service, url, session, history)
        if current != history.heads:
            raise Refused(
                f"{url.database} is at {runner.named(current)}, and its seeds are written for "
                f"{runner.named(history.heads)}.",
                code="database-not-at-head",
                hint="Run `invoke db.migrate` first.",
            )
        return Outcome(service=service.name)

    async def seed(self, service: Service, step: Step) -> Outcome:
        """Apply the seeds."""
        if self._is_copied(service):
            return Outcome(service=service.name)
        if service.seeds:
            step("seeding")
            url = self.urls[service.name].url
            async with self._turn(service):
                applied = await applying.apply(
                    service,
                    url,
                    self.settings,
                    target=await self._place(service, url.database),
                    workers=self.answers.workers,
                )
            if applied.output.strip():
                self.notify(f"{service.name}: its seeds printed:\n{applied.output.rstrip()}")
            if build := self.templates.build(service):
                build.add(applied.used)
        return Outcome(service=service.name, detail="seeded" if service.seeds else "no seeds")

    async def keep(self, service: Service, step: Step) -> Outcome:
        """Save a template of the complete database, and drop its predecessor."""
        url = self.urls[service.name].url
        if self._is_led(service):
            return Outcome(service=service.name)
        if service.name in self._unfinished:
            await self.finish(service, step)
            async with self._admin(service) as admin:
                await self._drop_predecessor(admin, service)
        if self.templates.build(service):
            step("saving a template")
            async with self._admin(service) as admin:
                tag = await databases.read_tag(admin, url.database) or self._tag
                await self.templates.keep(admin, service, url, tag)
        return Outcome(service=service.name)

    async def finish(self, service: Service, step: Step) -> Outcome:
        """Remove `unfinished` from the environment tag of a database that is complete."""
        database = self.urls[service.name].url.database
        if self._is_led(service):
            return Outcome(service=service.name)
        async with self._admin(service) as admin:
            tag = await databases.read_tag(admin, database)
            if tag and tag.unfinished:
                await databases.write_tag(admin, database, replace(tag, unfinished=False))
        return Outcome(service=service.name)

    def notes(self) -> tuple[str, ...]:
        """Return notes about previous databases that still exist and servers that were kept."""
        return (*self._kept_predecessors(), *self.renewals.notes())

    def _kept_predecessors(self) -> tuple[str, ...]:
        """Return a note for each previous database whose successor is not complete."""
        databases_of = {name: self.urls[name].url.database for name in sorted(self._kept)}
        return tuple(_restore_note(name, database) for name, database in databases_of.items())

    async def status(self, service: Service, step: Step) -> Outcome:
        """Report the database's revision, its pending revisions and its seeds."""
        url = self.urls[service.name].url
        history = await self._history_or_problem(service)
        facts: dict[str, Fact] = {
            "reachable": False,
            "current": None,
            "head": runner.named(history.heads) if isinstance(history, History) else None,
            "pending": None,
            "seeded": None,
            "last_reset": None,
            "reset": None,
        }
        try:
            async with connection(url) as session:
                current = await self.answers.current(
                    service, url, session, history if isinstance(history, History) else NO_HISTORY
                )
                tag = await databases.read_tag(session, url.database)
        except (Unreachable, DatabaseMissing) as error:
            return Outcome(
                service=service.name,
                status=Status.SKIPPED,
                state=State.UNREACHABLE,
                detail=error.message,
                hint=error.hint,
                facts=facts,
            )
        facts |= {"reachable": True, "current": runner.named(current)}
        facts["seeded"] = _seeded(service, tag)
        # `reset` is the name that schema version 1 had first.
        facts["last_reset"] = facts["reset"] = (tag.reset if tag else "") or None
        if not isinstance(history, History):
            return replace(parallel.failed(service, history), facts=facts)
        pending = history.pending(current)
        facts["pending"] = pending
        done = Outcome(service=service.name, facts=facts)
        if pending is None:
            detail = f"revision {runner.named(current)} is not in the code of {service.name}"
            if owner := await self._owner_of(current, service):
                detail += f"; it is a revision of {owner}, whose migrations ran on this database"
            hint = (
                "Switch to the branch that has the revision, or rebuild the database with "
                f"`invoke db.reset --service {service.name}`."
            )
            return replace(done, state=State.UNKNOWN_REVISION, detail=detail, hint=hint)
        if pending:
            return replace(done, state=State.BEHIND, hint="Run `invoke db.migrate`.")
        return done

    async def untagged_database(self, service: Service) -> str:
        """Return the name of a service's database that exists without an environment tag.

        Returns:
            Its name; empty string if it does not exist or has a tag.
        """
        url = self.urls[service.name].url
        async with self._admin(service) as admin:
            exists = await databases.exists(admin, url.database)
            if exists and await databases.read_tag(admin, url.database) is None:
                return url.database
        return ""

    @asynccontextmanager
    async def _admin(self, service: Service) -> "AsyncIterator[asyncpg.Connection]":
        """Connect to another database on a service's server.

        The connection stays open until `aclose`. If the server has closed it, a new one is opened.
        """
        url = self.urls[service.name].url
        opened = self._admins.get(service.name)
        if opened is None or opened.is_closed():
            opened = self._admins[service.name] = await connect_beside(
                url, used=[other.url.database for other in self.urls.values()]
            )
            # A crash that loses a tag also loses the new database it belongs to.
            await opened.execute("SET synchronous_commit = off")
        yield opened

    async def aclose(self) -> None:
        """Close the connections and processes that were kept for the whole run."""
        for opened in self._admins.values():
            await close(opened)
        await parallel.whatever_happens(self.answers.aclose())

    async def _untouched(
        self, admin: "asyncpg.Connection", service: Service
    ) -> clones.Activity | None:
        """Return the activity on a database that is still empty.

        Returns:
            Its sessions and writes so far; None if it has objects, or if this run has not created
            the server.
        """
        if service.name not in self._on_new_data:
            return None
        url = self.urls[service.name].url
        # Read before the check, so that writes between the two are counted later.
        before = await clones.activity(admin, url.database)
        async with connection(url) as owner:
            untouched = await databases.is_untouched(owner)
        return replace(before, sessions=before.sessions + 1) if untouched else None

    async def _place(self, service: Service, database: str) -> tuple[str, int]:
        """Prove a database disposable; return its server's start time and its OID there."""
        async with self._admin(service) as admin:
            await self.guard.prove_disposable(admin, service, database)
            return await databases.place(admin, database)

    async def _history(self, service: Service) -> History:
        """Return a service's revisions, which are read once per run."""
        if service.name not in self._histories:
            url = self.urls[service.name].url
            self._histories[service.name] = await self.answers.history(service, url)
        return self._histories[service.name]

    async def _history_or_problem(self, service: Service) -> History | HuleEduError:
        """Return a service's revisions, or the error that occurred when they were read."""
        try:
            if findings := service.missing_files():
                raise ConfigurationError(
                    "The registry names files that do not exist.",
                    code="file-missing",
                    findings=findings,
                    hint="Create them, or correct the registry.",
                )
            self._require_own_tables(service)
            return await self._history(service)
        except HuleEduError as error:
            return error

    async def _owner_of(self, revisions: tuple[str, ...], service: Service) -> str:
        """Return the name of another service that has one of the revisions; or an empty string."""
        for other in self.registry.services:
            history = await self._history_or_problem(other) if other != service else None
            if isinstance(history, History) and not history.revisions.keys().isdisjoint(revisions):
                return other.name
        return ""

    def _is_copied(self, service: Service) -> bool:
        return self.sharing.leader(service).name in self._copied

    def _is_led(self, service: Service) -> bool:
        """Whether another service builds the database that they share."""
        return self.sharing.leader(service).name != service.name

    @asynccontextmanager
    async def _turn(self, service: Service) -> AsyncIterator[None]:
        """Hold the lock under which one service at a time works on a shared database."""
        leader = self.sharing.leader(service).name
        async with self._turns.setdefault(leader, asyncio.Lock()):
            yield

    async def _recreated(self, service: Service) -> Outcome:
        """Return the outcome of a service whose database another service has recreated."""
        if not self._is_copied(service):
            return Outcome(service=service.name)
        history = await self._history(service)
        facts = {"from": runner.named(()), "to": runner.named(history.heads)}
        return Outcome(service=service.name, detail=COPIED, facts=facts)

    def _require_own_tables(
        self, service: Service, reported: Sequence[VersionTable] | None = None
    ) -> None:
        """Require that no other service of a shared database uses the same version table.

        Args:
            reported: The tables that a migration of the service has reported; None if none has
                run.

        Raises:
            Refused: If two services use the same version table.
        """
        members = self.sharing.with_service(service)
        if len(members) == 1:
            return
        if reported:
            self._tables[service.name] = reported
        known = {
            member.name: self._tables.get(member.name)
            or self.answers.known_version_tables(member, self.sharing.urls[member.name].url)
            for member in members
        }
        self.sharing.require_own_tables(service, known)

    async def _restore(self, admin: "asyncpg.Connection", service: Service) -> Outcome | None:
        """Replace the database by a copy of a valid template; return None if none is valid."""
        url = self.urls[service.name].url
        valid = await self.templates.find_valid(admin, service, url.database)
        if valid is None:
            self.expect_migrations()
            await self.templates.make_room(admin, url.database)
            return None
        template, tag = valid
        plain = replace(tag, parts={}, used=0.0, reset=COPIED)
        note = await self._replace_by_copy(admin, service, template, plain)
        if note is None:
            # No session can write to a template, so this one is damaged.
            await databases.drop(admin, template)
            return await self._restore(admin, service)
        await self._drop_predecessor(admin, service)
        self.templates.end(service)
        self._copied.add(service.name)
        history = await self._history(service)
        facts = {"from": runner.named(()), "to": runner.named(history.heads)}
        detail = ", ".join(filter(None, (COPIED, note)))
        return Outcome(service=service.name, detail=detail, facts=facts)

    async def _replace_by_copy(
        self, admin: "asyncpg.Connection", service: Service, template: str, tag: EnvironmentTag
    ) -> str | None:
        """Replace the database by a copy of a template, and verify its revisions.

        Returns:
            A note about lost replication slots, or an empty string; None if the template cannot be
            copied or its copy is not at head.
        """
        url = self.urls[service.name].url
        try:
            async with replacing.building(admin, url.database) as successor:
                await clones.clone(admin, template, successor, tag)
        except ServerError:
            return None
        note = await self._put_in_place(admin, service)
        async with connection(url) as session:
            for member in self.sharing.with_service(service):
                history = await self._history(member)
                own = self.urls[member.name].url
                if await self.answers.current(member, own, session, history) != history.heads:
                    return None
        return note

    async def _put_in_place(self, admin: "asyncpg.Connection", service: Service) -> str:
        """Replace the database by its successor; return a note about lost replication slots."""
        replaced = await replacing.put_in_place(
            admin,
            self.urls[service.name].url.database,
            is_unfinished=partial(self._is_unfinished, admin, service),
        )
        self._unfinished.add(service.name)
        if replaced.is_kept:
            self._kept.add(service.name)
        if not replaced.slots:
            return ""
        return f"replication slot {', '.join(replaced.slots)} was dropped with the old database"

    async def _is_unfinished(self, admin: "asyncpg.Connection", service: Service) -> bool:
        """Whether a failed reset has left the database unfinished, or the database is empty."""
        url = self.urls[service.name].url
        tag = await databases.read_tag(admin, url.database)
        if service.name in self._unfinished or (tag and tag.unfinished):
            return True
        async with connection(url) as owner:
            return await databases.is_untouched(owner)

    async def _drop_predecessor(self, admin: "asyncpg.Connection", service: Service) -> None:
        await replacing.drop_predecessor(admin, self.urls[service.name].url.database)
        self._unfinished.discard(service.name)
        self._kept.discard(service.name)

    async def _drop_blocking_predecessor(
        self, admin: "asyncpg.Connection", service: Service
    ) -> None:
        """Drop the predecessor if it would prevent a migration from dropping a role."""
        name = replacing.predecessor_name(self.urls[service.name].url.database)
        if service.name in self._kept and await clones.holds_roles(admin, name):
            await databases.drop(admin, name)
            self._kept.discard(service.name)

    @property
    def _tag(self) -> EnvironmentTag:
        return EnvironmentTag(environment=str(self.settings.environment))

    async def _create_extensions(self, service: Service) -> None:
        members = self.sharing.with_service(service)
        extensions = dict.fromkeys(name for member in members for name in member.extensions)
        if not extensions:
            return
        async with connection(self.urls[service.name].url, uncounted=True) as owner:
            for name in extensions:
                await databases.create_extension(owner, name)
        if build := self.templates.build(service):
            build.add(Used(sessions=1))

    async def _keep_init_snapshot(self, service: Service) -> None:
        """Save an init snapshot of each database on a server that init scripts have just filled."""
        scripts = await self.provider.init_scripts(service)
        if not scripts:
            return
        tag = replace(self._tag, init=scripts)
        async with self._admin(service) as admin:
            for database in [self.urls[service.name].url.database, *self._beside(service)]:
                if await databases.exists(admin, database):
                    name = clones.init_snapshot_name(database)
                    await clones.keep(admin, database, name, tag)

    def _beside(self, service: Service) -> list[str]:
        """Return the databases on a new server that belong to services outside the run."""
        found = {
            (service.compose_service, database)
            for database in self.renewals.databases_beside(service)
            if database not in MAINTENANCE_DATABASES
        } - self._copied_beside
        self._copied_beside.update(found)
        return [database for _, database in sorted(found)]


def _restore_note(service: str, database: str) -> str:
    """Return a note with the steps that restore the previous database."""
    kept = replacing.predecessor_name(database)
    beside = next(name for name in MAINTENANCE_DATABASES if name != database)
    return (
        f"{service}: its previous database is kept as {kept!r} until a reset succeeds. To restore"
        f" it: 1. `invoke db.shell --service {service}` 2. \\c {beside}"
        f" 3. DROP DATABASE {databases.quoted(database)} WITH (FORCE);"
        f" 4. ALTER DATABASE {databases.quoted(kept)} RENAME TO {databases.quoted(database)};"
    )


def _seeded(service: Service, tag: EnvironmentTag | None) -> str:
    """Return whether the seeds were applied, and whether their files have changed since."""
    if not service.seeds:
        return "no seeds"
    applied = tag.seeds if tag else ""
    if tag and service.shared_database:
        applied = tag.shared_seeds.get(service.name, "")
    if not applied:
        return "no"
    return "yes" if applied == fingerprint(service) else "changed since"


async def _init_snapshot_copy(admin: "asyncpg.Connection", database: str, scripts: str) -> str:
    """Return the name of a database's init snapshot; empty string if there is no matching one.

    Args:
        scripts: The fingerprint of the init scripts that made it; empty string if any will do.
    """
    name = clones.init_snapshot_name(database)
    tag = await databases.read_tag(admin, name)
    return name if tag is not None and tag.init and scripts in ("", tag.init) else ""
