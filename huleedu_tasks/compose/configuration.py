"""The compose configuration of a monorepo as values, whoever has read it.

Docker's command line is asked where it is there; it needs no engine for that. Else the files are
read here. Both come to the same.
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
from huleedu_tasks.compose.yaml_files import Declarations, read_files
from huleedu_tasks.errors import HuleEduError, ServerError

BY_COMPOSE = "docker compose config"
BY_READING = "the files, read here"
_REQUIRED = re.compile(r"required variable (\w+) is missing a value")


@dataclass(frozen=True, slots=True, kw_only=True)
class Composition:
    """All services of a compose configuration.

    Attributes:
        files: The files it was read from, without those they include.
        how: Who has read them.
        remarks: What else is to be known of it, in sentences.
    """

    containers: Mapping[str, Container]
    files: tuple[Path, ...] = ()
    how: str = BY_READING
    remarks: tuple[str, ...] = ()

    @property
    def databases(self) -> dict[str, Container]:
        """Those that are PostgreSQL servers."""
        return {name: each for name, each in self.containers.items() if each.is_postgres}


async def read_composition(
    root: Path, files: Sequence[Path], environment: Mapping[str, str]
) -> Composition:
    """Read the compose files of a monorepo.

    Args:
        root: Its root.
        files: The compose files; none to look for those with its databases.
        environment: The variables they may use.

    Raises:
        ConfigurationError: If a file that was named cannot be read.
    """
    remarks: list[str] = []
    chosen = [root / file for file in files] or find_files(root, environment, remarks)
    if not chosen:
        return Composition(containers={}, remarks=(*remarks, "There is no compose file."))
    read = read_files(chosen, environment)
    filled = {**environment, **dict.fromkeys(read.missing, PLACEHOLDER)}
    if read.missing:
        names = ", ".join(sorted(read.missing))
        remarks.append(f"The compose files require {names}, which nobody has set.")
        read = read_files(chosen, filled)
    services, how = await _ask_compose(root, chosen, filled, read.services, remarks), BY_COMPOSE
    if services is None:
        services, how = read.services, BY_READING
    containers = {name: container_of(name, each) for name, each in services.items()}
    return Composition(containers=containers, files=tuple(chosen), how=how, remarks=tuple(remarks))


async def _ask_compose(
    root: Path,
    files: Sequence[Path],
    environment: Mapping[str, str],
    read: Declarations,
    remarks: list[str],
) -> Declarations | None:
    """Return what Compose itself makes of the files; None if it is not there or cannot use them."""
    if not shutil.which("docker", path=environment.get("PATH")):
        return None
    compose = Compose(root=root, files=tuple(files), environment=environment)
    try:
        services = _services(await _config(compose))
    except HuleEduError as error:
        reason = error.message.rstrip(".")
        remarks.append(
            f"`docker compose config` does not accept the compose files yet ({reason}); they were "
            "read without it."
        )
        return None
    # Compose sorts them by name; the order of the files says more.
    names = sorted(services, key=lambda name: list(read).index(name) if name in read else len(read))
    return {
        name: replace(
            declaration(_unescaped(services[name]), files[0].parent, None),
            file=read[name].file if name in read else None,
        )
        for name in names
    }


async def _config(compose: Compose) -> Any:
    """Ask for the configuration, with something in place of each variable that must be set.

    Raises:
        HuleEduError: With Compose's own reason, if it does not accept the files.
    """
    variables = dict(compose.environment)
    while True:
        done = await replace(compose, environment=variables).config()
        if done.returncode == 0:
            return _printed(done.output)
        missing = _REQUIRED.search(done.output)
        if not missing or variables.get(missing[1]) == PLACEHOLDER:
            raise explain_config(done.output)
        variables[missing[1]] = PLACEHOLDER


def _printed(output: str) -> Any:
    try:
        return printed_document(output)
    except ValueError as error:
        raise ServerError("it printed no JSON document", code="compose-failed") from error


def _services(document: Any) -> dict[str, Any]:
    services = document.get("services") if isinstance(document, dict) else None
    return services if isinstance(services, dict) else {}


def _unescaped(value: Any) -> Any:
    """Undo what `config` does to a dollar sign, so that its output may be read again."""
    if isinstance(value, str):
        return value.replace("$$", "$")
    if isinstance(value, list):
        return [_unescaped(each) for each in value]
    if isinstance(value, dict):
        return {key: _unescaped(each) for key, each in value.items()}
    return value
