"""Copies that stand for making a database: whether there is one, and whether one may be kept.

A copy is used only where everything a database is made of is what it was, and kept only of a
database to which nobody else has been connected while it was made.
"""

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeGuard

from huleedu_tasks.config.registry import Service
from huleedu_tasks.config.settings import Settings
from huleedu_tasks.config.urls import DatabaseUrl
from huleedu_tasks.migrations.inputs import Inputs, Present
from huleedu_tasks.migrations.runner import Used
from huleedu_tasks.postgres import clones, databases
from huleedu_tasks.postgres.connections import connection
from huleedu_tasks.postgres.databases import EnvironmentTag
from huleedu_tasks.postgres.server_state import server_state
from huleedu_tasks.shared_databases import Sharing
from huleedu_tasks.templates import fingerprint

if TYPE_CHECKING:
    import asyncpg

COPIED = "copied"
ANEW = "made anew"
FRESH = "--fresh"
NOTHING_YET = clones.Activity()
NO_COPY = "no copy yet"
KEPT_TEMPLATES = 3
# How far a file's time may lag behind the clock, in seconds (Linux stamps files once in a tick).
CLOCK_TICK = 0.02


@dataclass(slots=True, kw_only=True)
class Build:
    """How a database is made in this run.

    Attributes:
        scripts: What tells whether the scripts of its birth have changed.
        parts: What goes into it, as far as that is known beforehand.
        why: Why no copy stands for it.
        since: When the making began, in seconds since the epoch.
        used: What has been used so far; None as soon as that is not known.
        writes: What the server had counted of writes to the database when it was new; None if
            others may have written to it before.
    """

    scripts: str
    parts: Inputs
    why: str
    since: float
    used: Used | None
    writes: int | None

    def add(self, used: Used | None) -> None:
        """Note what has been used as well."""
        self.used = self.used + used if self.used and used else None


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplatePolicy:
    """What is known of the databases that are made in this run.

    Attributes:
        leaves_copies: Whether they may be left on the servers.
        fresh: Whether every database is made anew, whatever copies there are.
        present: What there is at the beginning.
        sharing: Which services share a database; it is made on behalf of the first of them.
    """

    settings: Settings
    present: Present
    leaves_copies: bool
    fresh: bool
    sharing: Sharing = field(default_factory=Sharing)
    _build: dict[str, Build] = field(default_factory=dict)

    def build(self, service: Service) -> Build | None:
        """Return how a service's database is being made; None if it is not."""
        return self._build.get(self.sharing.leader(service).name)

    async def begin(
        self,
        admin: "asyncpg.Connection",
        service: Service,
        scripts: str,
        *,
        why: str = FRESH,
        before: clones.Activity = NOTHING_YET,
    ) -> None:
        """Note what a database is made of from now on.

        Args:
            scripts: What tells whether the scripts of its birth have changed.
            before: What there has been on it already.
        """
        if not self.leaves_copies:
            return
        # Before the files are read: what is changed meanwhile was changed after that.
        since = time.time() - CLOCK_TICK
        self._build[service.name] = Build(
            scripts=scripts,
            since=since,
            parts=await self._parts(admin, service, scripts, self.present),
            why=why,
            used=Used(sessions=before.sessions),
            writes=before.writes,
        )

    def end(self, service: Service) -> None:
        """Forget what would have been made, and is there."""
        self._build.pop(service.name, None)

    async def fitting(
        self, admin: "asyncpg.Connection", service: Service, database: str
    ) -> tuple[str, EnvironmentTag] | None:
        """Return the template of a database, with its environment tag; None if there is none.

        It is noted that it is used.
        """
        build = self.build(service)
        if build is None or self.fresh:
            return None
        reasons: list[str] = []
        for name, tag in (await clones.templates(admin, database)).items():
            if not _is_complete(tag) or tag.environment != str(self.settings.environment):
                continue
            changed = fingerprint.difference(tag.parts, build.parts, self.present)
            if not changed:
                # The first one was used last anyway, whenever that was.
                if reasons:
                    used = replace(tag, used=time.time())
                    await databases.write_tag(admin, name, used)
                return name, tag
            reasons.append(f"{changed} changed")
        # Of several, that used last is what people have worked with.
        build.why = reasons[0] if reasons else NO_COPY
        return None

    async def make_room(self, admin: "asyncpg.Connection", database: str) -> None:
        """Drop the copies that would keep a migration from dropping a role, or making it anew."""
        for name in await clones.templates(admin, database):
            if await clones.holds_roles(admin, name):
                await databases.drop(admin, name)

    async def keep(
        self, admin: "asyncpg.Connection", service: Service, url: DatabaseUrl, tag: EnvironmentTag
    ) -> None:
        """Keep a copy of a database that was made anew, and note on it how that came.

        All seeds must have been applied: one may have written to another service's database.
        """
        build = self._build[service.name]
        how = f"{ANEW}: {build.why}"
        if why_not := await self._keep(admin, service, url, build, replace(tag, reset=how)):
            how = f"{how}; no copy kept: {why_not}"
        await databases.write_tag(admin, url.database, replace(tag, reset=how))
        await self._drop_old(admin, url.database)

    async def _keep(
        self,
        admin: "asyncpg.Connection",
        service: Service,
        url: DatabaseUrl,
        build: Build,
        tag: EnvironmentTag,
    ) -> str:
        """Keep a copy, or return why that cannot be."""
        async with connection(url) as owner:
            build.add(Used(sessions=1))
            if await clones.has_unlogged_tables(owner):
                return "a crash would empty its unlogged tables"
        # Making it has taken its time: what there was at the beginning may be another by now.
        present = Present.of(self.settings)
        now = await self._parts(admin, service, build.scripts, present)
        # A role that the migrations make is there from now on.
        build.parts = {**build.parts, fingerprint.ROLES: now[fingerprint.ROLES]}
        whole = self._whole(service)
        if why_not := self._why_unknown(whole, build, present, now):
            return why_not
        assert build.used is not None
        parts = fingerprint.with_used(build.parts, whole, build.used, present)
        name = clones.template_name(url.database, fingerprint.key(parts))
        complete = replace(tag, parts=parts, used=time.time())
        sessions = build.used.sessions
        return await clones.keep(
            admin, url.database, name, complete, sessions=sessions, writes=build.writes
        )

    @staticmethod
    def _why_unknown(service: Service, build: Build, present: Present, now: Inputs) -> str:
        """Return why it is not known what a database was made of; or nothing if it is."""
        used = build.used
        if used is None:
            return "it was not told what it is made of"
        if reasons := [*used.untracked, *used.clocks]:
            return reasons[0]
        if used.addresses:
            return f"it was made with what {used.addresses[0].replace(' ', ' at ')} has answered"
        if len(used.files) > fingerprint.MANY:
            return (
                f"more than {fingerprint.MANY} files were read; 'inputs' may name their directory"
            )
        if changed := fingerprint.difference(build.parts, now, present):
            own = fingerprint.own_change_since(service, present, build.since)
            return (
                f"{own if changed == fingerprint.ITS_FILES and own else changed} changed meanwhile"
            )
        changed = fingerprint.changed_since(service, used, present, build.since)
        return f"{changed} changed meanwhile" if changed else ""

    async def _drop_old(self, admin: "asyncpg.Connection", database: str) -> None:
        known = await clones.templates(admin, database)
        complete = [name for name, tag in known.items() if _is_complete(tag)]
        for old in set(known) - set(complete[:KEPT_TEMPLATES]):
            await databases.drop(admin, old)

    async def _parts(
        self, admin: "asyncpg.Connection", service: Service, scripts: str, present: Present
    ) -> Inputs:
        state = await server_state(admin)
        server = f"{state.settings} {scripts}"
        return fingerprint.parts_of(
            self._whole(service),
            self.settings,
            present,
            server=server,
            roles=state.roles,
            others=self.sharing.with_service(service)[1:],
        )

    def _whole(self, service: Service) -> Service:
        return fingerprint.merged(self.sharing.with_service(service))


def _is_complete(tag: EnvironmentTag | None) -> TypeGuard[EnvironmentTag]:
    """Whether a copy was tagged with what it is made of, which is done last."""
    return tag is not None and bool(tag.parts)
