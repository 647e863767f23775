"""Exchange databases with their undo snapshots.

A file in the state directory names the databases that a command brings back, until it has brought
back all of them. After a kill, the next command continues with it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from huleedu_tasks.db.predecessors import settle_predecessor
from huleedu_tasks.db.run import NOTHING, Run
from huleedu_tasks.db.service_run import ServiceRun, after_leader
from huleedu_tasks.db.start import START
from huleedu_tasks.db.status import STATUS
from huleedu_tasks.db.undo_snapshots import record_time, time_kept
from huleedu_tasks.errors import ConfigurationError
from huleedu_tasks.parallel import Stage, Step
from huleedu_tasks.postgres import clones, databases, replacement
from huleedu_tasks.report import Outcome
from huleedu_tasks.state_dir import unwritable

_FILE = "undo.json"


@dataclass(slots=True, kw_only=True)
class Undo:
    """The undo snapshots of the services of one run.

    Attributes:
        begun: The databases that a killed command was bringing back.
        every: Whether to exchange every database that has one, and not only those that the last
            command replaced.
        kept: When each was kept, in seconds since the epoch.
        oids: The OIDs of the database and the undo snapshot of each service that has one.
        chosen: The services whose databases are to be exchanged.
        exchanged: Those of them whose databases were exchanged.
    """

    run: Run
    begun: "Begun"
    every: bool
    kept: dict[ServiceRun, float] = field(default_factory=dict)
    oids: dict[ServiceRun, tuple[int, int]] = field(default_factory=dict)
    chosen: set[ServiceRun] = field(default_factory=set)
    exchanged: set[ServiceRun] = field(default_factory=set)

    async def undo(self) -> None:
        """Exchange the databases that the last command replaced with their undo snapshots.

        Raises:
            ConfigurationError: If no service has one.
        """
        if not await self.run.together((START, self._finding), undone_by=NOTHING):
            return
        if not self.kept:
            raise ConfigurationError(
                "No selected service has an undo snapshot; nothing was changed.",
                code="nothing-to-undo",
                hint="One is kept when a command replaces or rolls back a database that was "
                "written to since it was built. `invoke db.snapshots` lists them.",
            )
        if not self._continue():
            last = max(self.kept.values())
            self.chosen = {run for run, time in self.kept.items() if self.every or time == last}
            self.begun.write({run.name: self.oids[run][1] for run in self.chosen})
        done = await self.run.together([self._exchanging], undone_by=self._exchanging_back)
        if done or not self.exchanged:
            self.begun.end()
        if done:
            await self.run.stage(STATUS)

    def _continue(self) -> bool:
        """Choose what a killed command has begun; return whether there was one.

        Of its databases, those that it has brought back already are not exchanged again.
        """
        wanted = self.begun.read()
        found = {run: wanted[run.name] for run in self.oids if run.name in wanted}
        current = {run: oid for run, oid in found.items() if oid in self.oids[run]}
        self.chosen = set(current)
        self.exchanged = {run for run, oid in current.items() if oid == self.oids[run][0]}
        return bool(current)

    @property
    def _finding(self) -> Stage[ServiceRun]:
        async def find(run: ServiceRun, step: Step) -> Outcome:
            if not run.is_leader:
                return run.done()
            admin, database = await run.prove_disposable(), run.url.database
            await replacement.discard_successor(admin, database)
            await settle_predecessor(admin, run)
            name = replacement.undo_name(database)
            if await databases.exists(admin, name):
                self.kept[run] = await time_kept(admin, name)
                self.oids[run] = (
                    await clones.oid_of(admin, database),
                    await clones.oid_of(admin, name),
                )
            return run.done()

        return Stage(run=find, io_bound=True)

    @property
    def _exchanging(self) -> Stage[ServiceRun]:
        async def exchange(run: ServiceRun, step: Step) -> Outcome:
            if run.database.leader not in self.chosen:
                return run.done("nothing to undo")
            if not run.is_leader or run in self.exchanged:
                return run.done("undone")
            step("undoing")
            admin, database = await run.prove_disposable(), run.url.database
            undo = replacement.undo_name(database)
            await run.context.guard.prove_disposable(admin, run.service, undo)
            await record_time(admin, run, database)
            await replacement.exchange(admin, database, undo)
            self.exchanged.add(run)
            return run.done("undone")

        return Stage(run=exchange, io_bound=True, after=after_leader)

    @property
    def _exchanging_back(self) -> Stage[ServiceRun]:
        async def exchange(run: ServiceRun, step: Step) -> Outcome:
            if run in self.exchanged:
                database = run.url.database
                await replacement.exchange(
                    await run.admin(), database, replacement.undo_name(database)
                )
            return run.done()

        return Stage(run=exchange, io_bound=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """The databases that a command brings back, as a file that a killed command leaves.

    Attributes:
        path: The file; it does not exist if no command was killed.
    """

    path: Path

    @classmethod
    def of(cls, state: Path) -> "Begun":
        """Return that of a project's state directory."""
        return cls(path=state / _FILE)

    def read(self) -> dict[str, int]:
        """Return the OID of the database that each service gets back; empty if there is none."""
        try:
            found: dict[str, int] = json.loads(self.path.read_text())
        except FileNotFoundError:
            return {}
        return found

    def write(self, oids: Mapping[str, int]) -> None:
        """Write the OID of the database that each service gets back.

        Raises:
            ServerError: If the file cannot be written.
        """
        partial = self.path.with_suffix(".partial")
        try:
            partial.write_text(json.dumps(oids))
            partial.replace(self.path)
        except OSError as error:
            raise unwritable(self.path, error) from error

    def end(self) -> None:
        """Remove the file."""
        self.path.unlink(missing_ok=True)
