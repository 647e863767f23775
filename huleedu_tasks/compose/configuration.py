"""The compose configuration of a monorepo as values.

`docker compose config` reads the files if it is installed; it needs no engine. Otherwise they are
read here, with the same result.
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
from huleedu_tasks.compose.file_choice import find_files
from huleedu_tasks.compose.yaml_files import Declarations, ReadFiles, read_files
from huleedu_tasks.errors import HuleEduError, ServerError

BY_COMPOSE = "docker compose config"
BY_READING = "the files, read here"
_REQUIRED = re.compile(r"required variable (\w+) is missing a value")


@dataclass(frozen=True, slots=True, kw_only=True)
class Composition:
    """All services of a compose configuration.

    Attributes:
        containers: The compose services, by name.
        files: The files it was read from, without those that they include.
        how: `BY_COMPOSE` or `BY_READING`.
        remarks: Sentences for the user about how it was read.
    """

    containers: Mapping[str, Container]
    files: tuple[Path, ...] = ()
    how: str = BY_READING
    remarks: tuple[str, ...] = ()

    @property
    def databases(self) -> dict[str, Container]:
        """The compose services that are PostgreSQL servers, by name."""
        return {name: found for name, found in self.containers.items() if found.is_postgres}


async def read_composition(
    root: Path, files: Sequence[Path], environment: Mapping[str, str]
) -> Composition:
    """Read the compose files of a monorepo.

    Args:
        root: The root of the monorepo.
        files: The compose files; empty to find those with PostgreSQL servers.
        environment: The variables to interpolate.

    Raises:
        ConfigurationError: If one of `files` cannot be read.
    """
    remarks: list[str] = []
    chosen = [root / file for file in files] or find_files(root, environment, remarks)
    if not chosen:
        return Composition(containers={}, remarks=(*remarks, "No compose file was found."))
    read = read_files(chosen, environment)
    filled = {**environment, **dict.fromkeys(read.missing, PLACEHOLDER)}
    if read.missing:
        names = ", ".join(sorted(read.missing))
        remarks.append(f"Variables that the compose files require are not set: {names}.")
        read = read_files(chosen, filled)
    services, how = await _ask_compose(root, chosen, filled, read, remarks), BY_COMPOSE
    if services is None:
        services, how = read.services, BY_READING
    containers = {name: container_of(name, stated) for name, stated in services.items()}
    return Composition(containers=containers, files=tuple(chosen), how=how, remarks=tuple(remarks))


async def _ask_compose(
    root: Path,
    files: Sequence[Path],
    environment: Mapping[str, str],
    read: ReadFiles,
    remarks: list[str],
) -> Declarations | None:
    """Return the declarations that Compose prints; None if it is missing or rejects the files."""
    if not shutil.which("docker", path=environment.get("PATH")):
        if read.composed:
            remarks.append(
                "`docker` is not on PATH: `include` and `extends` in the compose files were "
                "resolved without Compose, whose rules for them may differ. Install Docker's "
                "command line, with which the files are read by Compose; it needs no engine."
            )
        return None
    compose = Compose(root=root, files=tuple(files), environment=environment)
    try:
        services = _services(await _config(compose))
    except HuleEduError as error:
        reason = error.message.rstrip(".")
        remarks.append(
            f"`docker compose config` did not accept the compose files ({reason}); they were read "
            "without it."
        )
        return None
    # In the order of the files; Compose sorts the services by name.
    own = read.services
    names = sorted(services, key=lambda name: list(own).index(name) if name in own else len(own))
    return {
        name: replace(
            declaration(_unescaped(services[name]), files[0].parent, None),
            file=own[name].file if name in own else None,
        )
        for name in names
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
