"""When a reset copies a template instead of building the database, and when one is kept.

A template is used only if every input of its build is unchanged. It is kept only if no session of
another program wrote to the database during the build.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeGuard

from huleedu_tasks.config.registry import Service
from huleedu_tasks.config.settings import Settings
from huleedu_tasks.config.urls import DatabaseUrl
from huleedu_tasks.migrations.inputs import Inputs, Present
from huleedu_tasks.postgres import clones, databases
from huleedu_tasks.postgres.connections import connection
from huleedu_tasks.postgres.databases import EnvironmentTag
from huleedu_tasks.postgres.server_state import server_state
from huleedu_tasks.templates import fingerprint

if TYPE_CHECKING:
    import asyncpg

    from huleedu_tasks.migrations.results import Used

COPIED = "copied"
REBUILT = "rebuilt"
FRESH = "--fresh"
NOTHING_YET = clones.Activity()
NO_TEMPLATE = "no template yet"
KEPT_TEMPLATES = 3
# How far a file's time may lag behind the clock, in seconds (Linux updates it once per tick).
CLOCK_TICK = 0.02


@dataclass(slots=True, kw_only=True)
class Build:
    """The build of one database in this run.

    Attributes:
        services: The services whose histories the database has; several if they share it.
        scripts: The fingerprint of the init scripts; empty string if there are none.
        inputs: The inputs that are known before the build, with their digests.
        why: Why no template is used.
        since: When the build began, in seconds since the epoch.
        used: What the build has read so far; None once a process did not report it.
        writes: The number of writes that the server had counted on the database before the
            build; None if other sessions may have written to it before.
        analyzed: The number of writes of ANALYZE on the built database.
    """

    services: Sequence[Service]
    scripts: str
    inputs: Inputs
    why: str
    since: float
    used: "Used | None"
    writes: int | None
    analyzed: int = 0

    def add(self, used: "Used | None") -> None:
        """Add what a process of the build has read; None if it did not report it."""
        self.used = self.used + used if self.used and used else None

    @property
    def whole(self) -> Service:
        """The first of its services, with the files of all of them."""
        return fingerprint.merged(self.services)


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplatePolicy:
    """When the templates of a run are used and kept.

    Attributes:
        present: The files and variables as they are when the run begins.
        keeps_templates: Whether templates may be stored on the servers.
        fresh: Whether every database is rebuilt, even if a template is valid.
    """

    settings: Settings
    present: Present
    keeps_templates: bool
    fresh: bool

    async def begin(
        self,
        admin: "asyncpg.Connection",
        services: Sequence[Service],
        scripts: str,
        *,
        why: str = FRESH,
        before: clones.Activity = NOTHING_YET,
    ) -> Build | None:
        """Begin to record the inputs of a build.

        Args:
            services: The services whose histories the database has.
            scripts: The fingerprint of the init scripts; empty string if there are none.
            why: Why no template is used.
            before: The sessions and writes on the database before the build.

        Returns:
            The build; None if no template of it may be kept.
        """
        from huleedu_tasks.migrations.results import Used

        if not self.keeps_templates:
            return None
        # Taken before the files are read, so that an edit during the reading is noticed.
        since = time.time() - CLOCK_TICK
        return Build(
            services=services,
            scripts=scripts,
            since=since,
            inputs=await self._inputs(admin, services, scripts, self.present),
            why=why,
            used=Used(sessions=before.sessions),
            writes=before.writes,
        )

    async def find_valid(
        self, admin: "asyncpg.Connection", build: Build | None, database: str
    ) -> tuple[str, EnvironmentTag] | None:
        """Return a valid template of a database, and update the time at which it was last used.

        Args:
            build: The build that a template would replace; None if none was begun.

        Returns:
            Its name and its environment tag; None if no template is valid.
        """
        if build is None or self.fresh:
            return None
        reasons: list[str] = []
        for name, tag in (await clones.templates(admin, database)).items():
            if not _is_complete(tag) or tag.environment != str(self.settings.environment):
                continue
            changed = fingerprint.difference(tag.parts, build.inputs, self.present)
            if not changed:
                # The first template is already the one that was used last.
                if reasons:
                    used = replace(tag, used=time.time())
                    await databases.write_tag(admin, name, used)
                return name, tag
            reasons.append(f"{changed} changed")
        # The reason of the template that was used last.
        build.why = reasons[0] if reasons else NO_TEMPLATE
        return None

    async def find_migrated(
        self,
        admin: "asyncpg.Connection",
        services: Sequence[Service],
        scripts: str,
        database: str,
        *,
        is_read_by_revisions: Callable[[str], bool],
    ) -> str:
        """Return a template with the schema that the current revisions make.

        Args:
            services: The services whose histories the database has.
            scripts: The fingerprint of the init scripts; empty string if there are none.
            is_read_by_revisions: Whether the result of the revisions may depend on an input. Other
                inputs, such as the models, may have changed.

        Returns:
            Its name; empty string if there is no such template.
        """
        if not self.keeps_templates:
            return ""
        inputs = await self._inputs(admin, services, scripts, self.present)
        for name, tag in (await clones.templates(admin, database)).items():
            if _is_complete(tag) and tag.environment == str(self.settings.environment):
                changed = fingerprint.differences(tag.parts, inputs, self.present)
                if not any(map(is_read_by_revisions, changed)):
                    return name
        return ""

    def known_inputs(self, services: Sequence[Service]) -> Inputs:
        """Return the inputs that are known without a server, and before a build begins."""
        inputs = fingerprint.inputs_of(
            fingerprint.merged(services),
            self.settings,
            self.present,
            server="",
            others=services[1:],
        )
        names = inputs.keys() - fingerprint.OF_SERVER
        return {name: inputs[name] for name in names}

    async def make_room(self, admin: "asyncpg.Connection", database: str) -> None:
        """Drop the templates that would prevent a migration from dropping or recreating a role."""
        for name in await clones.templates(admin, database):
            if await clones.holds_roles(admin, name):
                await databases.drop(admin, name)

    async def keep(
        self, admin: "asyncpg.Connection", build: Build, url: DatabaseUrl, tag: EnvironmentTag
    ) -> None:
        """Save a template of a rebuilt database, and write the reason of the build into its tag.

        The seeds of all services must have been applied before: a seed may write to the database
        of another service.

        Args:
            tag: The environment tag of the database.
        """
        how = f"{REBUILT}: {build.why}"
        if why_not := await self._keep(admin, build, url, replace(tag, reset=how)):
            how = f"{how}; no template kept: {why_not}"
        untouched = await _own_counters(admin, build, url.database)
        done = replace(tag, reset=how, untouched=untouched, analyzed=build.analyzed)
        await databases.write_tag(admin, url.database, done)
        await self._drop_old(admin, url.database)

    async def _keep(
        self, admin: "asyncpg.Connection", build: Build, url: DatabaseUrl, tag: EnvironmentTag
    ) -> str:
        """Save a template, or return why none can be saved; empty string if it was saved."""
        from huleedu_tasks.migrations.results import Used

        async with connection(url) as owner:
            build.add(Used(sessions=1))
            build.analyzed = await clones.analyzed_rows(owner)
            if await clones.has_unlogged_tables(owner):
                return "a crash would empty its unlogged tables"
        # The inputs may have changed during the build.
        present = Present.of(self.settings)
        now = await self._inputs(admin, build.services, build.scripts, present)
        # Roles that the migrations created exist from now on.
        build.inputs = {**build.inputs, fingerprint.ROLES: now[fingerprint.ROLES]}
        whole = build.whole
        if why_not := self._why_not_reproducible(whole, build, present, now):
            return why_not
        assert build.used is not None
        inputs = fingerprint.with_used(build.inputs, whole, build.used, present)
        name = clones.template_name(url.database, fingerprint.key(inputs))
        complete = replace(tag, parts=inputs, used=time.time())
        sessions = build.used.sessions
        return await clones.keep(
            admin, url.database, name, complete, sessions=sessions, writes=build.writes
        )

    @staticmethod
    def _why_not_reproducible(service: Service, build: Build, present: Present, now: Inputs) -> str:
        """Return why the next build may give another result.

        Returns:
            The reason, as a clause; empty string if all inputs are known and unchanged.
        """
        used = build.used
        if used is None:
            return "the worker process exited before it reported its inputs"
        if reasons := [*used.untracked, *used.clocks]:
            return reasons[0]
        if used.addresses:
            port, _, host = used.addresses[0].partition(" ")
            address = f"{host}:{port}" if host else port
            return f"a migration or seed connected to {address}, which is not tracked"
        if len(used.files) > fingerprint.MANY:
            return (
                f"the build read more than {fingerprint.MANY} files; add their directory to "
                "'inputs' in the registry"
            )
        if changed := fingerprint.difference(build.inputs, now, present):
            own = fingerprint.own_change_since(service, present, build.since)
            name = own if changed == fingerprint.ITS_FILES and own else changed
            return f"{name} changed during the build"
        changed = fingerprint.changed_since(service, used, present, build.since)
        return f"{changed} changed during the build" if changed else ""

    async def _drop_old(self, admin: "asyncpg.Connection", database: str) -> None:
        known = await clones.templates(admin, database)
        complete = [name for name, tag in known.items() if _is_complete(tag)]
        for old in set(known) - set(complete[:KEPT_TEMPLATES]):
            await databases.drop(admin, old)

    async def _inputs(
        self,
        admin: "asyncpg.Connection",
        services: Sequence[Service],
        scripts: str,
        present: Present,
    ) -> Inputs:
        state = await server_state(admin)
        return fingerprint.inputs_of(
            fingerprint.merged(services),
            self.settings,
            present,
            server=f"{state.settings} {scripts}",
            roles=state.roles,
            others=services[1:],
        )


async def _own_counters(admin: "asyncpg.Connection", build: Build, database: str) -> str:
    """Return the counters of a database after its build.

    Returns:
        The counters; an empty string if another session may have written to the database.
    """
    if build.used is None:
        return ""
    # Read before the check, so that writes between the two are counted later.
    found = await clones.counters(admin, database)
    is_ours = await clones.is_ours(admin, database, build.used.sessions, build.writes)
    return found if is_ours else ""


def _is_complete(tag: EnvironmentTag | None) -> TypeGuard[EnvironmentTag]:
    """Whether a template has its inputs in its tag, which is written last."""
    return tag is not None and bool(tag.parts)
