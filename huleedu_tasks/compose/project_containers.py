"""The database containers of one compose project: their state, owner, server and data."""

import asyncio
import hashlib
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from huleedu_tasks.compose.container_facts import ContainerFacts
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
# Keys of the cached facts about a container.
IDENTIFIER = "system identifier"
INIT_SCRIPTS = "init scripts"
# Exit codes of `pg_isready`: the server rejects connections, or does not answer.
NOT_YET = (1, 2)


class ContainerDown(HuleEduError):
    """A container does not run, or was restarted; trying again does not help."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectContainers:
    """The containers that Compose created for a project.

    Attributes:
        project: The name of the compose project.
        directory: The project directory of this checkout.
    """

    engine: Engine
    project: str
    directory: Path
    facts: ContainerFacts
    _running: dict[str, ContainerState] = field(default_factory=dict)

    async def look(self) -> list[ContainerState]:
        """Return all containers of the project, in one request to the engine.

        Running ones are kept for this command, until `forget` or `refresh`.
        """
        found = await asyncio.to_thread(self.engine.containers, self.project)
        self._running.clear()
        self._running.update({state.service: state for state in found if state.runs})
        return found

    def forget(self, names: Iterable[str]) -> None:
        """Ask the engine again the next time for the containers of these compose services."""
        for name in names:
            self._running.pop(name, None)

    async def find(self, service: Service, *, refresh: bool = False) -> ContainerState | None:
        """Return a service's container; None if there is none.

        Args:
            refresh: Whether to ask the engine even if the container's state is known.

        Raises:
            Refused: If it belongs to another checkout.
        """
        if refresh:
            self.forget([service.compose_service])
        found = self._running.get(service.compose_service) or await asyncio.to_thread(
            self.engine.container, self.project, service.compose_service
        )
        if found and found.directory and not _is_same(found.directory, self.directory):
            raise Refused(
                f"{service.name}: the container {found.name} belongs to the checkout "
                f"{found.directory}, not to {self.directory}.",
                code="checkout-conflict",
                hint="Set COMPOSE_PROJECT_NAME in one of the two checkouts, which have the same "
                "project name; or work in the other one.",
            )
        return found

    async def own(self, service: Service, *, refresh: bool = False) -> ContainerState:
        """Return a service's container, which must belong to this checkout.

        Args:
            refresh: As in `find`.

        Raises:
            Refused: If it is missing, belongs to another checkout, or does not publish the port.
        """
        container = await self.find(service, refresh=refresh)
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
                hint="Run `invoke db.up`, which applies the compose file, or state the same port "
                "in compose file and registry.",
            )
        return container

    async def alive(self, service: Service, *, refresh: bool = False) -> ContainerState:
        """Return a service's container, which must run.

        Args:
            refresh: As in `find`.

        Raises:
            Refused: As of `own`.
            ContainerDown: If it does not run, with its last log lines.
        """
        container = await self.own(service, refresh=refresh)
        if container.status == "paused":
            raise ContainerDown(
                f"The container {container.name} is paused.",
                code="container-paused",
                hint=f"Run `docker unpause {container.name}`.",
            )
        if not container.runs:
            raise ContainerDown(
                f"The container {container.name} is {container.status} (exit code "
                f"{container.exit_code}).",
                code="container-stopped",
                output=await self.log_tail(container),
                hint=f"Correct the cause in its last log lines. {if_damaged(container)}",
            )
        return container

    async def log_tail(self, container: ContainerState, *, of_last_start: bool = True) -> str:
        """Return a container's last log lines, or the last ones before its last start."""
        before = None if of_last_start else container.started.timestamp()
        return await asyncio.to_thread(self.engine.log_tail, container, LOG_LINES, before=before)

    async def identity(self, container: ContainerState) -> ServerIdentity | None:
        """Read the server's identity from the data in the container; None if it cannot be read."""
        number = self.facts.recall(container, IDENTIFIER)
        if not number:
            code, output = await self._execute(container, ["pg_controldata"], {"LC_ALL": "C"})
            number = _value_of("Database system identifier", output)
            if code != 0 or not number:
                return None
            self.facts.note(container, IDENTIFIER, number)
        return ServerIdentity(
            system_identifier=int(number), data_directory=container.data_directory
        )

    def note_filled(self, container: ContainerState, identifier: int) -> None:
        """Note what is known of a container whose volume a helper container has filled.

        Args:
            identifier: The system identifier that was written to the volume.
        """
        if self.facts.recall(container, IDENTIFIER) is None:
            self.facts.note(container, IDENTIFIER, str(identifier))
            # Only a container without init scripts gets such a volume.
            self.facts.note(container, INIT_SCRIPTS, "")

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
            container = await self.alive(service, refresh=True)
            user = container.variables.get("POSTGRES_USER") or "postgres"
            psql = ["psql", "-XAt", "--field-separator-zero", "--record-separator-zero", "-U", user]
            command = [*psql, "-d", MAINTENANCE_DATABASES[0], "-c", databases.COMMENTS]
            # Before `psql`: the server may become ready between the two commands.
            was_starting = await self._is_starting(container)
            code, output = await self._execute(container, command, {})
            if code == 0:
                cells = output.split("\0")
                return dict(zip(cells[::2], cells[1::2], strict=False))
            if time.monotonic() > deadline or not was_starting:
                raise Refused(
                    f"{service.name}: the databases in the container {container.name} could not be "
                    f"listed: {output.strip()}",
                    code="container-unreadable",
                    hint="If you do not need the data, remove the container and its volume: "
                    f"{_removal_commands(container)}.",
                )
            await asyncio.sleep(POLL_INTERVAL)

    async def init_scripts(self, container: ContainerState) -> str:
        """Return a fingerprint of the scripts that run on a new volume; empty if there are none.

        Raises:
            ServerError: If they cannot be read.
        """
        mounted = any(mount.path.is_relative_to(INIT_DIRECTORY) for mount in container.mounts)
        known = self.facts.recall(container, INIT_SCRIPTS)
        if known is not None and not mounted:
            return str(known)
        code, output = await self._execute(container, ["sh", "-c", LIST_SCRIPTS], {})
        if code != 0:
            raise ServerError(
                f"{container.name} has unreadable scripts in {INIT_DIRECTORY}: {output.strip()}",
                code="init-scripts-unreadable",
                hint="Make them readable for all users: `chmod a+r`.",
            )
        digest = hashlib.sha256("\n".join(sorted(output.splitlines())).encode())
        for mount in container.mounts:
            # If an editor replaces the file, the container still has the old one mounted.
            if mount.path.is_relative_to(INIT_DIRECTORY) and mount.source.is_file():
                digest.update(await asyncio.to_thread(mount.source.read_bytes))
        fingerprint = digest.hexdigest()[:16] if output else ""
        # Files of this machine may be edited at any time; those of the image do not change.
        if not mounted:
            self.facts.note(container, INIT_SCRIPTS, fingerprint)
        return fingerprint

    async def is_interrupted_initdb(self, container: ContainerState) -> bool:
        """Whether a container was stopped while `initdb` filled its empty volume.

        The image does not run initdb again, and no server can start on such a volume.
        """
        if container.runs or container.status == "paused":
            return False
        head = await asyncio.to_thread(self.engine.log_head, container)
        return INITDB_BEGUN in head and INITDB_DONE not in head

    async def remove(self, service: Service, container: ContainerState) -> None:
        """Remove a container with its data.

        Raises:
            ServerError: If its data is in a host directory, or in a volume that is external or in
                use. Nothing is removed then.
        """
        await asyncio.to_thread(self._remove, service, container)

    def _remove(self, service: Service, container: ContainerState) -> None:
        data = container.data_mount
        if directory := container.host_directory:
            raise ServerError(
                f"{service.name}: the data of {container.name} is in the directory {directory} and "
                "not in a volume. Nothing was removed.",
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
    # Compose does not resolve symbolic links.
    return Path(one).resolve() == other


def _value_of(label: str, lines: str) -> str:
    pairs = (line.partition(":") for line in lines.splitlines())
    return next((value.strip() for name, _, value in pairs if name == label), "")


def empty_directory(container: ContainerState, directory: Path) -> str:
    """Return the steps that delete a container and its data in a host directory."""
    return (
        f"If you do not need that data: 1. `docker rm --force {container.name}` "
        f"2. delete the content of {directory} 3. `invoke db.reset`."
    )


def if_damaged(container: ContainerState) -> str:
    """Return the steps for a container whose server cannot start on its data."""
    if directory := container.host_directory:
        return empty_directory(container, directory)
    commands = _removal_commands(container)
    return f"If its data is damaged and you do not need it: {commands}, then `invoke db.reset`."


def _removal_commands(container: ContainerState) -> str:
    """Return the commands that remove a container and its data."""
    data = container.data_mount
    volume = f" and `docker volume rm {data.volume}`" if data and data.volume else ""
    return f"`docker rm --force --volumes {container.name}`{volume}"
