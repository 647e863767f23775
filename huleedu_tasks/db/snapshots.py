"""Named snapshots: copies of development databases, on the same server, that a user restores later.

A snapshot belongs to one service and one server, which its environment tag names. The snapshots of
one command are created together: a file in the state directory exists until all of them are
complete, and one whose file still exists is dropped by the next command.
"""

import asyncio
import json
import re
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from huleedu_tasks.db.predecessors import put_in_place, retire_predecessor
from huleedu_tasks.db.run import NOTHING, Run
from huleedu_tasks.db.service_run import ServiceRun, after_leader
from huleedu_tasks.db.start import START
from huleedu_tasks.db.status import prepare_status, status
from huleedu_tasks.errors import ConfigurationError, Finding, HuleEduError, Refused
from huleedu_tasks.migrations.revisions import NO_HISTORY, named
from huleedu_tasks.parallel import Stage, Step
from huleedu_tasks.postgres import clones, databases, replacement
from huleedu_tasks.postgres.connections import connection
from huleedu_tasks.postgres.databases import EnvironmentTag
from huleedu_tasks.postgres.version_tables import read_revisions
from huleedu_tasks.report import Outcome
from huleedu_tasks.state_dir import make_directory, unwritable

if TYPE_CHECKING:
    import asyncpg

# No dot, so that the name of a task is no name of a snapshot: `db.snapshot db.reset`.
_NAME = re.compile(rf"[A-Za-z0-9_-]{{1,{clones.LONGEST_SNAPSHOT}}}")
_DIRECTORY = "snapshots"


def require_name(name: str) -> None:
    """Require that a snapshot may have a name.

    Raises:
        ConfigurationError: If it is empty, too long, or has other characters.
    """
    if not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"{name!r} cannot be the name of a snapshot; nothing was changed.",
            code="snapshot-name-invalid",
            hint=f"Use 1 to {clones.LONGEST_SNAPSHOT} letters, digits, hyphens and underscores: "
            "`invoke db.snapshot NAME`.",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfinished:
    """The snapshots that commands were creating when they were killed.

    Attributes:
        directory: Has a file for each such command, with the names of its services.
    """

    directory: Path

    @classmethod
    def of(cls, state: Path) -> "Unfinished":
        """Return those of a project's state directory."""
        return cls(directory=state / _DIRECTORY)

    def begin(self, key: str, services: Sequence[str]) -> None:
        """Record that the snapshots of a command are not complete.

        Raises:
            ServerError: If the file cannot be written.
        """
        try:
            make_directory(self.directory)
            self._write(key, services)
        except OSError as error:
            raise unwritable(self.directory, error) from error

    def end(self, key: str) -> None:
        """Record that the snapshots of a command are complete, or were dropped."""
        (self.directory / key).unlink(missing_ok=True)

    def read(self) -> dict[str, list[str]]:
        """Return the names of the services of each command that was killed, by its key."""
        if not self.directory.is_dir():
            return {}
        files = [path for path in self.directory.iterdir() if not path.name.startswith(".")]
        return {path.name: json.loads(path.read_text()) for path in files}

    def note_dropped(self, services: Sequence[str]) -> None:
        """Record that the unfinished snapshots of services were dropped."""
        for key, names in self.read().items():
            if left := [name for name in names if name not in services]:
                self._write(key, left)
            else:
                self.end(key)

    def _write(self, key: str, services: Sequence[str]) -> None:
        partial = self.directory / f".{key}"
        partial.write_text(json.dumps([*services]))
        partial.replace(self.directory / key)


@dataclass(slots=True, kw_only=True)
class Snapshots:
    """The named snapshots of the services of one run.

    Attributes:
        key: Distinguishes this command from those that were killed.
        created: The services for whose databases this command has begun a snapshot.
    """

    run: Run
    unfinished: Unfinished
    key: str = field(default_factory=lambda: uuid4().hex)
    created: set[ServiceRun] = field(default_factory=set)

    async def snapshot(self, name: str) -> None:
        """Create a snapshot of each database, or none.

        Raises:
            ConfigurationError: If one of them has a snapshot of that name.
        """
        if not await self._read():
            return
        taken = [run for run in self._leaders if name in run.database.snapshots]
        if taken:
            raise _exists(name, taken)
        self.unfinished.begin(self.key, [run.name for run in self._leaders])
        if await self.run.together([self._creating(name)], undone_by=self._dropping(name)):
            # From this moment the snapshots are complete.
            self.unfinished.end(self.key)
        elif not self.created:
            self.unfinished.end(self.key)

    async def restore(self, name: str) -> None:
        """Replace each database by its snapshot, or none.

        Raises:
            ConfigurationError: If one of them has no snapshot of that name.
        """
        if not await self._read():
            return
        self._require(name)
        steps = [self._building(name), SWAP]
        if await self.run.together(steps, undone_by=SWAP_BACK):
            await self.run.stage(FINISH)

    async def delete(self, name: str) -> None:
        """Drop a snapshot of each database that has one of that name.

        Raises:
            ConfigurationError: If none has.
        """
        if not await self._read():
            return
        if not any(name in run.database.snapshots for run in self._leaders):
            raise _unknown(name, self._leaders)
        await self.run.stage(self._deleting(name))

    @property
    def _leaders(self) -> list[ServiceRun]:
        return [run for run in self.run.services if run.is_leader]

    async def _read(self) -> bool:
        """Read the snapshots of each database, and drop those that are incomplete.

        Returns:
            Whether those of all services were read.
        """
        keys = self.unfinished.read().keys()

        async def read(run: ServiceRun, step: Step) -> Outcome:
            if run.is_leader:
                admin = await run.prove_disposable()
                run.database.snapshots = await read_snapshots(admin, run, keys, drops=True)
            return run.done()

        stages = (START, Stage(run=read, io_bound=True))
        if not await self.run.together(stages, undone_by=NOTHING):
            return False
        self.unfinished.note_dropped([run.name for run in self._leaders])
        return True

    def _require(self, name: str) -> None:
        lacking = [run for run in self._leaders if name not in run.database.snapshots]
        if len(lacking) == len(self._leaders):
            raise _unknown(name, self._leaders)
        if lacking:
            having = [run.name for run in self._leaders if run not in lacking]
            raise ConfigurationError(
                f"Snapshot {name!r} has no database of {', '.join(run.name for run in lacking)}; "
                "nothing was changed.",
                code="snapshot-partial",
                hint=f"Restore the others alone: `invoke db.restore {name} --service "
                f"{','.join(having)}`.",
            )

    def _creating(self, name: str) -> Stage[ServiceRun]:
        async def create(run: ServiceRun, step: Step) -> Outcome:
            if not run.is_leader:
                return run.done()
            step("copying")
            database = run.url.database
            admin = await run.prove_disposable()
            await databases.place(admin, database)
            tag = await databases.read_tag(admin, database) or run.context.tag
            about = {
                "name": name,
                "key": self.key,
                "service": run.name,
                "server": await databases.system_identifier(admin),
                "database": database,
                "revision": await _revisions(run),
                "created": str(time.time()),
            }
            plain = replace(tag, untouched="", analyzed=0, source=0, kept=0.0, snapshot=about)
            self.created.add(run)
            await clones.take_snapshot(admin, database, clones.snapshot_name(database, name), plain)
            return run.done("saved", {"revision": about["revision"]})

        return Stage(run=create, io_bound=True, after=after_leader)

    def _dropping(self, name: str) -> Stage[ServiceRun]:
        async def drop(run: ServiceRun, step: Step) -> Outcome:
            if run in self.created:
                admin, copy = await run.admin(), _copy(run, name)
                # A database of that name that allows connections is not a snapshot.
                if copy in await clones.snapshots(admin, run.url.database):
                    await databases.drop(admin, copy)
                self.created.remove(run)
            return run.done()

        return Stage(run=drop, io_bound=True)

    def _deleting(self, name: str) -> Stage[ServiceRun]:
        async def delete(run: ServiceRun, step: Step) -> Outcome:
            if name not in run.database.snapshots:
                return run.done("" if not run.is_leader else "has no such snapshot")
            await databases.drop(await run.prove_disposable(), _copy(run, name))
            return run.done("deleted")

        return Stage(run=delete, io_bound=True, after=after_leader)

    def _building(self, name: str) -> Stage[ServiceRun]:
        async def build(run: ServiceRun, step: Step) -> Outcome:
            if not run.is_leader:
                return run.done()
            step("copying")
            admin, copy = await run.admin(), _copy(run, name)
            async with replacement.building(admin, run.url.database) as successor:
                tag = replace(
                    run.database.snapshots[name],
                    snapshot={},
                    source=await clones.oid_of(admin, copy),
                    untouched=await clones.counters(admin, successor),
                    reset=f"restored: {name}",
                )
                copying = clones.clone(admin, copy, successor, tag)
                # The report needs the history, which is read while the server copies.
                await asyncio.gather(copying, prepare_status(run))
            return run.done()

        return Stage(run=build, io_bound=True, after=after_leader)


async def read_snapshots(
    admin: "asyncpg.Connection", run: ServiceRun, unfinished: Collection[str], *, drops: bool
) -> dict[str, EnvironmentTag]:
    """Return the named snapshots of a service's database by name.

    Args:
        unfinished: The keys of commands that were killed.
        drops: Whether incomplete snapshots are dropped.

    Raises:
        Refused: If one belongs to another service or server.
    """
    found = {}
    server = ""
    for copy, tag in (await clones.snapshots(admin, run.url.database)).items():
        if tag is None or not tag.snapshot or tag.snapshot.get("key") in unfinished:
            if drops:
                await databases.drop(admin, copy)
            continue
        server = server or await databases.system_identifier(admin)
        _require_own(run, server, copy, tag.snapshot)
        found[tag.snapshot["name"]] = tag
    return found


def _require_own(run: ServiceRun, server: str, copy: str, about: Mapping[str, str]) -> None:
    """Require that a snapshot was created for this service's database, on this server."""
    own = {
        "service": run.name,
        "database": run.url.database,
        "server": server,
    }
    findings = [
        Finding(place=copy, problem=f"was created for the {what} {about.get(what)}, not {value}")
        for what, value in own.items()
        if about.get(what) != value
    ]
    if findings:
        raise Refused(
            f"{run.name}: a snapshot on its server belongs to another service or server.",
            code="snapshot-mismatch",
            findings=findings,
            hint=f"If it is not needed, run in `invoke db.shell --service {run.name}`: "
            f"DROP DATABASE {databases.quoted(copy)}.",
        )


async def _revisions(run: ServiceRun) -> str:
    """Return the current revisions of all services that share the database."""
    async with connection(run.url) as session:
        found = [await _current(member, session) for member in run.database.members]
    return ", ".join(map(named, found))


async def _current(run: ServiceRun, session: "asyncpg.Connection") -> tuple[str, ...]:
    tables = await run.context.histories.version_tables(run.service, run.url, session)
    found = await read_revisions(session, tables)
    history = NO_HISTORY
    if len(found) > 1:
        # Files that cannot be read do not prevent a snapshot.
        with suppress(HuleEduError):
            history = await run.history()
    return history.least_advanced(found)


def _copy(run: ServiceRun, name: str) -> str:
    return clones.snapshot_name(run.url.database, name)


def _exists(name: str, taken: Sequence[ServiceRun]) -> ConfigurationError:
    return ConfigurationError(
        f"A snapshot {name!r} exists already; nothing was changed.",
        code="snapshot-exists",
        findings=[
            Finding(
                place=run.name,
                problem=f"created {shown_age(run.database.snapshots[name])} ago",
            )
            for run in taken
        ],
        hint=f"Choose another name, or run `invoke db.snapshots --delete {name}` first.",
    )


def _unknown(name: str, runs: Sequence[ServiceRun]) -> ConfigurationError:
    from difflib import get_close_matches

    known = sorted({known for run in runs for known in run.database.snapshots})
    close = get_close_matches(name, known)
    hint = f"Did you mean {' or '.join(close)}?" if close else "`invoke db.snapshots` lists them."
    return ConfigurationError(
        f"No selected service has a snapshot {name!r}; nothing was changed.",
        code="snapshot-unknown",
        hint=hint if known else "Create one with `invoke db.snapshot NAME`.",
    )


def shown_age(tag: EnvironmentTag) -> str:
    """Return how long ago a snapshot was created, in the largest unit that fits."""
    return age_since(float(tag.snapshot.get("created", tag.kept)))


def age_since(created: float) -> str:
    """Return how long ago a time in seconds since the epoch was, in the largest unit that fits."""
    seconds = max(time.time() - created, 0)
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit}"
    return f"{seconds:.0f} s"


async def _swap(run: ServiceRun, step: Step) -> Outcome:
    """Replace the database by the successor that was built from its snapshot."""
    if not run.is_leader:
        return run.done("restored")
    note = await put_in_place(await run.prove_disposable(), run)
    return run.done(f"restored, {note}" if note else "restored")


async def _swap_back(run: ServiceRun, step: Step) -> Outcome:
    """Put the database back that a restore has replaced, or drop the successor."""
    if not run.is_leader:
        return run.done()
    database, admin = run.url.database, await run.admin()
    if run.database.is_unfinished and run.database.keeps_predecessor:
        predecessor = replacement.predecessor_name(database)
        await replacement.exchange(admin, database, predecessor)
        await databases.drop(admin, predecessor)
        run.database.keeps_predecessor = False
    elif run.database.is_unfinished:
        await databases.drop(admin, database)
    await replacement.discard_successor(admin, database)
    return run.done()


async def _finish(run: ServiceRun, step: Step) -> Outcome:
    """Retire the database that was replaced; meanwhile, report on the restored one."""
    reporting = asyncio.create_task(status(run, step))
    try:
        if run.is_leader:
            await retire_predecessor(await run.admin(), run)
    finally:
        # An error of the report is that of the service only if nothing else failed.
        await asyncio.wait([reporting])
    return reporting.result()


SWAP = Stage(run=_swap, io_bound=True, after=after_leader)
SWAP_BACK = Stage(run=_swap_back, io_bound=True)
FINISH = Stage(run=_finish, io_bound=True, after=after_leader)
