"""The ports at which compose services publish their databases, read from the compose files."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from huleedu_tasks.compose.configuration import (
    INSTALL,
    Composition,
    read_configuration,
    read_without_compose,
)
from huleedu_tasks.compose.file_choice import default_files
from huleedu_tasks.compose.yaml_files import Unread
from huleedu_tasks.errors import ConfigurationError, Finding


def published_ports(
    root: Path, files: Sequence[str], servers: Collection[str], environment: Mapping[str, str]
) -> dict[str, int]:
    """Return the host port of each compose service that publishes a database, by its name.

    Args:
        files: The compose files, relative to the root; empty for Compose's own default.
        servers: The compose services whose ports are needed.

    Raises:
        ConfigurationError: If a file, or the declaration of one of `servers`, cannot be read.
    """
    chosen = [root / file for file in files] or default_files(root, environment)
    if not chosen:
        return {}
    composition = read_without_compose(chosen, environment)
    if _unknown(composition, servers):
        composition = _read_by_compose(root, chosen, environment)
    if unknown := _unknown(composition, servers):
        raise ConfigurationError(
            "The ports of compose services could not be read from the compose files.",
            code="compose-not-read",
            findings=[
                Finding(place=name, problem=f"its port is not known: only Compose reads {part}")
                for name, part in unknown
            ],
            hint=f"State 'port' in the registry for the services on these servers. Or: {INSTALL}",
        )
    return _ports(composition)


def _read_by_compose(
    root: Path, files: Sequence[Path], environment: Mapping[str, str]
) -> Composition:
    read = read_configuration(root, files, environment, by_compose=True)
    # The thread of the caller may have an event loop of its own, as in a test.
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(asyncio.run, read).result()


def _ports(composition: Composition) -> dict[str, int]:
    containers = composition.containers.items()
    return {name: container.port for name, container in containers if container.port}


def _unknown(composition: Composition, servers: Collection[str]) -> list[tuple[str, Unread]]:
    """Return each server whose port depends on a part that is not read, with that part."""
    known = _ports(composition)
    return [
        (name, part)
        for name in sorted(servers)
        for part in composition.unread_of(name)
        if _may_state_port(part, has_port=name in known)
    ]


def _may_state_port(part: Unread, *, has_port: bool) -> bool:
    if part.key == "extends":
        # Compose adds the ports of the extended service to the own ones.
        return not has_port
    first, *_ = part.key.split(":")
    return not part.service or first == "ports" or first.startswith("!")
