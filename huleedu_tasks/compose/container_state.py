"""The state of a container, as the Docker Engine reports it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from huleedu_tasks.config.hosts import THIS_MACHINE

if TYPE_CHECKING:
    from docker.models.containers import Container

RUNNING = "running"
CREATED = "created"
DEFAULT_PGDATA = "/var/lib/postgresql/data"
SERVICE_LABEL = "com.docker.compose.service"
CONFIG_HASH_LABEL = "com.docker.compose.config-hash"
DIRECTORY_LABEL = "com.docker.compose.project.working_dir"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A volume, host directory or tmpfs that is mounted in a container.

    Attributes:
        path: The path in the container.
        volume: The engine's name of the volume; empty if it is not a volume.
        source: The path on this machine; `.` for a tmpfs.
        is_memory: Whether it is a tmpfs, whose content is lost with the container.
    """

    path: PurePosixPath
    volume: str
    source: Path
    is_memory: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerState:
    """A container at the time of the last request to the engine.

    Attributes:
        status: The engine's status: `running`, `paused`, `exited`, `restarting` and so on.
        started: The time of its last start.
        directory: The project directory; empty if Compose did not create the container.
        service: The compose service; empty if Compose did not create the container.
        config_hash: Compose's hash of the service's configuration; empty likewise.
        image: The id of the image that it was created from.
        published: The addresses and ports of the host that are mapped to PostgreSQL's port.
        variables: Its environment variables.
        entrypoint: The program that it starts, with its first arguments.
        command: The arguments behind these.
        user: The account that it starts as; empty for that of the image.
    """

    id: str
    name: str
    status: str
    exit_code: int
    started: datetime
    directory: str
    service: str
    config_hash: str
    image: str
    published: tuple[tuple[str, int], ...]
    variables: Mapping[str, str]
    mounts: tuple[Mount, ...]
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    user: str = ""

    @property
    def data_directory(self) -> str:
        """The data directory in the container (PGDATA), as the server reports it."""
        return str(PurePosixPath(self.variables.get("PGDATA") or DEFAULT_PGDATA))

    @property
    def data_mount(self) -> Mount | None:
        """The mount that has its data; None if the data is lost with the container."""
        data = PurePosixPath(self.data_directory)
        holding = [mount for mount in self.mounts if data.is_relative_to(mount.path)]
        nearest = max(holding, key=lambda mount: len(mount.path.parts), default=None)
        return None if nearest is None or nearest.is_memory else nearest

    @property
    def host_directory(self) -> Path | None:
        """The host directory with its data; None if the data is in a volume or in the container."""
        data = self.data_mount
        return data.source if data and not data.volume else None

    @property
    def runs(self) -> bool:
        """Whether it runs, so that a command can be executed in it."""
        return self.status == RUNNING

    @property
    def is_unstarted(self) -> bool:
        """Whether it was created and never started."""
        return self.status == CREATED

    def publishes(self, port: int) -> bool:
        """Whether a port of localhost is mapped to PostgreSQL's port in the container."""
        return any(host in THIS_MACHINE and number == port for host, number in self.published)


def state_of(container: "Container") -> ContainerState:
    """Return a container's state from the attributes that the SDK has loaded."""
    attributes: dict[str, Any] = container.attrs
    ports = (attributes.get("NetworkSettings") or {}).get("Ports") or {}
    configuration = attributes.get("Config") or {}
    labels = configuration.get("Labels") or {}
    pairs = (assignment.partition("=") for assignment in configuration.get("Env") or ())
    return ContainerState(
        id=container.id or "",
        name=container.name or "",
        status=attributes["State"]["Status"],
        exit_code=attributes["State"]["ExitCode"],
        started=datetime.fromisoformat(attributes["State"]["StartedAt"]),
        directory=labels.get(DIRECTORY_LABEL, ""),
        service=labels.get(SERVICE_LABEL, ""),
        config_hash=labels.get(CONFIG_HASH_LABEL, ""),
        image=attributes.get("Image", ""),
        published=tuple(
            (binding["HostIp"], int(binding["HostPort"])) for binding in ports.get("5432/tcp") or ()
        ),
        variables={name: value for name, _, value in pairs},
        mounts=tuple(_mounts(attributes)),
        entrypoint=tuple(configuration.get("Entrypoint") or ()),
        command=tuple(configuration.get("Cmd") or ()),
        user=configuration.get("User") or "",
    )


def _mounts(attributes: Mapping[str, Any]) -> Iterator[Mount]:
    for mount in attributes.get("Mounts") or ():
        if mount["Type"] in ("volume", "bind", "tmpfs"):
            yield Mount(
                path=PurePosixPath(mount["Destination"]),
                volume=mount.get("Name", "") if mount["Type"] == "volume" else "",
                source=Path(mount.get("Source", "")),
                is_memory=mount["Type"] == "tmpfs",
            )
    # The engine lists a compose file's `tmpfs` separately.
    for path in (attributes.get("HostConfig") or {}).get("Tmpfs") or ():
        yield Mount(path=PurePosixPath(path), volume="", source=Path(), is_memory=True)
