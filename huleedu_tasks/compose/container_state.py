"""A container as the Docker Engine tells of it, in the words the tasks ask about."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from docker.models.containers import Container

RUNNING = "running"
DEFAULT_PGDATA = "/var/lib/postgresql/data"
SERVICE_LABEL = "com.docker.compose.service"
CONFIG_HASH_LABEL = "com.docker.compose.config-hash"
DIRECTORY_LABEL = "com.docker.compose.project.working_dir"
# Where the container must publish PostgreSQL, to be at localhost.
LOCAL_ADDRESSES = ("127.0.0.1", "::1", "0.0.0.0", "::", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """What a container sees at a path.

    Attributes:
        volume: The engine's name of the volume; empty if it is none.
        source: Where it comes from on this machine.
        is_memory: Whether it is a tmpfs, whose content goes with the container.
    """

    path: PurePosixPath
    volume: str
    source: Path
    is_memory: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerState:
    """A container as it is now.

    Attributes:
        status: As the engine names it: `running`, `paused`, `exited`, `restarting` and so on.
        started: When it was started last.
        directory: The project directory it was made from; empty if Compose did not make it.
        service: The compose service it was made for; empty likewise.
        config_hash: What Compose made of that service's configuration, likewise.
        image: The id of the image it was made from.
        published: The host's addresses and ports that lead to PostgreSQL's.
        variables: Its environment.
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

    @property
    def data_directory(self) -> str:
        """Where PostgreSQL's data lies in it (the image's PGDATA), as the server writes it."""
        return str(PurePosixPath(self.variables.get("PGDATA") or DEFAULT_PGDATA))

    @property
    def data_mount(self) -> Mount | None:
        """What its data lies on; None if it goes with the container."""
        data = PurePosixPath(self.data_directory)
        holding = [mount for mount in self.mounts if data.is_relative_to(mount.path)]
        nearest = max(holding, key=lambda mount: len(mount.path.parts), default=None)
        return None if nearest is None or nearest.is_memory else nearest

    @property
    def host_directory(self) -> Path | None:
        """The directory of this machine that its data is in; None if it is a volume, or none."""
        data = self.data_mount
        return data.source if data and not data.volume else None

    @property
    def runs(self) -> bool:
        """Whether a command can be run in it."""
        return self.status == RUNNING

    def publishes(self, port: int) -> bool:
        """Whether a port of this machine leads to PostgreSQL's in the container."""
        return any(host in LOCAL_ADDRESSES and number == port for host, number in self.published)


def state_of(container: "Container") -> ContainerState:
    """Return a container's state as it was when the SDK has asked last."""
    attributes: dict[str, Any] = container.attrs
    ports = (attributes.get("NetworkSettings") or {}).get("Ports") or {}
    configuration = attributes.get("Config") or {}
    labels = configuration.get("Labels") or {}
    pairs = (text.partition("=") for text in configuration.get("Env") or ())
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
    # What a compose file has as `tmpfs` is listed apart.
    for path in (attributes.get("HostConfig") or {}).get("Tmpfs") or ():
        yield Mount(path=PurePosixPath(path), volume="", source=Path(), is_memory=True)
