"""The Docker Engine, for what Compose does not answer; the only user of the Docker SDK.

Containers and volumes are found by the labels Compose gives them, never by their names: another
project may have chosen the same ones.
"""

import grp
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huleedu_tasks.errors import ServerError

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container

TIMEOUT = 30
SOCKET = "unix://"
PROJECT_LABEL = "com.docker.compose.project"
SERVICE_LABEL = "com.docker.compose.service"
DIRECTORY_LABEL = "com.docker.compose.project.working_dir"
ONE_OFF_LABEL = "com.docker.compose.oneoff"
USE_EMBEDDED = "HULEEDU_PROVIDER=embedded works without Docker."


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerState:
    """A container as it is now.

    Attributes:
        status: As the engine names it: `running`, `paused`, `exited`, `restarting` and so on.
        directory: The project directory it was made from.
        published: The host's addresses and ports that lead to PostgreSQL's.
        variables: Its environment.
    """

    id: str
    name: str
    status: str
    exit_code: int
    directory: str
    published: tuple[tuple[str, int], ...]
    variables: Mapping[str, str]

    @property
    def data_directory(self) -> str:
        """Where PostgreSQL's data lies in it (the image's PGDATA)."""
        return self.variables.get("PGDATA", "/var/lib/postgresql/data")

    def publishes(self, port: int) -> bool:
        """Whether a port of this machine leads to PostgreSQL's in the container."""
        return any(number == port for _, number in self.published)


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """A local Docker Engine that answers."""

    host: str
    client: "DockerClient"

    @classmethod
    def connect(cls, environment: Mapping[str, str]) -> "Engine":
        """Connect to the engine that the `docker` command would use.

        Raises:
            ServerError: If none answers, if we may not use it, or if it is not on this machine:
                what it publishes is not at localhost then.
        """
        host = engine_host(environment)
        if not host.startswith(SOCKET):
            raise ServerError(
                f"The Docker Engine at {host} is not on this machine.",
                hint="Unset DOCKER_HOST or change the context (`docker context use default`). "
                + USE_EMBEDDED,
            )
        _check_socket(Path(host.removeprefix(SOCKET)))
        import docker

        with _engine_errors():
            client = docker.DockerClient(base_url=host, timeout=TIMEOUT)
            client.ping()
        return cls(host=host, client=client)

    def container(self, project: str, service: str) -> ContainerState | None:
        """Return the container of a compose service, or None."""
        labels = [f"{PROJECT_LABEL}={project}", f"{SERVICE_LABEL}={service}"]
        with _engine_errors():
            found = self.client.containers.list(
                all=True, filters={"label": [*labels, f"{ONE_OFF_LABEL}=False"]}
            )
        return _state(found[0]) if found else None

    def publisher(self, port: int) -> ContainerState | None:
        """Return the running container, of whatever project, that publishes a port."""
        with _engine_errors():
            found = self.client.containers.list(filters={"publish": str(port)})
        return _state(found[0]) if found else None

    def named(self, name: str) -> ContainerState | None:
        """Return the container of that name, of whatever project."""
        import docker

        with _engine_errors():
            try:
                return _state(self.client.containers.get(name))
            except docker.errors.NotFound:
                return None

    def execute(
        self, container: ContainerState, command: Sequence[str], environment: Mapping[str, str]
    ) -> tuple[int, str]:
        """Run a command in a container; return its exit code and what it printed."""
        with _engine_errors():
            done = self.client.containers.get(container.id).exec_run(
                list(command), environment=dict(environment)
            )
        return done.exit_code, done.output.decode(errors="replace")

    def log_tail(self, container: ContainerState, lines: int) -> str:
        """Return a container's last log lines."""
        with _engine_errors():
            text: bytes = self.client.containers.get(container.id).logs(tail=lines)
        return text.decode(errors="replace")

    def has_volume(self, name: str) -> bool:
        """Whether the engine has a volume of that name."""
        import docker

        with _engine_errors():
            try:
                self.client.volumes.get(name)
            except docker.errors.NotFound:
                return False
        return True

    def remove_volume(self, name: str, project: str) -> None:
        """Remove a volume that Compose made for this project; do nothing if there is none.

        Raises:
            ServerError: If it belongs to somebody else.
        """
        import docker

        with _engine_errors():
            try:
                volume = self.client.volumes.get(name)
            except docker.errors.NotFound:
                return
            labels = volume.attrs.get("Labels") or {}
            if labels.get(PROJECT_LABEL) != project:
                raise ServerError(
                    f"The volume {name} was not made by Compose for the project {project!r}.",
                    hint="It was left alone. If it may go: `docker volume rm " + name + "`.",
                )
            volume.remove()


def engine_host(environment: Mapping[str, str]) -> str:
    """Return the engine's address, as the `docker` command finds it.

    DOCKER_HOST comes first, then DOCKER_CONTEXT, then the current context, then the usual socket.
    """
    if stated := environment.get("DOCKER_HOST"):
        return stated
    from docker.context import ContextAPI
    from docker.context.config import get_current_context_name

    name = environment.get("DOCKER_CONTEXT") or get_current_context_name()
    context = ContextAPI.get_context(name)
    if context is None:
        raise ServerError(f"There is no Docker context {name!r}.", hint="See `docker context ls`.")
    # `http+unix` is the SDK's own name for a socket.
    return str(context.Host).replace("http+unix://", SOCKET)


def _check_socket(path: Path) -> None:
    if not path.exists():
        raise ServerError(
            f"No Docker Engine answers: there is no socket {path}.",
            hint=f"Start Docker. {USE_EMBEDDED}",
        )
    if not os.access(path, os.R_OK | os.W_OK):
        raise ServerError(
            f"The Docker Engine's socket {path} may not be used by this account.",
            hint=f"It belongs to the group {_group(path)!r}: `sudo usermod -aG {_group(path)} "
            f"$USER`, then log in again. {USE_EMBEDDED}",
        )


def _group(path: Path) -> str:
    number = path.stat().st_gid
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


@contextmanager
def _engine_errors() -> Iterator[None]:
    import docker
    import requests

    try:
        yield
    except (docker.errors.DockerException, requests.RequestException) as error:
        raise ServerError(
            f"The Docker Engine failed: {error}",
            hint="See whether it still runs: `docker info`.",
        ) from error


def _state(container: "Container") -> ContainerState:
    attributes: dict[str, Any] = container.attrs
    ports = (attributes.get("NetworkSettings") or {}).get("Ports") or {}
    configuration = attributes.get("Config") or {}
    pairs = (text.partition("=") for text in configuration.get("Env") or ())
    return ContainerState(
        id=container.id or "",
        name=container.name or "",
        status=attributes["State"]["Status"],
        exit_code=attributes["State"]["ExitCode"],
        directory=(configuration.get("Labels") or {}).get(DIRECTORY_LABEL, ""),
        published=tuple(
            (binding["HostIp"], int(binding["HostPort"])) for binding in ports.get("5432/tcp") or ()
        ),
        variables={name: value for name, _, value in pairs},
    )
