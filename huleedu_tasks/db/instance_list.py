"""The instances of a repository: list them, and remove those that have lost their checkout."""

import asyncio
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from huleedu_tasks.compose.engine import Engine
from huleedu_tasks.compose.instance_override import OVERRIDE_FILE
from huleedu_tasks.db.run import only_run
from huleedu_tasks.db.snapshots import age_since
from huleedu_tasks.errors import ExitCode, HuleEduError, ServerError
from huleedu_tasks.instances.instance import INSTANCES_DIRECTORY
from huleedu_tasks.instances.leases import Lease, leases, lock
from huleedu_tasks.report import Fact, Listing
from huleedu_tasks.servers.cluster import server_of, stop_server, unproven_server
from huleedu_tasks.servers.protocol import EMBEDDED_DIRECTORY
from huleedu_tasks.state_dir import unwritable

COLUMNS = ("name", "current", "checkout", "exists", "ports", "running", "age")
RESULT = "result"
# The servers of the instance, and those of its test runs.
_DATA = tuple(f"{parent}{EMBEDDED_DIRECTORY}/postgresql-*/*/data" for parent in ("", "*/"))
# Has the data of an instance while it is removed; it has no lease any more.
_REMOVED = ".removed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Instances:
    """The instances of a repository.

    Attributes:
        home: The state directory of the main fleet.
        current: The state directory of the instance of this checkout; None without one.
        environment: The process environment, which names the Docker Engine.
        notify: Called with a sentence that says what the command waits for.
    """

    home: Path
    current: Path | None
    environment: Mapping[str, str]
    notify: Callable[[str], object] = str

    async def list(self) -> Listing:
        """List all instances, oldest first.

        Raises:
            ServerError: If a lease cannot be read.
        """
        return await self._listing(leases(self.home))

    async def prune(self, *, dry_run: bool) -> Listing:
        """Stop and remove the instances whose checkout does not exist, with all their data.

        One that cannot be removed is kept, with the reason; the others are removed nevertheless.

        Raises:
            ServerError: If a lease cannot be read.
        """
        if not dry_run:
            # What a killed command has left.
            removed = self.home / INSTANCES_DIRECTORY / _REMOVED
            await asyncio.to_thread(shutil.rmtree, removed, ignore_errors=True)
        found = leases(self.home)
        listed = await self._listing(found)
        results = [await self._pruned(lease, dry_run=dry_run) for lease in found]
        failed = any(result.startswith("failed") for result in results)
        rows = zip(listed.rows, results, strict=True)
        return replace(
            listed,
            columns=(*COLUMNS, RESULT),
            rows=tuple({**row, RESULT: result} for row, result in rows),
            exit_code=ExitCode.FAILED if failed else ExitCode.DONE,
        )

    async def _listing(self, found: Sequence[Lease]) -> Listing:
        rows = await asyncio.gather(*map(self._row, found))
        return Listing(command="db.instances", key="instances", columns=COLUMNS, rows=tuple(rows))

    async def _pruned(self, lease: Lease, *, dry_run: bool) -> str:
        if lease.has_checkout:
            return "kept"
        if dry_run:
            return "dry run: would be removed"
        try:
            async with only_run(lease.directory, self.notify):
                # Meanwhile Git may have created the worktree again.
                if lease.has_checkout:
                    return "kept"
                await self._remove(lease)
        except HuleEduError as error:
            return f"failed: {error.message} {error.hint} [{error.code}]"
        return "removed"

    async def _remove(self, lease: Lease) -> None:
        """Stop the servers of an instance, and remove their data and at last its lease.

        A server belongs to it if its data directory does, and a container if Compose has created
        it with the override of the instance.
        """
        for data in _data_directories(lease):
            _require_proven(data)
        for data in _data_directories(lease):
            await stop_server(data, data.with_name("server.log"))
        override = lease.directory / OVERRIDE_FILE
        if override.exists():
            engine = await asyncio.to_thread(Engine.connect, self.environment)
            await asyncio.to_thread(engine.remove_project, lease.project, override)
        removed = lease.directory.parent / _REMOVED / lease.directory.name
        try:
            with lock(self.home):
                removed.parent.mkdir(exist_ok=True)
                shutil.rmtree(removed, ignore_errors=True)
                lease.directory.rename(removed)
            with suppress(FileNotFoundError):  # Another `--prune` removes it.
                await asyncio.to_thread(shutil.rmtree, removed)
        except OSError as error:
            raise unwritable(lease.directory, error) from error

    async def _row(self, lease: Lease) -> Mapping[str, Fact]:
        return {
            "name": lease.name,
            "current": lease.directory == self.current,
            "checkout": lease.place,
            "exists": lease.has_checkout,
            "ports": _ranges([*lease.ports.values()]),
            "running": await asyncio.to_thread(self._running, lease),
            "age": age_since(lease.created),
            "created": lease.created,
            "compose_project": lease.project,
            "servers": [f"{server}={port}" for server, port in lease.ports.items()],
        }

    def _running(self, lease: Lease) -> int | None:
        """Return the number of servers that run; None if the Docker Engine does not answer."""
        embedded = sum(server_of(data) is not None for data in _data_directories(lease))
        if not (lease.directory / OVERRIDE_FILE).exists():
            return embedded
        try:
            containers = Engine.connect(self.environment).containers(lease.project)
        except HuleEduError:
            return None
        return embedded + sum(container.runs for container in containers)


def _require_proven(data: Path) -> None:
    """Require that no process may be the server of a data directory without being proven to be."""
    if pid := unproven_server(data):
        raise ServerError(
            f"Process {pid} may be the server of {data}, although its command line does not name "
            "this directory.",
            code="instance-not-proven",
            hint=f"If it is, stop it with `kill -INT {pid}`. Then run the same command again.",
        )


def _data_directories(lease: Lease) -> Iterator[Path]:
    for pattern in _DATA:
        yield from lease.directory.glob(pattern)


def _ranges(ports: list[int]) -> str:
    """Return ports as ranges, for example `20001-20008, 20010`."""
    ordered = sorted(ports)
    breaks = [n for n, (one, next_) in enumerate(pairwise(ordered), 1) if next_ != one + 1]
    parts = [ordered[a:b] for a, b in pairwise([0, *breaks, len(ordered)])]
    return ", ".join(
        str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts if part
    )
