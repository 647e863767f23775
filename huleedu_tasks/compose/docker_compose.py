"""The command line of Docker Compose: the resolved configuration, `up` and `stop`.

Compose itself chooses the files and the project name, and interpolates variables.
"""

import asyncio
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huleedu_tasks import process
from huleedu_tasks.compose.docker_failures import explain_command, explain_config
from huleedu_tasks.compose.engine import USE_EMBEDDED
from huleedu_tasks.errors import ConfigurationError, ServerError

CONFIG_TIMEOUT = 60.0
# Pulling an image may take long; the engine limits everything else.
UP_TIMEOUT = 1800.0
# The default names of the compose file, in the root or a directory above (Compose specification,
# "Compose file").
DEFAULT_FILES = ("compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml")
# The default names of the file that is merged with it; the first that exists is.
OVERRIDE_FILES = (
    "compose.override.yml",
    "compose.override.yaml",
    "docker-compose.override.yml",
    "docker-compose.override.yaml",
)


def printed_document(output: str) -> Any:
    """Return the JSON document in the output of Compose, which may begin with warnings.

    Raises:
        ValueError: If it has none.
    """
    warnings = re.match(r"(?:(?!\{).*\n)*", output)
    document, _ = json.JSONDecoder().raw_decode(output, warnings.end() if warnings else 0)
    return document


def port_line(files: Sequence[Path], service: str) -> str:
    """Return the file and line of a service's key `ports`; empty if it is not found."""
    name = rf"[\"']?{re.escape(service)}[\"']?"
    # Lines indented deeper than the service's name, up to the key `ports` of the service itself.
    pattern = rf"^( +){name}:.*\n(?:(?:\1 +.*| *(?:#.*)?)\n)*?\1 +[\"']?ports[\"']?:"
    for file in reversed(files):
        content = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
        if found := re.search(pattern, content, re.MULTILINE):
            return f"{file.name}, line {content.count(chr(10), 0, found.end()) + 1}"
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """The compose configuration that Compose has resolved.

    Attributes:
        name: The name of the compose project.
        services: The image, ports and volumes of each service, by its name; without its variables.
        hashes: Compose's hash of each service's configuration; empty if this version of Compose
            prints none. Compose labels containers with it, and recreates one whose label differs.
    """

    name: str
    services: Mapping[str, Mapping[str, object]]
    hashes: Mapping[str, str]

    def published_ports(self, service: str, target: int) -> list[str]:
        """Return the host's ports or port ranges that are mapped to a container's port."""
        ports = self.services[service].get("ports")
        return [
            str(port["published"])
            for port in (ports if isinstance(ports, list) else [])
            if port.get("target") == target and port.get("published")
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compose:
    """Compose in one monorepo.

    Attributes:
        root: The working directory.
        files: The compose files; empty for those of COMPOSE_FILE, else Compose's default.
        environment: The variables to interpolate.
    """

    root: Path
    files: tuple[Path, ...]
    environment: Mapping[str, str]

    @classmethod
    def create(
        cls, root: Path, files: tuple[Path, ...], environment: Mapping[str, str]
    ) -> "Compose":
        """Require a compose file and the command `docker`.

        Raises:
            ConfigurationError: If no compose file is found.
            ServerError: If `docker` is not on PATH.
        """
        compose = cls(root=root, files=files, environment=environment)
        if compose.first_file is None:
            raise ConfigurationError(
                f"No compose file was found in {root}.",
                code="compose-file-missing",
                hint=f"State 'compose_files' in the registry, or set COMPOSE_FILE. {USE_EMBEDDED}",
            )
        if not shutil.which("docker", path=environment.get("PATH")):
            raise ServerError(
                "The command `docker` is not on PATH.",
                code="docker-missing",
                hint=f"Install Docker's command line and Compose v2. {USE_EMBEDDED}",
            )
        return compose

    @property
    def first_file(self) -> Path | None:
        """The first compose file; None if none is named or found. A named one may not exist."""
        if self.named_files:
            return self.named_files[0]
        directories = (self.root, *self.root.parents)
        found = (directory / name for directory in directories for name in DEFAULT_FILES)
        return next((path for path in found if path.is_file()), None)

    @property
    def possible_files(self) -> list[Path]:
        """Every compose file that Compose reads, and those that it would read if they existed."""
        names = (*DEFAULT_FILES, *OVERRIDE_FILES)
        return self.named_files or [self.directory / name for name in names]

    @property
    def named_files(self) -> list[Path]:
        """The files of the registry, else those of COMPOSE_FILE; empty if neither names one."""
        if self.files:
            return [*self.files]
        stated = self.environment.get("COMPOSE_FILE")
        separator = self.environment.get("COMPOSE_PATH_SEPARATOR") or os.pathsep
        return [self.root / name for name in stated.split(separator) if name] if stated else []

    @property
    def directory(self) -> Path:
        """The project directory: that of the first compose file."""
        return (self.first_file or self.root / DEFAULT_FILES[0]).parent.resolve()

    def command(self, *arguments: str) -> list[str]:
        """Return the command line that runs Compose, with services of all profiles."""
        files = [argument for file in self.files for argument in ("-f", str(file))]
        return ["docker", "compose", "--ansi", "never", "--profile", "*", *files, *arguments]

    async def project(self) -> Project:
        """Run Compose and return the resolved configuration.

        Raises:
            ConfigurationError: If a compose file is missing or invalid, or a variable is not set.
            ServerError: If Compose is not installed, or does not end in time.
        """
        done, hashes = await asyncio.gather(self.config(), self._hashes())
        if done.returncode != 0:
            raise explain_config(done.output)
        document = printed_document(done.output)
        services = (document.get("services") or {}).items()
        needed = {
            name: {key: stated.get(key) for key in ("image", "ports", "volumes")}
            for name, stated in services
        }
        return Project(name=document["name"], services=needed, hashes=hashes)

    async def config(self) -> process.Completed:
        """Run `docker compose config`, and return its result, which may be a failure.

        Raises:
            ServerError: If it does not end in time.
        """
        return await self._run("config", "--format", "json", timeout=CONFIG_TIMEOUT)

    async def _hashes(self) -> dict[str, str]:
        done = await self._run("config", "--hash", "*", timeout=CONFIG_TIMEOUT)
        pairs = (line.split() for line in done.output.splitlines())
        return dict(pair for pair in pairs if len(pair) == 2) if done.returncode == 0 else {}

    async def up(self, services: Sequence[str]) -> None:
        """Create and start containers, without the services that they depend on.

        Args:
            services: The compose services, at least one: without any, Compose would start all.

        Raises:
            HuleEduError: If one of them cannot be started, with the output of Compose.
        """
        await self._work("up", "--detach", "--no-deps", *services, timeout=UP_TIMEOUT)

    async def create_containers(self, services: Sequence[str]) -> None:
        """Create containers and their volumes, as `up`, without starting them.

        Raises:
            HuleEduError: As `up`.
        """
        await self._work("up", "--no-start", "--no-deps", *services, timeout=UP_TIMEOUT)

    async def stop(self, services: Sequence[str]) -> None:
        """Stop containers, and keep them and their volumes.

        Raises:
            HuleEduError: If one of them cannot be stopped, with the output of Compose.
        """
        await self._work("stop", *services, timeout=CONFIG_TIMEOUT)

    async def _work(self, *arguments: str, timeout: float) -> None:
        done = await self._run(*arguments, timeout=timeout)
        if done.returncode != 0:
            raise explain_command(done.output)

    async def _run(self, *arguments: str, timeout: float) -> process.Completed:
        done = await process.run(
            self.command(*arguments), cwd=self.root, environment=self.environment, timeout=timeout
        )
        if done.timed_out:
            raise ServerError(
                f"`docker compose {arguments[0]}` did not end in {timeout:g} s.",
                code="compose-timeout",
                hint="Check whether the Docker Engine is overloaded: `docker ps`.",
                output=done.output,
            )
        return done
