"""The choice of the provider of development servers."""

import shutil
from pathlib import Path

from huleedu_tasks.config.registry import Registry
from huleedu_tasks.config.settings import ProviderName, Settings
from huleedu_tasks.errors import HuleEduError
from huleedu_tasks.instances.instance import Instance
from huleedu_tasks.servers.protocol import CONTAINERS_FILE, EMBEDDED_DIRECTORY, Provider


def choose(
    settings: Settings, registry: Registry, state: Path, instance: Instance | None
) -> Provider:
    """Return the provider that HULEEDU_PROVIDER names.

    With `auto` it is the one that has this checkout's data, else Docker, else the embedded one.

    Args:
        state: The project's state directory.
        instance: The instance that has the servers; None for the main fleet. A new one takes the
            provider of the main fleet.

    Raises:
        HuleEduError: If the provider is not available on this machine.
    """
    wanted = settings.provider
    stated = f"HULEEDU_PROVIDER={wanted} ({settings.value('HULEEDU_PROVIDER').source})"
    if wanted is ProviderName.EXISTING:
        from huleedu_tasks.servers.existing import ExistingServers

        return ExistingServers(reason=stated)
    if wanted is ProviderName.EMBEDDED:
        return _embedded(settings, registry, state, stated, instance)
    if wanted is ProviderName.AUTO and (owner := _embedded_owner(state, instance)):
        other = "; Docker is installed too" if shutil.which("docker") else ""
        kept = f"{stated}; the data of {owner} is in embedded servers{other}"
        return _embedded(settings, registry, state, kept, instance)
    from huleedu_tasks.servers.docker import DockerServers

    try:
        return DockerServers.create(settings, registry, state, reason=stated, instance=instance)
    except HuleEduError as error:
        if wanted is ProviderName.DOCKER:
            raise
        why_not = error.message.rstrip(".")
        return _embedded(settings, registry, state, f"{stated}; no Docker: {why_not}", instance)


def _embedded_owner(state: Path, instance: Instance | None) -> str:
    """Return who has data in embedded servers and never had any in containers; empty if none."""
    if _keeps_to_embedded(state):
        return "this instance" if instance else "this checkout"
    has_containers = (state / CONTAINERS_FILE).exists()
    if instance and not has_containers and _keeps_to_embedded(instance.home):
        return "the main checkout"
    return ""


def has_servers(state: Path) -> bool:
    """Whether servers were started with a state directory."""
    return any((state / name).exists() for name in (EMBEDDED_DIRECTORY, CONTAINERS_FILE))


def _keeps_to_embedded(state: Path) -> bool:
    """Whether there is data in embedded servers and never was any in containers."""
    return (state / EMBEDDED_DIRECTORY).is_dir() and not (state / CONTAINERS_FILE).exists()


def _embedded(
    settings: Settings, registry: Registry, state: Path, reason: str, instance: Instance | None
) -> Provider:
    from huleedu_tasks.servers.embedded import EmbeddedServers

    extensions = {name for service in registry.services for name in service.extensions}
    return EmbeddedServers.create(
        settings, state, sorted(extensions), reason=reason, instance=instance
    )
