"""The choice of the compose files that declare the development databases of a repository."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from huleedu_tasks.compose.database_service import PLACEHOLDER, Container, container_of
from huleedu_tasks.compose.docker_compose import DEFAULT_FILES
from huleedu_tasks.compose.yaml_files import env_file, read_files
from huleedu_tasks.config.dotenv import ENV_FILE
from huleedu_tasks.errors import ConfigurationError
from huleedu_tasks.repository import is_nameable, repository_files, shown

OVERRIDE_FILES = (
    "compose.override.yml",
    "compose.override.yaml",
    "docker-compose.override.yml",
    "docker-compose.override.yaml",
)
# Compose files are searched in at most so many directories below the root.
DEPTH = 3
# Words in the path of a file that is not for development.
NOT_FOR_DEVELOPMENT = frozenset(
    {"prod", "production", "staging", "stage", "test", "tests", "testing", "ci", "e2e"}
)


def read_here(files: Sequence[Path], environment: Mapping[str, str]) -> dict[str, Container]:
    """Read compose files without Docker's command line, and return their services by name.

    Raises:
        ConfigurationError: If one cannot be read.
    """
    missing = read_files(files, environment).missing
    read = read_files(files, {**environment, **dict.fromkeys(missing, PLACEHOLDER)})
    return {name: container_of(name, stated) for name, stated in read.services.items()}


def read_own_files(
    root: Path, files: Sequence[Path | str], environment: Mapping[str, str]
) -> dict[str, Container]:
    """Read the compose files of a registry, or else Compose's default; empty if there are none.

    Args:
        files: The compose files, relative to the root; empty for Compose's default.

    Raises:
        ConfigurationError: If one cannot be read.
    """
    chosen = [root / file for file in files] or default_files(root, environment)
    return read_here(chosen, environment) if chosen else {}


def default_files(root: Path, environment: Mapping[str, str]) -> list[Path]:
    """Return the files of COMPOSE_FILE, else Compose's default; empty if neither is found."""
    variables = {**env_file(root / ENV_FILE, environment), **environment}
    if stated := variables.get("COMPOSE_FILE"):
        separator = variables.get("COMPOSE_PATH_SEPARATOR") or os.pathsep
        return [root / name for name in stated.split(separator) if name]
    # Compose also searches the directories above, and merges the override file beside the first.
    for directory in (root, *root.parents):
        main = [directory / name for name in DEFAULT_FILES if (directory / name).is_file()]
        over = [directory / name for name in OVERRIDE_FILES if (directory / name).is_file()]
        if main:
            return [*main[:1], *over[:1]]
    return []


def find_files(root: Path, environment: Mapping[str, str], remarks: list[str]) -> list[Path]:
    """Return Compose's own choice if it declares a PostgreSQL server, else all files that do.

    Args:
        remarks: Sentences for the user are appended to it.
    """
    usual = default_files(root, environment)
    if usual and _declares_postgres(usual, environment, remarks):
        return usual
    others = [path for path in compose_files(root) if path not in usual]
    declaring = [path for path in others if _declares_postgres([path], environment, remarks)]
    chosen = [path for path in declaring if _is_for_development(path, root)] or declaring
    if not chosen:
        return usual
    chosen = _compatible(chosen, environment, root, remarks)
    names = ", ".join(shown(path, root) for path in chosen)
    remarks.append(f"The PostgreSQL servers are declared in {names}.")
    return chosen


def compose_files(root: Path) -> list[Path]:
    """Return the files in the repository named like a compose file, those in the root first."""
    found = [
        path
        for path in repository_files(root)
        if path.suffix in (".yml", ".yaml")
        and "compose" in path.name
        and is_nameable(path)
        and len(path.relative_to(root).parts) <= DEPTH + 1
    ]
    return sorted(found, key=lambda path: (len(path.parts), path))


def _compatible(
    files: Sequence[Path], environment: Mapping[str, str], root: Path, remarks: list[str]
) -> list[Path]:
    """Return the files without those of another directory that declare the same services."""
    taken: dict[str, Path] = {}
    kept = []
    for file in files:
        services = read_here([file], environment).items()
        names = [name for name, container in services if container.is_postgres]
        others = {taken[name] for name in names if name in taken} - set(file.parent.glob("*"))
        if others:
            clash = shown(min(others), root)
            remarks.append(
                f"{shown(file, root)} declares the same services as {clash} and was not read: one "
                "compose project cannot have both."
            )
            continue
        kept.append(file)
        taken |= {name: file for name in names if name not in taken}
    return kept


def _declares_postgres(
    files: Sequence[Path], environment: Mapping[str, str], remarks: list[str]
) -> bool:
    try:
        services = read_here(files, environment).values()
        return any(container.is_postgres for container in services)
    except ConfigurationError as error:
        remarks.append(error.message)
        return False


def _is_for_development(path: Path, root: Path) -> bool:
    words = re.split(r"[^a-z0-9]+", shown(path, root).lower())
    return NOT_FOR_DEVELOPMENT.isdisjoint(words)
