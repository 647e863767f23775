"""Servers that the tasks only connect to, such as the service containers of a CI job."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from huleedu_tasks.config.registry import Service
from huleedu_tasks.config.settings import ProviderName
from huleedu_tasks.config.urls import DatabaseUrl
from huleedu_tasks.errors import Refused
from huleedu_tasks.postgres.binaries import find_program
from huleedu_tasks.postgres.connections import maintenance_connection
from huleedu_tasks.postgres.databases import ServerIdentity
from huleedu_tasks.servers.protocol import Admin, LogCommand, Started


@dataclass(frozen=True, slots=True, kw_only=True)
class ExistingServers:
    """Servers that are already running; the tasks cannot verify their identity."""

    reason: str
    name: ProviderName = ProviderName.EXISTING
    proves_identity: bool = False

    async def prepare(
        self, services: Sequence[Service], login: DatabaseUrl, *, on_new: Callable[[], object]
    ) -> None:
        """Do nothing: the tasks do not manage these servers."""

    async def start(
        self, service: Service, url: DatabaseUrl, *, admin: Admin | None = None
    ) -> Started:
        """Log in to a maintenance database; the service's own database may be missing."""
        if admin:
            await admin()
        else:
            async with maintenance_connection(url):
                pass
        return Started(done="answers")

    async def stop(self, service: Service) -> str:
        """Do nothing: the tasks do not manage these servers."""
        return "not stopped: the tasks did not start it"

    async def renew(self, service: Service, url: DatabaseUrl) -> Started:
        """Refuse: the tasks do not manage these servers."""
        raise _unsupported("recreate its data")

    async def identity(self, service: Service) -> ServerIdentity | None:
        """Return None: the data directory cannot be read."""
        return None

    async def comments_inside(self, service: Service, url: DatabaseUrl) -> Mapping[str, str]:
        """Refuse: the tasks do not manage these servers."""
        raise _unsupported("recreate its data")

    async def init_scripts(self, service: Service) -> str:
        """Return an empty string: the init scripts are not known."""
        return ""

    def psql(self) -> str:
        """Return the path of the machine's `psql`, else of the package's; empty if none exists."""
        return find_program("psql")

    def logs(self, services: Sequence[Service], *, follow: bool, lines: int) -> LogCommand:
        """Refuse: the tasks do not manage these servers."""
        raise _unsupported("show its log")


def _unsupported(action: str) -> Refused:
    return Refused(
        f"HULEEDU_PROVIDER=existing cannot {action}: the tasks have no access to the server's "
        "files.",
        code="provider-unsupported",
        hint="Use the server's own tools, or set HULEEDU_PROVIDER=docker or embedded.",
    )
