"""The ports at which compose services publish their databases, read from the compose files."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from huleedu_tasks.compose.file_choice import read_own_files


def published_ports(
    root: Path, files: Sequence[str], environment: Mapping[str, str]
) -> dict[str, int]:
    """Return the host port of each compose service that publishes a database, by its name.

    Args:
        files: The compose files, relative to the root; empty for Compose's own default.

    Raises:
        ConfigurationError: If a file cannot be read.
    """
    containers = read_own_files(root, files, environment)
    return {name: container.port for name, container in containers.items() if container.port}
