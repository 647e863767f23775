"""The ports at which compose services publish their databases, read from the compose files."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from huleedu_tasks.compose.file_choice import default_files, read_here


def published_ports(
    root: Path, files: Sequence[str], environment: Mapping[str, str]
) -> dict[str, int]:
    """Return the host port of each compose service that publishes a database, by its name.

    Args:
        files: The compose files, relative to the root; empty for Compose's own default.

    Raises:
        ConfigurationError: If a file cannot be read.
    """
    chosen = [root / file for file in files] or default_files(root, environment)
    containers = read_here(chosen, environment) if chosen else {}
    return {name: container.port for name, container in containers.items() if container.port}
