"""The database containers of one compose project: found, proven, and asked about their data."""

import asyncio
import hashlib
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from huleedu_tasks.compose.container_cache import Memory
from huleedu_tasks.compose.container_state import ContainerState
from huleedu_tasks.compose.engine import Engine
from huleedu_tasks.config.registry import Service
from huleedu_tasks.errors import HuleEduError, Refused, ServerError
from huleedu_tasks.postgres import databases
from huleedu_tasks.postgres.connections import MAINTENANCE_DATABASES
from huleedu_tasks.postgres.databases import ServerIdentity

INIT_DIRECTORY = "/docker-entrypoint-initdb.d"
LIST_SCRIPTS = f"[ ! -d {INIT_DIRECTORY} ] || find {INIT_DIRECTORY} -type f -exec sha256sum {{}} +"
INITDB_BEGUN = "The files belonging to this database system will be owned by user"
INITDB_DONE = "Success. You can now start the database server"
POLL_INTERVAL = 0.1
LOG_LINES = 15
# What is remembered of a container.
IDENTIFIER = "system identifier"
INIT_SCRIPTS = "init scripts"
# What `pg_isready` says of a server that starts, or does not answer yet.
NOT_YET = (1, 2)


class ContainerDown(HuleEduError):
    """A container does not run, or has not run on; trying again does not help."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Containers:
    """The containers that Compose has made for a project, and those of this checkout among them.

    Attributes:
        directory: The project directory of this checkout.
    """

    engine: Engine
    project: str
    directory: Path
    memory: Memory
    _running: dict[str, ContainerState] = field(default_factory=dict)

    async def look(self) -> list[ContainerState]:
        """Ask for all containers of the project at once.

        Those that run need not be asked for again in this run, unless something goes wrong.
        """
        found = await asyncio.to_thread(self.engine.containers, self.project)
        self._running.clear()
        self._running.update({each.service: each for each in found if each.runs})
        return found

    def forget(self, names: Iterable[str]) -> None:
        """Ask again for containers that are about to change."""
        for name in names:
            self._running.pop(name, None)

    async def find(self, service: Service, *, anew: bool = False) -> ContainerState | None:
        """Return a service's container if there is one.

        Args:
            anew: Whether it may have changed since it was looked at.

        Raises:
            Refused: If it is another checkout's.
        """
        if anew:
            self.forget([service.compose_service])
        found = self._running.get(service.compose_service) or await asyncio.to_thread(
            self.engine.container, self.project, service.compose_service
        )
        if found and found.directory and not _is_same(found.directory, self.directory):
            raise Refused(
                f"{service.name}: the container {found.name} belongs to the checkout "
                f"{found.directory}, not to {self.directory}.",
                code="checkout-conflict",
                hint="Both have the same project name. Set COMPOSE_PROJECT_NAME in one of them, "
                "or work in the other.",
            )
        return found

    async def own(self, service: Service, *, anew: bool = False) -> ContainerState:
        """Return the container that is provably this checkout's own database server.

        Args:
            anew: As in `find`.

        Raises:
            Refused: If there is none, it belongs elsewhere, or it does not publish the port.
        """
        container = await self.find(service, anew=anew)
        if container is None:
            raise Refused(
                f"{service.name}: the compose project {self.project!r} has no container for "
                f"{service.compose_service!r}.",
                code="container-missing",
                hint="Run `invoke db.up`.",
            )
        if container.runs and not container.publishes(service.port):
            raise Refused(
                f"{service.name}: the container {container.name} does not publish port "
                f"{service.port} at localhost.",
                code="port-mismatch",
                hint="Run `invoke db.up`, which applies the compose file, or compare the ports of "
                "compose file and registry.",
            )
        return container

    async def alive(self, service: Service, *, anew: bool = False) -> ContainerState:
        """Return the own container, in which a server can be asked.

        Args:
            anew: As in `find`.

        Raises:
            ContainerDown: With its last log lines.
        """
        container = await self.own(service, anew=anew)
        if container.status == "paused":
            raise ContainerDown(
                f"The container {container.name} is paused.",
                code="container-paused",
                hint=f"`docker unpause {container.name}`.",
            )
        if not container.runs:
            raise ContainerDown(
                f"The container {container.name} is {container.status} (exit code "
                f"{container.exit_code}).",
                code="container-stopped",
                output=await self.log_tail(container),
                hint=f"Its last log lines name the cause. {if_damaged(container)}",
            )
        return container

    async def log_tail(self, container: ContainerState) -> str:
        """Return a container's last log lines."""
        return await asyncio.to_thread(self.engine.log_tail, container, LOG_LINES)

    async def identity(self, container: ContainerState) -> ServerIdentity | None:
        """Read which server it is from the data in the container; None if that says nothing."""
        number = self.memory.recall(container, IDENTIFIER)
        if not number:
            code, said = await self._execute(container, ["pg_controldata"], {"LC_ALL": "C"})
            number = _value_of("Database system identifier", said)
            if code != 0 or not number:
                return None
            self.memory.note(container, IDENTIFIER, number)
        return ServerIdentity(
            system_identifier=int(number), data_directory=container.data_directory
        )

    async def comments(self, service: Service, *, timeout: float) -> Mapping[str, str]:
        """Read the databases' comments inside the container, where no password is needed.

        Args:
            timeout: Seconds the server may take to start.

        Raises:
            Refused: If they cannot be read.
            ContainerDown: If the container does not run.
        """
        deadline = time.monotonic() + timeout
        while True:
            container = await self.alive(service, anew=True)
            user = container.variables.get("POSTGRES_USER") or "postgres"
            psql = ["psql", "-XAt", "--field-separator-zero", "--record-separator-zero", "-U", user]
            command = [*psql, "-d", MAINTENANCE_DATABASES[0], "-c", databases.COMMENTS]
            # Asked before: it may become ready between the two questions.
            was_starting = await self._is_starting(container)
            code, said = await self._execute(container, command, {})
            if code == 0:
                cells = said.split("\0")
                return dict(zip(cells[::2], cells[1::2], strict=False))
            if time.monotonic() > deadline or not was_starting:
                raise Refused(
                    f"{service.name}: whose databases are in the container {container.name} "
                    f"cannot be read: {said.strip()}",
                    code="container-unreadable",
                    hint=f"If they may go, remove them by hand: {_by_hand(container)}.",
                )
            await asyncio.sleep(POLL_INTERVAL)

    async def init_scripts(self, container: ContainerState) -> str:
        """Return a fingerprint of what fills a new volume; empty if nothing does.

        Raises:
            ServerError: If that cannot be told.
        """
        mounted = any(mount.path.is_relative_to(INIT_DIRECTORY) for mount in container.mounts)
        known = self.memory.recall(container, INIT_SCRIPTS)
        if known is not None and not mounted:
            return str(known)
        code, said = await self._execute(container, ["sh", "-c", LIST_SCRIPTS], {})
        if code != 0:
            raise ServerError(
                f"{container.name} has unreadable scripts in {INIT_DIRECTORY}: {said.strip()}",
                code="init-scripts-unreadable",
                hint="Make them readable for the container.",
            )
        digest = hashlib.sha256("\n".join(sorted(said.splitlines())).encode())
        for mount in container.mounts:
            # The container goes on seeing the file it was started with if an editor replaces it.
            if mount.path.is_relative_to(INIT_DIRECTORY) and mount.source.is_file():
                digest.update(await asyncio.to_thread(mount.source.read_bytes))
        fingerprint = digest.hexdigest()[:16] if said else ""
        # What lies on this machine may be edited at any time; what came with the image stays.
        if not mounted:
            self.memory.note(container, INIT_SCRIPTS, fingerprint)
        return fingerprint

    async def is_interrupted_initdb(self, container: ContainerState) -> bool:
        """Whether a container was ended while `initdb` filled its empty volume.

        The image takes what is left there for data, and no server can start on it.
        """
        if container.runs or container.status == "paused":
            return False
        head = await asyncio.to_thread(self.engine.log_head, container)
        return INITDB_BEGUN in head and INITDB_DONE not in head

    async def remove(self, service: Service, container: ContainerState) -> None:
        """Remove a container with its data.

        Raises:
            ServerError: If the data is not only the container's; nothing is removed then.
        """
        await asyncio.to_thread(self._remove, service, container)

    def _remove(self, service: Service, container: ContainerState) -> None:
        data = container.data_mount
        if directory := container.host_directory:
            raise ServerError(
                f"{service.name}: the data of {container.name} is in the directory {directory} and "
                "not in a volume; it was not removed.",
                code="data-in-directory",
                hint=empty_directory(container, directory),
            )
        if data:
            self.engine.require_removable(data.volume, self.project, container)
        self.engine.remove_container(container)
        if data:
            self.engine.remove_volume(data.volume)

    async def _is_starting(self, container: ContainerState) -> bool:
        code, _ = await self._execute(container, ["pg_isready", "--quiet"], {})
        return code in NOT_YET

    async def _execute(
        self, container: ContainerState, command: Sequence[str], environment: Mapping[str, str]
    ) -> tuple[int, str]:
        return await asyncio.to_thread(self.engine.execute, container, command, environment)


def _is_same(one: str, other: Path) -> bool:
    # Compose does not resolve links, so one directory may have two names.
    return Path(one).resolve() == other


def _value_of(label: str, lines: str) -> str:
    pairs = (line.partition(":") for line in lines.splitlines())
    return next((value.strip() for name, _, value in pairs if name == label), "")


def empty_directory(container: ContainerState, directory: Path) -> str:
    """Return what to do if the data in a directory of this machine may go."""
    return (
        f"If that data may go: 1. `docker rm --force {container.name}` 2. delete the content of "
        f"{directory} 3. `invoke db.reset`."
    )


def if_damaged(container: ContainerState) -> str:
    """Return what to do if a server cannot start on its data."""
    if directory := container.host_directory:
        return empty_directory(container, directory)
    by_hand = _by_hand(container)
    return f"If its data is damaged and may go: {by_hand}, then `invoke db.reset`."


def _by_hand(container: ContainerState) -> str:
    """Return the commands that remove a container and its data."""
    data = container.data_mount
    volume = f" and `docker volume rm {data.volume}`" if data and data.volume else ""
    return f"`docker rm --force --volumes {container.name}`{volume}"
