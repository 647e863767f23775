"""The ports at which compose services publish their databases, read from the compose files."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from huleedu_tasks.compose.configuration import INSTALL, NOT_READ
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
    findings = [
        Finding(place=name, problem=f"its port is not known; not read: {part}")
        for name in sorted(servers)
        for part in composition.unread_of(name)
    ]
    if findings:
        raise ConfigurationError(
            "The ports of compose services could not be read from the compose files.",
            code=NOT_READ,
            findings=findings,
            hint=f"State 'port' for their services in the registry. Or: {INSTALL}",
        )
    containers = composition.containers.items()
    return {name: container.port for name, container in containers if container.port}
