"""Docker Compose's command line: the only one who knows what the compose files mean.

Files, project name and interpolation are Compose's own business; here it is asked.
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
# Pulling an image may take long; everything else is bounded by the engine itself.
UP_TIMEOUT = 1800.0
# What Compose looks for, here and in the directories above, if nobody names a file
# (Compose specification, "Compose file").
DEFAULT_FILES = ("compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml")
# What it reads beside such a file, if it is there.
OVERRIDE_FILES = tuple(name.replace(".", ".override.") for name in DEFAULT_FILES)


def printed_document(output: str) -> Any:
    """Return the document that Compose has printed.

    Warnings stand before it, as both streams are read as one.
    """
    warnings = re.match(r"(?:(?!\{).*\n)*", output)
    document, _ = json.JSONDecoder().raw_decode(output, warnings.end() if warnings else 0)
    return document


def port_line(files: Sequence[Path], service: str) -> str:
    """Return the file and line in which a service's ports begin; empty if they are not found."""
    name = rf"[\"']?{re.escape(service)}[\"']?"
    # What stands deeper than the service's name, until the key `ports` of the service itself.
    pattern = rf"^( +){name}:.*\n(?:(?:\1 +.*| *(?:#.*)?)\n)*?\1 +[\"']?ports[\"']?:"
    for file in reversed(files):
        text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
        if found := re.search(pattern, text, re.MULTILINE):
            return f"{file.name}, line {text.count(chr(10), 0, found.end()) + 1}"
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """The compose configuration, as Compose resolves it.

    Attributes:
        services: The image and the ports of each service, by its name; no variable of it.
        hashes: What Compose makes of each service's configuration; nothing if it cannot tell. It
            notes the same on a container, and makes a new one where the two differ.
    """

    name: str
    services: Mapping[str, Mapping[str, object]]
    hashes: Mapping[str, str]

    def published_ports(self, service: str, target: int) -> list[str]:
        """Return the host's ports that lead to a container's port; one may be a range."""
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
        root: The directory it is called in.
        files: The compose files, or none to leave the choice to COMPOSE_FILE and Compose.
        environment: The variables it interpolates.
    """

    root: Path
    files: tuple[Path, ...]
    environment: Mapping[str, str]

    @classmethod
    def create(
        cls, root: Path, files: tuple[Path, ...], environment: Mapping[str, str]
    ) -> "Compose":
        """See that there is something to read, and somebody to read it.

        Raises:
            ConfigurationError: If there is no compose file.
            ServerError: If there is no `docker`.
        """
        compose = cls(root=root, files=files, environment=environment)
        if compose.first_file is None:
            raise ConfigurationError(
                f"There is no compose file in {root}.",
                code="compose-file-missing",
                hint=f"Name it as 'compose_files' in the registry, or in COMPOSE_FILE. "
                f"{USE_EMBEDDED}",
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
        """The first compose file, or None if there is none; one that is named may be missing."""
        if self._named_files:
            return self._named_files[0]
        directories = (self.root, *self.root.parents)
        found = (directory / name for directory in directories for name in DEFAULT_FILES)
        return next((path for path in found if path.is_file()), None)

    @property
    def possible_files(self) -> list[Path]:
        """Every file that Compose reads, and some that it would read if they were there."""
        names = (*DEFAULT_FILES, *OVERRIDE_FILES)
        return self._named_files or [self.directory / name for name in names]

    @property
    def _named_files(self) -> list[Path]:
        if self.files:
            return [*self.files]
        stated = self.environment.get("COMPOSE_FILE")
        separator = self.environment.get("COMPOSE_PATH_SEPARATOR") or os.pathsep
        return [self.root / name for name in stated.split(separator)] if stated else []

    @property
    def directory(self) -> Path:
        """The project directory: where the first file lies."""
        return (self.first_file or self.root / DEFAULT_FILES[0]).parent.resolve()

    def command(self, *arguments: str) -> list[str]:
        """Return the command line that runs Compose; a service is known whatever its profile."""
        files = [text for file in self.files for text in ("-f", str(file))]
        return ["docker", "compose", "--ansi", "never", "--profile", "*", *files, *arguments]

    async def project(self) -> Project:
        """Ask for the resolved configuration.

        Raises:
            ConfigurationError: If the files or a variable are at fault.
            ServerError: If there is no Compose.
        """
        done, hashes = await asyncio.gather(self.config(), self._hashes())
        if done.returncode != 0:
            raise explain_config(done.output)
        document = printed_document(done.output)
        services = (document.get("services") or {}).items()
        needed = {
            name: {key: each.get(key) for key in ("image", "ports")} for name, each in services
        }
        return Project(name=document["name"], services=needed, hashes=hashes)

    async def config(self) -> process.Completed:
        """Ask for the resolved configuration, and return what Compose prints.

        Raises:
            ServerError: If it does not end.
        """
        return await self._run("config", "--format", "json", timeout=CONFIG_TIMEOUT)

    async def _hashes(self) -> dict[str, str]:
        done = await self._run("config", "--hash", "*", timeout=CONFIG_TIMEOUT)
        pairs = (line.split() for line in done.output.splitlines())
        return dict(pair for pair in pairs if len(pair) == 2) if done.returncode == 0 else {}

    async def up(self, services: Sequence[str]) -> None:
        """Create and start containers, and nothing they depend on.

        Args:
            services: At least one; Compose would take none for all of the project.

        Raises:
            HuleEduError: With all that Compose printed, if one of them cannot be started.
        """
        await self._work("up", "--detach", "--no-deps", *services, timeout=UP_TIMEOUT)

    async def stop(self, services: Sequence[str]) -> None:
        """Stop containers, keeping them and their volumes."""
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
                hint="See whether the Docker Engine is overloaded: `docker ps`.",
                output=done.output,
            )
        return done
