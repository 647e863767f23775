"""The ports at which compose services publish their databases, read from the compose files."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from huleedu_tasks.compose.configuration import INSTALL
from huleedu_tasks.compose.file_choice import read_own_files
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
    composition = asyncio.run(read_own_files(root, files, environment))
    containers = composition.containers.items()
    ports = {name: container.port for name, container in containers if container.port}
    # Compose adds the ports of the extended service to the own ones.
    findings = [
        Finding(place=name, problem=f"its port is not known: only Compose reads {part}")
        for name in sorted(servers)
        for part in composition.unread_of(name)
        if part.key != "extends" or name not in ports
    ]
    if findings:
        raise ConfigurationError(
            "The ports of compose services could not be read from the compose files.",
            code="compose-not-read",
            findings=findings,
            hint=f"State 'port' in the registry for the services on these servers. Or: {INSTALL}",
        )
    return ports
