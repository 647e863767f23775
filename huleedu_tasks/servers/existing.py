"""Servers somebody else runs, as a CI job's service containers: nothing is started or stopped."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from huleedu_tasks.config.registry import Service
from huleedu_tasks.config.settings import ProviderName
from huleedu_tasks.config.urls import DatabaseUrl
from huleedu_tasks.errors import Refused
from huleedu_tasks.postgres.binaries import find_program
from huleedu_tasks.postgres.connections import maintenance_connection
from huleedu_tasks.postgres.databases import ServerIdentity
from huleedu_tasks.servers.protocol import Started


@dataclass(frozen=True, slots=True, kw_only=True)
class ExistingServers:
    """Servers that are simply there; whose they are cannot be known."""

    reason: str
    name: ProviderName = ProviderName.EXISTING
    proves_identity: bool = False

    async def prepare(
        self, services: Sequence[Service], login: DatabaseUrl, *, on_new: Callable[[], object]
    ) -> None:
        """Do nothing: the servers are not ours."""

    async def start(self, service: Service, url: DatabaseUrl) -> Started:
        """Ask the server whether it accepts the user; the database may yet be missing."""
        async with maintenance_connection(url):
            return Started(done="answers")

    async def stop(self, service: Service) -> str:
        """Do nothing: the servers are not ours."""
        return "left alone: not started by this tool"

    async def renew(self, service: Service, url: DatabaseUrl) -> Started:
        """Refuse: the servers are not ours."""
        raise _not_ours("its data cannot be made anew")

    async def identity(self, service: Service) -> ServerIdentity | None:
        """Return None: there is nothing to compare with."""
        return None

    async def comments_inside(self, service: Service, url: DatabaseUrl) -> Mapping[str, str]:
        """Refuse: the servers are not ours."""
        raise _not_ours("its data cannot be made anew")

    async def init_scripts(self, service: Service) -> str:
        """Return nothing: how the servers were made is not known."""
        return ""

    def psql(self) -> str:
        """Return the machine's `psql`, or the package's."""
        return find_program("psql")

    def logs(self, services: Sequence[Service], *, follow: bool, lines: int) -> list[str]:
        """Refuse: the servers are not ours."""
        raise _not_ours("its log cannot be shown")


def _not_ours(what: str) -> Refused:
    return Refused(
        f"Whoever runs an existing server has its files: {what} from here.",
        code="provider-unsupported",
        hint="Ask there, or use HULEEDU_PROVIDER=docker or embedded.",
    )
