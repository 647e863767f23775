"""Where development servers come from: one protocol, and the choice of who fulfils it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from huleedu_tasks.config.registry import Service
from huleedu_tasks.config.settings import ProviderName, Settings
from huleedu_tasks.config.urls import DatabaseUrl
from huleedu_tasks.postgres.databases import ServerIdentity


class Provider(Protocol):
    """Somebody who has a server for each service."""

    @property
    def name(self) -> ProviderName:
        """Which provider this is."""

    @property
    def reason(self) -> str:
        """Why it was chosen, in words."""

    @property
    def proves_identity(self) -> bool:
        """Whether it can tell its own servers from strangers at the same address."""

    async def prepare(self, services: Sequence[Service], login: DatabaseUrl) -> None:
        """Do what all servers need once, before any of them starts.

        Args:
            login: User and password the servers are made with, in any service's URL.

        """

    async def start(self, service: Service, url: DatabaseUrl) -> str:
        """Start a service's server unless it runs, and return when its database accepts its user.

        Returns:
            What was done, in a few words.

        """

    async def stop(self, service: Service) -> str:
        """Stop a service's server if it runs, keeping its data; return what was done."""

    def identity(self, service: Service) -> ServerIdentity | None:
        """Return which server is the service's own, as seen from the provider's side."""

    def psql(self) -> str:
        """Return the `psql` to use, or an empty text if there is none."""


def choose(settings: Settings, state: Path, extensions: Sequence[str]) -> Provider:
    """Return the provider that the settings ask for, or that is there.

    Args:
        state: Folder for embedded servers.
        extensions: Extensions the servers must have.

    Raises:
        ConfigurationError: If it cannot work here.

    """
    from huleedu_tasks.servers.embedded import EmbeddedServers
    from huleedu_tasks.servers.existing import ExistingServers

    wanted = settings.provider
    stated = f"HULEEDU_PROVIDER={wanted} ({settings.value('HULEEDU_PROVIDER').source})"
    if wanted is ProviderName.EXISTING:
        return ExistingServers(reason=stated)
    return EmbeddedServers.create(settings, state, extensions, reason=stated)
