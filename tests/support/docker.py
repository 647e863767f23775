"""Monorepos whose databases are containers, on the machine's own Docker Engine.

Each has a compose project of its own. What is removed at the end is what carries that project's
label, and nothing else.
"""

import json
import shutil
import subprocess
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import docker
import psycopg
import requests
from docker.models.containers import Container

from tests.support.monorepo import (
    Monorepo,
    clean_environment,
    empty_monorepo,
    free_ports,
    wait_until,
)

IMAGE = "postgres:15"
COMPOSE_FILE = "docker-compose.yml"
DATA = "/var/lib/postgresql/data"
SCRIPTS = "/docker-entrypoint-initdb.d"
PROJECT = "com.docker.compose.project"
SERVICE = "com.docker.compose.service"
# Containers without data that end immediately.
IDLE = {
    "image": IMAGE,
    "command": ["sleep", "infinity"],
    "stop_signal": "SIGKILL",
    "tmpfs": [DATA],
}


def engine() -> docker.DockerClient:
    """Connect to the machine's engine."""
    return docker.from_env()


def pause(container: Container) -> None:
    """Pause a container; a busy machine may refuse, as its processes do not freeze in time."""

    def is_paused() -> bool:
        try:
            container.pause()
        except docker.errors.APIError as error:
            if "unable to freeze" not in str(error):
                raise
            return False
        return True

    wait_until(is_paused)


def why_no_docker() -> str:
    """Return why the tests cannot run here; empty if they can."""
    if not shutil.which("docker"):
        return "there is no `docker` on PATH"
    try:
        engine().images.get(IMAGE)
    except docker.errors.ImageNotFound:
        return f"the image {IMAGE} is not on this machine: `docker pull {IMAGE}`"
    except (docker.errors.DockerException, requests.RequestException) as error:
        return f"no Docker Engine answers: {error}"
    compose = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    return "" if compose.returncode == 0 else "there is no Compose v2"


def database_service(port: int, database: str, volume: str, **stated: Any) -> dict[str, Any]:
    """Return a usual compose service, configured to start quickly."""
    return {
        "image": IMAGE,
        "command": ["postgres", "-c", "fsync=off"],
        "environment": {
            "POSTGRES_USER": "${HULEEDU_DB_USER}",
            "POSTGRES_PASSWORD": "${HULEEDU_DB_PASSWORD}",
            "POSTGRES_DB": database,
            "POSTGRES_INITDB_ARGS": "--no-sync",
        },
        "ports": [f"127.0.0.1:{port}:5432"],
        "volumes": [f"{volume}:{DATA}"],
        **stated,
    }


@dataclass
class Docked(Monorepo):
    """A monorepo with a compose file, and containers of its own project."""

    project: str = ""
    defined: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add_database(self, name: str, *, mounts: Sequence[str] = (), **stated: Any) -> None:
        """Add a service with its database to registry and compose file.

        Args:
            mounts: Further volumes of the container.
            stated: Keys of the compose service that are not the usual ones.
        """
        (port,) = free_ports(1)
        self.add_service(name, port)
        made = database_service(port, f"huleedu_{name}", f"{name}_db_data", **stated)
        made["volumes"] += mounts
        self.define(**{f"{name}_db": made})

    def define(self, **services: Mapping[str, Any] | None) -> None:
        """Write services to the compose file, or change those that are there; None removes one."""
        for name, stated in services.items():
            merged = {**self.defined.get(name, {}), **(stated or {})}
            self.defined[name] = {key: value for key, value in merged.items() if value is not None}
            if stated is None:
                del self.defined[name]
        self.write_compose(self.defined)

    def write_compose(
        self, services: Mapping[str, Any], path: str = COMPOSE_FILE, **more: Any
    ) -> None:
        """Write a compose file; JSON is YAML too."""
        mounts = [mount for service in services.values() for mount in service.get("volumes", ())]
        sources = [mount.partition(":")[0] for mount in mounts]
        volumes: dict[str, None] = {source: None for source in sources if source[0] not in "./"}
        self.write(path, json.dumps({"services": services, "volumes": volumes, **more}, indent=2))

    def compose(self, *arguments: str, **variables: str) -> str:
        """Run plain `docker compose` as a user would; return its output."""
        done = subprocess.run(
            ["docker", "compose", *arguments],
            cwd=self.root,
            env={**clean_environment(), **self.environment, **variables},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def containers(self) -> dict[str, Container]:
        """Return the project's containers by compose service, running or not."""
        found = engine().containers.list(
            all=True, filters={"label": f"{PROJECT}={self.project}"}, ignore_removed=True
        )
        return {container.labels[SERVICE]: container for container in found}

    def container(self, service: str) -> Container:
        return self.containers()[service]

    def up(self, *services: str) -> None:
        """Start services with plain Compose, and wait until their databases answer."""
        self.compose("up", "--detach", *services)
        for name, container in self.containers().items():
            if name.endswith("_db"):
                wait_until(lambda found=container: is_ready(found))

    def running(self) -> set[str]:
        """Return the compose services that run."""
        found = self.containers().items()
        return {name for name, container in found if container.status == "running"}

    def lives(self) -> dict[str, tuple[str, str]]:
        """Return each container's id and the time it was started, which no reset may change."""
        return {
            name: (container.id, container.attrs["State"]["StartedAt"])
            for name, container in self.containers().items()
        }

    def volumes(self) -> set[str]:
        """Return the names of the project's volumes."""
        found = engine().volumes.list(filters={"label": f"{PROJECT}={self.project}"})
        return {volume.name for volume in found}

    def birth(self, service: str) -> str:
        """Return the identity of a service's data directory, which a recreation changes."""
        return inside(self.container(service), "stat", "--format", "%i %w", f"{DATA}/PG_VERSION")

    def remove(self) -> None:
        """Remove everything that has the project's label."""
        client = engine()
        label = {"label": f"{PROJECT}={self.project}"}
        for container in client.containers.list(all=True, filters=label, ignore_removed=True):
            container.remove(v=True, force=True)
        for volume in client.volumes.list(filters=label):
            volume.remove()
        for network in client.networks.list(filters=label):
            network.remove()


@contextmanager
def new_docked(*names: str, **stated: Any) -> Iterator[Docked]:
    """Make a monorepo with databases in containers; remove all of it at the end.

    Args:
        names: Its services, each with a database.
        stated: As `Docked.add_database`.
    """
    project = f"huleedu-test-{uuid.uuid4().hex[:12]}"
    with empty_monorepo() as plain:
        variables = {"HULEEDU_PROVIDER": "docker", "COMPOSE_PROJECT_NAME": project}
        made = Docked(
            root=plain.root,
            state=plain.state,
            environment={**plain.environment, **variables},
            project=project,
        )
        try:
            for name in names:
                made.add_database(name, **stated)
            yield made
        finally:
            made.remove()


def is_ready(container: Container) -> bool:
    """Whether a container's server answers over TCP, which the image's temporary one does not."""
    (published,) = container.ports["5432/tcp"]
    address = f"host={published['HostIp'].strip('[]')} port={published['HostPort']}"
    return psycopg.pq.PGconn.ping(address.encode()) == psycopg.pq.Ping.OK


def inside(container: Container, *command: str) -> str:
    """Run a command in a container, and return its output."""
    code, output = container.exec_run(list(command))
    text: str = output.decode()
    assert code == 0, text
    return text
