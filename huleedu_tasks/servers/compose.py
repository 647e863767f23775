"""Docker Compose's command line: the only one who knows what the compose files mean.

Files, project name and interpolation are Compose's own business; here it is asked, and its
complaints are told apart.
"""

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from huleedu_tasks import process
from huleedu_tasks.errors import ConfigurationError, HuleEduError, ServerError

CONFIG_TIMEOUT = 60.0
# Pulling an image may take long; everything else is bounded by the engine itself.
UP_TIMEOUT = 1800.0
# Where Compose looks if nobody names a file (Compose specification, "Compose file").
DEFAULT_FILES = ("compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml")
USE_EMBEDDED = "HULEEDU_PROVIDER=embedded works without Docker."


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """The compose configuration, as Compose resolves it.

    Attributes:
        services: The configuration of each service, by name.
        volumes: The engine's name of each volume, by its name in the files.
    """

    name: str
    services: Mapping[str, Mapping[str, object]]
    volumes: Mapping[str, str]

    def published_ports(self, service: str, target: int) -> list[int]:
        """Return the host's ports that lead to a container's port."""
        return [
            int(str(port["published"]))
            for port in _mappings(self.services[service].get("ports"))
            if port.get("target") == target and port.get("published")
        ]

    def volume_at(self, service: str, path: str) -> str:
        """Return the file's name of the volume at a container's path, or an empty text."""
        for mount in _mappings(self.services[service].get("volumes")):
            if mount.get("type") == "volume" and mount.get("target") == path:
                return str(mount.get("source") or "")
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compose:
    """Compose in one monorepo.

    Attributes:
        root: The folder it is called in.
        files: The compose files, or none to leave the choice to COMPOSE_FILE and Compose.
        environment: The variables it interpolates.
    """

    root: Path
    files: tuple[Path, ...]
    environment: Mapping[str, str]

    @property
    def has_files(self) -> bool:
        """Whether there is anything for Compose to read."""
        if self.files or self.environment.get("COMPOSE_FILE"):
            return True
        return any((self.root / name).is_file() for name in DEFAULT_FILES)

    @property
    def directory(self) -> Path:
        """The project directory: where the first file lies."""
        stated = self.environment.get("COMPOSE_FILE", "").split(":")[0]
        first = self.files[0] if self.files else self.root / (stated or DEFAULT_FILES[0])
        return first.parent.resolve()

    def command(self, *arguments: str) -> list[str]:
        """Return the command line that runs Compose."""
        files = [text for file in self.files for text in ("-f", str(file))]
        return ["docker", "compose", "--ansi", "never", *files, *arguments]

    async def project(self) -> Project:
        """Ask for the resolved configuration.

        Raises:
            ConfigurationError: If the files or a variable are at fault.
            ServerError: If there is no Compose.
        """
        output = await self._run("config", "--format", "json")
        # Warnings stand before the document, as both streams are read as one.
        warnings = re.match(r"(?:(?!\{).*\n)*", output)
        document, _ = json.JSONDecoder().raw_decode(output, warnings.end() if warnings else 0)
        return Project(
            name=document["name"],
            services=document.get("services") or {},
            volumes={
                name: (volume or {}).get("name", name)
                for name, volume in (document.get("volumes") or {}).items()
            },
        )

    async def up(self, services: Sequence[str]) -> None:
        """Create and start containers, and nothing they depend on."""
        await self._run("up", "--detach", "--no-deps", *services, timeout=UP_TIMEOUT)

    async def stop(self, services: Sequence[str]) -> None:
        """Stop containers, keeping them and their volumes."""
        await self._run("stop", *services)

    async def remove(self, service: str) -> None:
        """Stop and remove a service's container and its anonymous volumes."""
        await self._run("rm", "--stop", "--force", "--volumes", service)

    async def _run(self, *arguments: str, timeout: float = CONFIG_TIMEOUT) -> str:
        try:
            done = await process.run(
                self.command(*arguments),
                cwd=self.root,
                environment=self.environment,
                timeout=timeout,
            )
        except FileNotFoundError:
            raise ServerError(
                "The command `docker` is not installed.",
                hint=f"Install Docker with Compose v2. {USE_EMBEDDED}",
            ) from None
        if done.timed_out:
            raise ServerError(
                f"`docker compose {arguments[0]}` did not end in {timeout:g} s.",
                hint="See whether the Docker Engine is overloaded: `docker ps`.",
                output=done.output,
            )
        if done.returncode != 0:
            raise explain(done.output)
        return done.output


def explain(output: str) -> HuleEduError:
    """Make an error of what Compose or the engine complained of."""
    for pattern, make in _COMPLAINTS:
        if found := re.search(pattern, output, re.IGNORECASE):
            return make(found, output)
    return ServerError(f"Docker Compose failed: {_last_line(output)}", output=output)


def _no_compose(found: re.Match[str], output: str) -> HuleEduError:
    if shutil.which("docker-compose"):
        return ServerError(
            "Only Compose v1 (`docker-compose`) is installed, which is not supported.",
            hint=f"Install Compose v2, the plugin behind `docker compose`. {USE_EMBEDDED}",
        )
    return ServerError(
        "Docker is installed without Compose.",
        hint=f"Install Compose v2, the plugin behind `docker compose`. {USE_EMBEDDED}",
    )


def _missing_variable(found: re.Match[str], output: str) -> HuleEduError:
    return ConfigurationError(
        f"The compose files need the variable {found[1]}: {_last_line(output)}",
        hint="Run `invoke env.init`, or set it in .env or the environment.",
    )


def _no_files(found: re.Match[str], output: str) -> HuleEduError:
    return ConfigurationError(
        "There is no compose file.",
        hint=f"Name it as 'compose_files' in the registry, or in COMPOSE_FILE. {USE_EMBEDDED}",
    )


def _missing_file(found: re.Match[str], output: str) -> HuleEduError:
    return ConfigurationError(
        f"The compose file {found[1]} does not exist.",
        hint="Correct 'compose_files' in the registry, or COMPOSE_FILE.",
    )


def _no_service(found: re.Match[str], output: str) -> HuleEduError:
    return ConfigurationError(
        f"The compose files have no service {found[1]!r}.",
        hint="Add it to them, or state 'compose_service' in the registry.",
    )


def _no_image(found: re.Match[str], output: str) -> HuleEduError:
    return ServerError(
        f"An image cannot be pulled: {_last_line(output)}",
        hint="Check its name in the compose file, the network, and `docker login`.",
        output=output,
    )


def _no_permission(found: re.Match[str], output: str) -> HuleEduError:
    return ServerError(
        "The Docker Engine's socket may not be used.",
        hint="Join its group (usually `sudo usermod -aG docker $USER`, then log in again). "
        + USE_EMBEDDED,
    )


def _no_engine(found: re.Match[str], output: str) -> HuleEduError:
    return ServerError(
        f"The Docker Engine does not answer: {_last_line(output)}",
        hint=f"Start Docker. {USE_EMBEDDED}",
    )


_COMPLAINTS = (
    (r"'compose' is not a docker command|unknown shorthand flag: 'f' in -f", _no_compose),
    (r"required variable (\w+) is missing a value", _missing_variable),
    (r"no configuration file provided", _no_files),
    (r"open (\S+\.ya?ml): no such file", _missing_file),
    (r"no such service: (\S+)", _no_service),
    (r"permission denied while trying to connect", _no_permission),
    (r"cannot connect to the docker daemon|error during connect", _no_engine),
    (
        r"pull access denied|manifest (for \S+ )?(not found|unknown)|failed to resolve reference"
        r"|no such image|registry.*(no such host|timeout|refused)",
        _no_image,
    ),
)


def _mappings(value: object) -> list[Mapping[str, object]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def _last_line(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1] if lines else "it printed nothing"
