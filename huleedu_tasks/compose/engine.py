"""Requests to the Docker Engine; the only user of the Docker SDK.

Containers and volumes are found by the labels that Compose sets, never by name: another project
may use the same names.
"""

import grp
import os
import re
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huleedu_tasks.compose.container_state import SERVICE_LABEL, ContainerState, state_of
from huleedu_tasks.errors import Refused, ServerError

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.volumes import Volume

TIMEOUT = 30
# Seconds until the exit code of a command in a container is known, and between two requests.
EXIT_TIMEOUT = 5
EXIT_INTERVAL = 0.01
UNKNOWN_EXIT = -1
# The output of `initdb` is within the first bytes of a container's log.
LOG_HEAD = 2**16
# Lines of a log that are searched for the end of an earlier start.
LOG_OF_STARTS = 2000
SOCKET = "unix://"
PROJECT_LABEL = "com.docker.compose.project"
# Docker labels anonymous volumes since 23.0; before, only the name (64 hex digits) shows it.
ANONYMOUS_LABEL = "com.docker.volume.anonymous"
FILES_LABEL = "com.docker.compose.project.config_files"
ONE_OFF_LABEL = "com.docker.compose.oneoff"
HELPER_LABEL = "huleedu-tasks.helper-of"
# Seconds after which a helper container ends that an interrupted command has left.
HELPER_LIFETIME = 300
USE_EMBEDDED = "HULEEDU_PROVIDER=embedded works without Docker."


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """A local Docker Engine that answers."""

    host: str
    client: "DockerClient"

    @classmethod
    def connect(cls, environment: Mapping[str, str]) -> "Engine":
        """Connect to the engine that the `docker` command would use.

        Raises:
            Refused: If it is reached over a network: its ports may not be those of localhost.
            ServerError: If it does not answer, or this account may not use it.
        """
        host = engine_host(environment)
        if not host.startswith(SOCKET):
            raise Refused(
                f"The Docker Engine at {host} is reached over a network; it is not verified "
                "that it runs on this machine.",
                code="docker-remote",
                hint="Unset DOCKER_HOST or change the context (`docker context use default`). "
                + USE_EMBEDDED,
            )
        path = Path(host.removeprefix(SOCKET))
        _check_socket(path)
        return cls(host=host, client=_client(host, path))

    def container(self, project: str, service: str) -> ContainerState | None:
        """Return the container of a compose service; None if there is none."""
        labels = [f"{PROJECT_LABEL}={project}", f"{SERVICE_LABEL}={service}"]
        found = self._list(all=True, filters={"label": [*labels, f"{ONE_OFF_LABEL}=False"]})
        # While Compose recreates a container, the old one exists beside the new one.
        return next((state for state in found if state.runs), found[0] if found else None)

    def containers(self, project: str) -> list[ContainerState]:
        """Return all containers of a compose project, except those of `docker compose run`."""
        labels = [f"{PROJECT_LABEL}={project}", f"{ONE_OFF_LABEL}=False"]
        return self._list(all=True, filters={"label": labels})

    def image(self, name: str) -> str:
        """Return the id of the image of that name; empty if it is not on this machine."""
        import docker

        with _engine_errors():
            try:
                return str(self.client.images.get(name).id)
            except docker.errors.ImageNotFound:
                return ""

    def entrypoint(self, image: str) -> tuple[str, ...]:
        """Return the entry point of an image; empty if it has none."""
        with _engine_errors():
            configuration = self.client.images.get(image).attrs.get("Config") or {}
        return tuple(configuration.get("Entrypoint") or ())

    def publisher(self, port: int) -> ContainerState | None:
        """Return the running container of any project that publishes a port; None if none does."""
        found = self._list(filters={"publish": str(port)})
        return found[0] if found else None

    def users_of(self, volume: str) -> list[ContainerState]:
        """Return the containers of all projects that have a volume mounted."""
        return self._list(all=True, filters={"volume": volume})

    def find_by_name(self, name: str) -> ContainerState | None:
        """Return the container of that name, of any project; None if there is none."""
        import docker

        with _engine_errors():
            try:
                return state_of(self.client.containers.get(name))
            except docker.errors.NotFound:
                return None

    def execute(
        self,
        container: ContainerState,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        user: str = "",
    ) -> tuple[int, str]:
        """Run a command in a container; return its exit code and its output.

        Args:
            user: The account that it runs as; empty for that of the container.

        Raises:
            ServerError: If the container does not run, or the engine fails.
        """
        api = self.client.api
        with _engine_errors():
            created = api.exec_create(
                container.id, list(command), environment=dict(environment), user=user
            )
            output: bytes = api.exec_start(created["Id"])
            # The output ends before the engine has noted the exit code.
            deadline = time.monotonic() + EXIT_TIMEOUT
            state = api.exec_inspect(created["Id"])
            while state["ExitCode"] is None and time.monotonic() < deadline:
                time.sleep(EXIT_INTERVAL)
                state = api.exec_inspect(created["Id"])
        code = state["ExitCode"]
        return UNKNOWN_EXIT if code is None else int(code), output.decode(errors="replace")

    def read_file(self, container: ContainerState, path: str) -> str | None:
        """Return the content of a file in a running container; None if it cannot be read."""
        try:
            code, content = self.execute(container, ["cat", path], {})
        except ServerError:
            return None
        return content if code == 0 else None

    def log_tail(self, container: ContainerState, lines: int, *, before: float | None) -> str:
        """Return a container's last log lines.

        Args:
            before: Time that the lines are older than, in seconds since the epoch; None for now.
        """
        with _engine_errors():
            # The engine counts the lines before it leaves out those that are too new.
            asked = lines if before is None else LOG_OF_STARTS
            tail: bytes = self.client.containers.get(container.id).logs(tail=asked, until=before)
        return "".join(tail.decode(errors="replace").splitlines(keepends=True)[-lines:])

    def log_head(self, container: ContainerState) -> str:
        """Return the beginning of a container's log."""
        head = bytearray()
        with _engine_errors():
            chunks = self.client.containers.get(container.id).logs(stream=True)
            for chunk in chunks:
                head += chunk
                if len(head) > LOG_HEAD:
                    break
            chunks.close()
        return head.decode(errors="replace")

    def remove_container(self, container: ContainerState) -> None:
        """Remove a container, running or not, and its anonymous volumes."""
        import docker

        with _engine_errors(), suppress(docker.errors.NotFound):
            self.client.containers.get(container.id).remove(v=True, force=True)

    @contextmanager
    def helper(
        self,
        project: str,
        image: str,
        variables: Mapping[str, str],
        volumes: Mapping[str, str],
        *,
        memory: str,
    ) -> Iterator[ContainerState]:
        """Run a container without network, as root, in which commands can be executed.

        It removes itself at the end of the `with` block, or after `HELPER_LIFETIME`.

        Args:
            project: The compose project that it works for.
            volumes: The path of each volume in the container.
            memory: The path of a directory in memory.
        """
        with _engine_errors():
            container = self.client.containers.create(
                image,
                entrypoint=["sleep", str(HELPER_LIFETIME)],
                command=[],
                environment=dict(variables),
                volumes={name: {"bind": path, "mode": "rw"} for name, path in volumes.items()},
                tmpfs={memory: ""},
                labels={HELPER_LABEL: project},
                network_mode="none",
                user="0",
                auto_remove=True,
            )
            container.start()
        state = state_of(container)
        try:
            yield state
        finally:
            self.remove_container(state)

    def remove_helpers(self, project: str) -> None:
        """Remove the helper containers that an interrupted command has left."""
        for helper in self._list(all=True, filters={"label": f"{HELPER_LABEL}={project}"}):
            self.remove_container(helper)

    def remove_project(self, project: str, file: Path) -> None:
        """Remove the containers, volumes and networks of a compose project.

        Args:
            project: The name of the compose project.
            file: The compose file that all its containers were created with.

        Raises:
            Refused: If a container was created without it; nothing is removed then.
            ServerError: If the engine fails, for example because another container uses a volume.
        """
        labelled = {"label": f"{PROJECT_LABEL}={project}"}
        with _engine_errors():
            containers = self.client.containers.list(
                all=True, filters=labelled, ignore_removed=True
            )
            for container in containers:
                if str(file) not in container.labels.get(FILES_LABEL, "").split(","):
                    raise Refused(
                        f"The container {container.name} of the compose project {project!r} was "
                        f"not created with {file}; nothing was removed.",
                        code="instance-not-proven",
                        hint="If you do not need it, remove it yourself: `docker rm --force "
                        f"--volumes {container.name}`.",
                    )
            for container in containers:
                container.remove(v=True, force=True)
            for volume in self.client.volumes.list(filters=labelled):
                volume.remove()
            for network in self.client.networks.list(filters=labelled):
                network.remove()

    def volumes(self) -> set[str]:
        """Return the names of all volumes."""
        with _engine_errors():
            return {volume.name for volume in self.client.volumes.list()}

    def require_removable(self, name: str, project: str, container: ContainerState) -> None:
        """Require that a volume, if it exists, belongs to a project and to no other container.

        An anonymous volume belongs to the container that it was created for.

        Args:
            name: The name of the volume.
            project: The name of the compose project.
            container: The container that uses the volume.

        Raises:
            ServerError: If the volume must not be removed.
        """
        volume = self._volume(name)
        if volume is None:
            return
        labels = volume.attrs.get("Labels") or {}
        is_anonymous = ANONYMOUS_LABEL in labels or re.fullmatch(r"[0-9a-f]{64}", name)
        if labels.get(PROJECT_LABEL) != project and not is_anonymous:
            raise ServerError(
                f"The volume {name} was not created by Compose for the project {project!r}, so "
                "it was not removed.",
                code="volume-not-own",
                hint=f"If you do not need its data: 1. `docker rm --force {container.name}` "
                f"2. `docker volume rm {name}` 3. `docker volume create {name}` "
                "4. `invoke db.reset`.",
            )
        others = [user.name for user in self.users_of(name) if user.id != container.id]
        if others:
            raise ServerError(
                f"The volume {name} is also used by the container {', '.join(others)}, so it was "
                "not removed.",
                code="volume-in-use",
                hint=f"Remove that container first: `docker rm {' '.join(others)}`.",
            )

    def owns_volume(self, name: str, project: str) -> bool:
        """Whether Compose created a volume for a project."""
        volume = self._volume(name) if name else None
        labels = (volume.attrs.get("Labels") or {}) if volume else {}
        return labels.get(PROJECT_LABEL) == project

    def remove_volume(self, name: str) -> None:
        """Remove a volume, if it exists."""
        volume = self._volume(name)
        if volume is not None:
            with _engine_errors():
                volume.remove()

    def _volume(self, name: str) -> "Volume | None":
        import docker

        with _engine_errors():
            try:
                return self.client.volumes.get(name)
            except docker.errors.NotFound:
                return None

    def _list(self, **options: Any) -> list[ContainerState]:
        with _engine_errors():
            # A container may be removed between being listed and being inspected.
            found = self.client.containers.list(**options, ignore_removed=True)
        return [state_of(container) for container in found]


def engine_host(environment: Mapping[str, str]) -> str:
    """Return the engine's URL, as the `docker` command finds it.

    In this order: DOCKER_HOST, DOCKER_CONTEXT, the current context, the default socket.

    Raises:
        ServerError: If the context does not exist.
    """
    if stated := environment.get("DOCKER_HOST"):
        return stated
    from docker.context import ContextAPI
    from docker.context.config import get_current_context_name

    name = environment.get("DOCKER_CONTEXT") or get_current_context_name()
    context = ContextAPI.get_context(name)
    if context is None:
        raise ServerError(
            f"The Docker context {name!r} does not exist.",
            code="docker-context-missing",
            hint="Choose one that `docker context ls` lists: `docker context use NAME`.",
        )
    # The SDK writes `http+unix` for a socket.
    return str(context.Host).replace("http+unix://", SOCKET)


def _client(host: str, path: Path) -> "DockerClient":
    import docker
    import requests

    try:
        client = docker.DockerClient(base_url=host, timeout=TIMEOUT)
        client.ping()
    except (docker.errors.DockerException, requests.RequestException) as error:
        raise ServerError(
            f"No Docker Engine answered at {path}: {_reason(error)}.",
            code="docker-unreachable",
            hint=f"Start Docker. {USE_EMBEDDED}",
        ) from error
    return client


def _check_socket(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except PermissionError:
        raise ServerError(
            f"The Docker Engine's socket {path} is in a directory that this account may not enter.",
            code="docker-permission-denied",
            hint=f"Set DOCKER_HOST to an engine that this account may use. {USE_EMBEDDED}",
        ) from None
    except OSError:
        raise ServerError(
            f"No Docker Engine answered: the socket {path} does not exist.",
            code="docker-unreachable",
            hint=f"Start Docker. {USE_EMBEDDED}",
        ) from None
    if not os.access(path, os.R_OK | os.W_OK):
        group = _group(path)
        access = f"is open to the group {group!r}" if mode & stat.S_IWGRP else "is closed"
        join = f"Run `sudo usermod -aG {group} $USER`, then log in again."
        raise ServerError(
            f"The Docker Engine's socket {path} {access}, and this account has no access.",
            code="docker-permission-denied",
            hint=f"{join if mode & stat.S_IWGRP else f'Check its permissions: `ls -l {path}`.'} "
            f"{USE_EMBEDDED}",
        )


def _group(path: Path) -> str:
    gid = path.stat().st_gid
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


@contextmanager
def _engine_errors() -> Iterator[None]:
    import docker
    import requests

    try:
        yield
    except (docker.errors.DockerException, requests.RequestException) as error:
        raise ServerError(
            f"The Docker Engine failed: {_reason(error)}.",
            code="docker-failed",
            hint="Check whether it still runs: `docker info`.",
        ) from error


def _reason(error: BaseException) -> str:
    """Return the engine's explanation; the system's error if the engine did not answer."""
    if explanation := getattr(error, "explanation", None):
        return str(explanation)
    while error.__context__:
        error = error.__context__
    return getattr(error, "strerror", None) or str(error)
