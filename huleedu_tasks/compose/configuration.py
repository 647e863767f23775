"""The compose configuration of a monorepo as values.

`docker compose config` reads the files if it is installed; it needs no engine. Otherwise they are
read here, except for the parts that only Compose resolves.
"""

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from huleedu_tasks.compose.database_service import PLACEHOLDER, Container, container_of
from huleedu_tasks.compose.declarations import declaration
from huleedu_tasks.compose.docker_compose import Compose, printed_document
from huleedu_tasks.compose.docker_failures import explain_config
from huleedu_tasks.compose.yaml_files import (
    INCLUDE,
    Declarations,
    ReadFiles,
    Unread,
    read_files,
)
from huleedu_tasks.errors import HuleEduError, ServerError

BY_COMPOSE = "docker compose config"
BY_READING = "the files, read here"
INSTALL = "Install Docker's command line with Compose; no engine is needed."
_REQUIRED = re.compile(r"required variable (\w+) is missing a value")


@dataclass(frozen=True, slots=True, kw_only=True)
class Composition:
    """All services of a compose configuration.

    Attributes:
        containers: The compose services, by name.
        files: The files it was read from, without those that they include.
        how: `BY_COMPOSE` or `BY_READING`.
        unread: The parts of the files that were not read; empty if Compose read them.
        remarks: Sentences for the user about how it was read.
    """

    containers: Mapping[str, Container]
    files: tuple[Path, ...] = ()
    how: str = BY_READING
    unread: tuple[Unread, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def databases(self) -> dict[str, Container]:
        """The compose services that are PostgreSQL servers, by name."""
        return {name: found for name, found in self.containers.items() if found.is_postgres}

    def unread_of(self, service: str) -> tuple[Unread, ...]:
        """Return the unread parts that declare, or may declare, a compose service."""
        is_declared = service in self.containers
        return tuple(
            part
            for part in self.unread
            if part.service == service
            or (not part.service and not (is_declared and part.key == INCLUDE))
        )


async def read_configuration(
    root: Path, files: Sequence[Path], environment: Mapping[str, str], *, by_compose: bool
) -> Composition:
    """Read compose files.

    Args:
        root: The root of the monorepo.
        files: At least one; each takes precedence over the one before it.
        environment: The variables to interpolate.
        by_compose: Whether Compose reads them, if it is installed. Otherwise it reads them only if
            they have a part that is not read here: running it takes longer.

    Raises:
        ConfigurationError: If one cannot be read.
    """
    read, filled, remarks = _read_filled(files, environment)
    if by_compose or read.unread:
        compose = Compose(root=root, files=tuple(files), environment=filled)
        answer = await _ask_compose(compose, read.services, read.unread, remarks)
        if answer is not None:
            return Composition(
                containers=_containers(answer),
                files=tuple(files),
                how=BY_COMPOSE,
                remarks=tuple(remarks),
            )
    return _as_read(files, read, remarks)


def read_without_compose(files: Sequence[Path], environment: Mapping[str, str]) -> Composition:
    """Read compose files without Compose; what only Compose reads is in `unread`.

    Args:
        files: At least one; each takes precedence over the one before it.
        environment: The variables to interpolate.

    Raises:
        ConfigurationError: If one cannot be read.
    """
    read, _, remarks = _read_filled(files, environment)
    return _as_read(files, read, remarks)


def _read_filled(
    files: Sequence[Path], environment: Mapping[str, str]
) -> tuple[ReadFiles, dict[str, str], list[str]]:
    """Read files with placeholders for required variables that are not set.

    Returns:
        The content, the variables with the placeholders, and sentences for the user.
    """
    read = read_files(files, environment)
    if not read.missing:
        return read, {**environment}, []
    filled = {**environment, **dict.fromkeys(read.missing, PLACEHOLDER)}
    names = ", ".join(sorted(read.missing))
    remark = f"Variables that the compose files require are not set: {names}."
    return read_files(files, filled), filled, [remark]


def _as_read(files: Sequence[Path], read: ReadFiles, remarks: Sequence[str]) -> Composition:
    return Composition(
        containers=_containers(read.services),
        files=tuple(files),
        unread=read.unread,
        remarks=tuple(remarks),
    )


def _containers(services: Declarations) -> dict[str, Container]:
    return {name: container_of(name, stated) for name, stated in services.items()}


async def _ask_compose(
    compose: Compose, read: Declarations, unread: Sequence[Unread], remarks: list[str]
) -> Declarations | None:
    """Return the declarations that Compose prints; None if it is missing or rejects the files."""
    parts = "; ".join(map(str, unread))
    if not shutil.which("docker", path=compose.environment.get("PATH")):
        if unread:
            remarks.append(
                f"`docker` is not on PATH, and only Compose reads these parts: {parts}. {INSTALL}"
            )
        return None
    try:
        services = _services(await _config(compose))
    except HuleEduError as error:
        remarks.append(
            "`docker compose config` did not accept the compose files "
            f"({error.message.rstrip('.')}); they were read without it"
            f"{', except for ' if unread else ''}{parts}."
        )
        return None
    # In the order of the files; Compose sorts the services by name, and prints no file.
    order = [*read, *services]
    return {
        name: replace(
            declaration(_unescaped(services[name]), compose.files[0].parent, None),
            file=read[name].file if name in read else None,
        )
        for name in sorted(services, key=order.index)
    }


async def _config(compose: Compose) -> Any:
    """Return the document of `docker compose config`, with placeholders for required variables.

    Raises:
        HuleEduError: With Compose's own message, if it does not accept the files.
    """
    variables = dict(compose.environment)
    while True:
        done = await replace(compose, environment=variables).config()
        if done.returncode == 0:
            return _parse(done.output)
        missing = _REQUIRED.search(done.output)
        if not missing or variables.get(missing[1]) == PLACEHOLDER:
            raise explain_config(done.output)
        variables[missing[1]] = PLACEHOLDER


def _parse(output: str) -> Any:
    try:
        return printed_document(output)
    except ValueError as error:
        raise ServerError(
            "`docker compose config` printed no JSON document.",
            code="compose-failed",
            hint="Update Compose: `docker compose version` shows the installed one.",
        ) from error


def _services(document: Any) -> dict[str, Any]:
    services = document.get("services") if isinstance(document, dict) else None
    return services if isinstance(services, dict) else {}


def _unescaped(value: Any) -> Any:
    """Replace the `$$` that `config` prints by `$`, in all strings."""
    if isinstance(value, str):
        return value.replace("$$", "$")
    if isinstance(value, list):
        return [_unescaped(item) for item in value]
    if isinstance(value, dict):
        return {key: _unescaped(item) for key, item in value.items()}
    return value
