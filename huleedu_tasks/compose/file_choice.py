"""The choice of the compose files that declare the development databases of a repository."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from huleedu_tasks.compose.configuration import Composition, read_configuration
from huleedu_tasks.compose.docker_compose import OVERRIDE_FILES, Compose
from huleedu_tasks.compose.yaml_files import env_file
from huleedu_tasks.config.dotenv import ENV_FILE
from huleedu_tasks.errors import ConfigurationError
from huleedu_tasks.repository import is_nameable, repository_files, shown

# Compose files are searched in at most so many directories below the root.
DEPTH = 3
# Words in the path of a file that is not for development.
NOT_FOR_DEVELOPMENT = frozenset(
    {"prod", "production", "staging", "stage", "test", "tests", "testing", "ci", "e2e"}
)


async def read_composition(
    root: Path, files: Sequence[Path | str], environment: Mapping[str, str]
) -> Composition:
    """Read the compose files of a monorepo, by Compose if it is installed.

    Args:
        root: The root of the monorepo.
        files: The compose files, relative to the root; empty to find those with PostgreSQL servers.
        environment: The variables to interpolate.

    Raises:
        ConfigurationError: If one of `files` cannot be read.
    """
    remarks: list[str] = []
    chosen = [root / file for file in files] or await find_files(root, environment, remarks)
    if not chosen:
        return Composition(containers={}, remarks=(*remarks, "No compose file was found."))
    composition = await read_configuration(root, chosen, environment, by_compose=True)
    said = dict.fromkeys((*remarks, *composition.remarks))
    return replace(composition, remarks=tuple(said))


async def read_own_files(
    root: Path, files: Sequence[Path | str], environment: Mapping[str, str]
) -> Composition:
    """Read the compose files of a registry, or else Compose's default; empty if there are none.

    Compose is run only if they have a part that is not read without it.

    Args:
        files: The compose files, relative to the root; empty for Compose's default.

    Raises:
        ConfigurationError: If one cannot be read.
    """
    chosen = [root / file for file in files] or default_files(root, environment)
    if not chosen:
        return Composition(containers={})
    return await read_configuration(root, chosen, environment, by_compose=False)


def default_files(root: Path, environment: Mapping[str, str]) -> list[Path]:
    """Return the files of COMPOSE_FILE, else Compose's default; empty if neither is found."""
    variables = {**env_file(root / ENV_FILE, environment), **environment}
    compose = Compose(root=root, files=(), environment=variables)
    main = compose.first_file
    if compose.named_files or main is None:
        return compose.named_files
    # Compose merges the override file beside the first one.
    over = [main.parent / name for name in OVERRIDE_FILES if (main.parent / name).is_file()]
    return [main, *over[:1]]


async def find_files(root: Path, environment: Mapping[str, str], remarks: list[str]) -> list[Path]:
    """Return Compose's own choice if it may declare a PostgreSQL server, else all files that do.

    Args:
        remarks: Sentences for the user are appended to it.
    """

    async def read(files: Sequence[Path]) -> Composition:
        try:
            composition = await read_configuration(root, files, environment, by_compose=False)
        except ConfigurationError as error:
            remarks.append(error.message)
            return Composition(containers={})
        remarks.extend(composition.remarks if composition.unread else ())
        return composition

    usual = default_files(root, environment)
    found = await read(usual) if usual else Composition(containers={})
    if found.databases or found.unread:
        return usual
    others = [path for path in compose_files(root) if path not in usual]
    databases = {path: (await read([path])).databases for path in others}
    declaring = [path for path in others if databases[path]]
    chosen = [path for path in declaring if _is_for_development(path, root)] or declaring
    if not chosen:
        return usual
    chosen = _compatible({path: databases[path] for path in chosen}, root, remarks)
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
    databases: Mapping[Path, Collection[str]], root: Path, remarks: list[str]
) -> list[Path]:
    """Return the files without those of another directory that declare the same services.

    Args:
        databases: The names of the PostgreSQL servers that each file declares.
    """
    taken: dict[str, Path] = {}
    kept = []
    for file, names in databases.items():
        others = {taken[name] for name in names if name in taken} - set(file.parent.glob("*"))
        if others:
            clash = shown(min(others), root)
            remarks.append(
                f"{shown(file, root)} declares the same services as {clash} and was not read: one "
                "compose project cannot have both."
            )
            continue
        kept.append(file)
        taken = dict.fromkeys(names, file) | taken
    return kept


def _is_for_development(path: Path, root: Path) -> bool:
    words = re.split(r"[^a-z0-9]+", shown(path, root).lower())
    return NOT_FOR_DEVELOPMENT.isdisjoint(words)
