"""Servers somebody else runs, as a CI job's service containers: nothing is started or stopped."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass

from huleedu_tasks.config.registry import Service
from huleedu_tasks.config.settings import ProviderName
from huleedu_tasks.config.urls import DatabaseUrl
from huleedu_tasks.postgres.connections import MAINTENANCE_DATABASE, connection
from huleedu_tasks.postgres.databases import ServerIdentity


@dataclass(frozen=True, slots=True, kw_only=True)
class ExistingServers:
    """Servers that are simply there; whose they are cannot be known."""

    reason: str
    name: ProviderName = ProviderName.EXISTING
    proves_identity: bool = False

    async def prepare(self, services: Sequence[Service], login: DatabaseUrl) -> None:
        """Do nothing: the servers are not ours."""

    async def start(self, service: Service, url: DatabaseUrl) -> str:
        """Ask the server whether it accepts the user; the database may yet be missing."""
        async with connection(url, database=MAINTENANCE_DATABASE):
            return "answers"

    async def stop(self, service: Service) -> str:
        """Do nothing: the servers are not ours."""
        return "left alone: not started by this tool"

    def identity(self, service: Service) -> ServerIdentity | None:
        """Return None: there is nothing to compare with."""
        return None

    def psql(self) -> str:
        """Return the machine's `psql`."""
        return shutil.which("psql") or ""
