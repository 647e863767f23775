"""Which compose files of a repository hold its development databases."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from huleedu_tasks.compose.database_service import PLACEHOLDER, Container, container_of
from huleedu_tasks.compose.docker_compose import DEFAULT_FILES
from huleedu_tasks.compose.yaml_files import env_file, read_files
from huleedu_tasks.config.settings import ENV_FILE
from huleedu_tasks.errors import ConfigurationError
from huleedu_tasks.repository import is_nameable, repository_files, shown

OVERRIDE_FILES = (
    "compose.override.yml",
    "compose.override.yaml",
    "docker-compose.override.yml",
    "docker-compose.override.yaml",
)
# How many directories below the root a compose file is looked for.
DEPTH = 3
# Words in the name of a file that is not for development.
ELSEWHERE = frozenset(
    {"prod", "production", "staging", "stage", "test", "tests", "testing", "ci", "e2e"}
)


def read_here(files: Sequence[Path], environment: Mapping[str, str]) -> dict[str, Container]:
    """Read compose files without Docker's command line.

    Raises:
        ConfigurationError: If one cannot be read.
    """
    missing = read_files(files, environment).missing
    read = read_files(files, {**environment, **dict.fromkeys(missing, PLACEHOLDER)})
    return {name: container_of(name, each) for name, each in read.services.items()}


def default_files(root: Path, environment: Mapping[str, str]) -> list[Path]:
    """Return the files Compose takes in a directory if nobody names any."""
    variables = {**env_file(root / ENV_FILE, environment), **environment}
    if stated := variables.get("COMPOSE_FILE"):
        separator = variables.get("COMPOSE_PATH_SEPARATOR") or os.pathsep
        return [root / name for name in stated.split(separator) if name]
    # Compose looks in the directories above as well, and takes the override beside what it finds.
    for directory in (root, *root.parents):
        main = [directory / name for name in DEFAULT_FILES if (directory / name).is_file()]
        over = [directory / name for name in OVERRIDE_FILES if (directory / name).is_file()]
        if main:
            return [*main[:1], *over[:1]]
    return []


def find_files(root: Path, environment: Mapping[str, str], remarks: list[str]) -> list[Path]:
    """Return Compose's own choice if it holds a PostgreSQL server, else all files that do."""
    usual = default_files(root, environment)
    if usual and _declares_postgres(usual, environment, remarks):
        return usual
    others = [path for path in compose_files(root) if path not in usual]
    holding = [path for path in others if _declares_postgres([path], environment, remarks)]
    chosen = [path for path in holding if not _is_elsewhere(path, root)] or holding
    if not chosen:
        return usual
    chosen = _compatible(chosen, environment, root, remarks)
    names = ", ".join(shown(path, root) for path in chosen)
    remarks.append(f"The PostgreSQL servers are declared in {names}.")
    return chosen


def compose_files(root: Path) -> list[Path]:
    """Return everything in the repository that is called like a compose file, the nearest first."""
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
    """Leave out a file of another directory with the same names: it is another project."""
    taken: dict[str, Path] = {}
    kept = []
    for file in files:
        names = [n for n, each in read_here([file], environment).items() if each.is_postgres]
        others = {taken[name] for name in names if name in taken} - set(file.parent.glob("*"))
        if others:
            clash = shown(min(others), root)
            remarks.append(
                f"{shown(file, root)} declares the same names as {clash} and was not read: one "
                "compose project cannot hold both."
            )
            continue
        kept.append(file)
        taken |= {name: file for name in names if name not in taken}
    return kept


def _declares_postgres(
    files: Sequence[Path], environment: Mapping[str, str], remarks: list[str]
) -> bool:
    try:
        return any(each.is_postgres for each in read_here(files, environment).values())
    except ConfigurationError as error:
        remarks.append(error.message)
        return False


def _is_elsewhere(path: Path, root: Path) -> bool:
    words = re.split(r"[^a-z0-9]+", shown(path, root).lower())
    return not ELSEWHERE.isdisjoint(words)
