"""The generated override that gives an instance containers of its own beside the main ones.

The compose files stay as they are. The override replaces what two projects cannot share: published
ports, container names, the networks, and the writable volumes and directories, whose data a second
server would damage.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from huleedu_tasks.compose.configuration_cache import ComposeAnswers
from huleedu_tasks.compose.docker_compose import Compose, Project
from huleedu_tasks.compose.engine import USE_EMBEDDED
from huleedu_tasks.compose.file_choice import default_files
from huleedu_tasks.compose.init_scripts import INIT_DIRECTORY
from huleedu_tasks.config.urls import POSTGRES_PORT
from huleedu_tasks.errors import ServerError
from huleedu_tasks.instances.instance import Instance
from huleedu_tasks.state_dir import make_state_directory, unwritable

OVERRIDE_FILE = "compose.instance.yaml"
_NETWORK = "instance"
_HEADER = "# Generated for an instance; written again when the compose files or the ports change.\n"
LOOPBACK = "127.0.0.1"
_STATED_ANSWERS = "compose.json"
_OWN_ANSWERS = "compose.instance.json"


def compose_of(instance: Instance, stated: Compose) -> Compose:
    """Return Compose for an instance: with the generated override, in a project of its own.

    Args:
        stated: Compose for the files of the registry.
    """
    files = stated.files or default_files(stated.root, stated.environment)
    return Compose(
        root=stated.root,
        files=(*files, instance.directory / OVERRIDE_FILE),
        environment={**stated.environment, "COMPOSE_PROJECT_NAME": instance.project},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceAnswers:
    """The resolved configuration of an instance.

    Attributes:
        stated: That of the compose files alone.
        own: That with the override.
        override: The path of the override.
        ports: The port of each server, by its compose service.
    """

    stated: ComposeAnswers
    own: ComposeAnswers
    override: Path
    ports: Mapping[str, int]

    @classmethod
    def create(
        cls, instance: Instance, stated: Compose, own: Compose, ports: Mapping[str, int]
    ) -> "InstanceAnswers":
        """Return the answers, cached in the state directory of the instance."""
        directory = instance.directory
        return cls(
            stated=ComposeAnswers(compose=stated, path=directory / _STATED_ANSWERS),
            own=ComposeAnswers(compose=own, path=directory / _OWN_ANSWERS),
            override=directory / OVERRIDE_FILE,
            ports=ports,
        )

    async def project(self) -> Project:
        """Write the override unless it is up to date, and return the resolved configuration.

        Raises:
            HuleEduError: As `Compose.project`; or if Compose is too old for the override.
        """
        text = override_text(await self.stated.project(), self.ports)
        if _text_of(self.override) != text:
            make_state_directory(self.override.parent)
            try:
                self.override.write_text(text, encoding="utf-8")
            except OSError as error:
                raise unwritable(self.override, error) from error
        project = await self.own.project()
        for name, port in self.ports.items():
            _require_only(project, name, port)
        return project


def override_text(stated: Project, ports: Mapping[str, int]) -> str:
    """Return the override as YAML.

    Args:
        stated: The resolved configuration of the compose files.
        ports: The port of each server on this machine, by its compose service.
    """
    services: list[str] = []
    volumes: list[str] = []
    for name, port in ports.items():
        # A service that the compose files do not have is reported later.
        if name in stated.services:
            own = {
                f"{name}_{_NETWORK}_{number}": target
                for number, target in enumerate(_data_paths(stated.services[name]), 1)
            }
            services += _service_lines(name, port, own)
            volumes += [f"  {_quoted(volume)}: {{}}" for volume in own]
    lines = ["services:", *services, "networks:", f"  {_NETWORK}: {{}}", "volumes:", *volumes]
    return _HEADER + "".join(f"{line}\n" for line in lines)


def _service_lines(name: str, port: int, volumes: Mapping[str, str]) -> Iterator[str]:
    # JSON is YAML, except for the tags of Compose.
    yield f"  {_quoted(name)}:"
    yield "    container_name: !reset null"
    yield "    network_mode: !reset null"
    yield f"    networks: !override {{{_NETWORK}: {{}}}}"
    yield f"    ports: !override [{_quoted(f'{LOOPBACK}:{port}:{POSTGRES_PORT}')}]"
    if volumes:
        # Compose merges volumes by their path in the container.
        mounts = (_quoted(f"{volume}:{path}") for volume, path in volumes.items())
        yield f"    volumes: [{', '.join(mounts)}]"


def _quoted(text: str) -> str:
    # Compose interpolates a single dollar sign.
    return json.dumps(text.replace("$", "$$"))


def _data_paths(service: Mapping[str, object]) -> list[str]:
    """Return the paths in a container whose content two servers must not share.

    These are all writable volumes and directories of the host, except for init scripts.
    """
    mounts = service["volumes"]
    return [
        mount["target"]
        for mount in (mounts if isinstance(mounts, list) else [])
        if not mount.get("read_only") and _may_have_data(mount)
    ]


def _may_have_data(mount: Mapping[str, str]) -> bool:
    if mount.get("type") != "bind":
        return mount.get("type") == "volume"
    source = Path(mount.get("source", ""))
    is_single_file = source.exists() and not source.is_dir()
    return not is_single_file and not PurePosixPath(mount["target"]).is_relative_to(INIT_DIRECTORY)


def _require_only(project: Project, service: str, port: int) -> None:
    """Require that Compose has replaced the ports, as the override says."""
    if service not in project.services:
        return
    published = project.published_ports(service, POSTGRES_PORT)
    if published != [str(port)]:
        raise ServerError(
            f"Compose did not apply the override of this instance: {service!r} publishes "
            f"{', '.join(published) or 'no port'} instead of {port}.",
            code="compose-too-old",
            hint="Update Compose to 2.24.4 or newer, which knows `!override`: `docker compose "
            f"version` shows the installed one. {USE_EMBEDDED}",
        )


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
