"""The protocol of all providers of development servers."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from huleedu_tasks.config.registry import Service
from huleedu_tasks.config.settings import ProviderName
from huleedu_tasks.config.urls import DatabaseUrl
from huleedu_tasks.postgres.databases import ServerIdentity

if TYPE_CHECKING:
    import asyncpg

    from huleedu_tasks.postgres.clones import Activity

# Returns a command's connection to another database of a server, opened at the first call.
Admin = Callable[[], Awaitable["asyncpg.Connection"]]
# Names in the state directory: the data of embedded servers, and the cached facts about containers.
EMBEDDED_DIRECTORY = "embedded"
CONTAINERS_FILE = "containers.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The result of starting a server.

    Attributes:
        done: The action, for the screen: `running`, `started`, `created` and so on.
        is_new: Whether this start created the server's data.
        counted: The counters of each database, read before anything was written to the new data;
            empty if they are not known.
    """

    done: str
    is_new: bool = False
    counted: "Mapping[str, Activity]" = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogCommand:
    """A command that shows the logs of servers, and its whole environment."""

    arguments: Sequence[str]
    environment: Mapping[str, str]


class Provider(Protocol):
    """A source of development servers: it has one for each service."""

    @property
    def name(self) -> ProviderName:
        """The name, as HULEEDU_PROVIDER states it."""

    @property
    def reason(self) -> str:
        """Why it was chosen, for the screen."""

    @property
    def proves_identity(self) -> bool:
        """Whether it can tell its own servers from other servers at the same address."""

    async def prepare(
        self, services: Sequence[Service], login: DatabaseUrl, *, on_new: Callable[[], object]
    ) -> None:
        """Prepare all servers at once, before the first `start`.

        Args:
            login: The URL of any service, with the user and password to create servers with.
            on_new: Called as soon as it is known that a server will be created, which takes long.
        """

    async def start(
        self, service: Service, url: DatabaseUrl, *, admin: Admin | None = None
    ) -> Started:
        """Start a service's server unless it runs, and return when its database accepts its user.

        Args:
            admin: The connection to log in with, if one to another database is enough; None to
                open one for the login.

        Raises:
            HuleEduError: If the server cannot be started, or refuses the login.
        """

    async def stop(self, service: Service) -> str:
        """Stop a service's server if it runs, keep its data, and return the action in words."""

    async def renew(self, service: Service, url: DatabaseUrl) -> Started:
        """Destroy a service's server with all its data, once per run, and start a new one."""

    async def identity(self, service: Service) -> ServerIdentity | None:
        """Read the identity of a service's server from its data, not over a connection.

        Returns:
            The identity; None if it cannot be read.
        """

    async def comments_inside(self, service: Service, url: DatabaseUrl) -> Mapping[str, str]:
        """Read the comment of each database on a service's server, without the password.

        Raises:
            Refused: If they cannot be read, or another server answers.
        """

    async def init_scripts(self, service: Service) -> str:
        """Return a fingerprint of the init scripts of a new server; empty if it has none."""

    def psql(self) -> str:
        """Return the path of the `psql` to use; empty if none is installed."""

    def logs(self, services: Sequence[Service], *, follow: bool, lines: int) -> LogCommand:
        """Return the command that shows the servers' logs.

        Raises:
            HuleEduError: If there is no log, or this provider cannot read it.
        """
