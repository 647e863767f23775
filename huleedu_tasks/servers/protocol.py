"""What every provider of development servers can do."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from huleedu_tasks.config.registry import Service
from huleedu_tasks.config.settings import ProviderName
from huleedu_tasks.config.urls import DatabaseUrl
from huleedu_tasks.postgres.databases import ServerIdentity

# What the providers keep in the state directory: the servers' data, and what is known of
# containers.
EMBEDDED_DIRECTORY = "embedded"
CONTAINERS_FILE = "containers.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """What starting a server came to.

    Attributes:
        done: What was done, in a few words.
        newborn: Whether its data was made by this start.
    """

    done: str
    is_new: bool = False


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

    async def prepare(
        self, services: Sequence[Service], login: DatabaseUrl, *, on_new: Callable[[], object]
    ) -> None:
        """Do what all servers need once, before any of them starts.

        Args:
            login: User and password the servers are made with, in any service's URL.
            on_new: Called as soon as it is clear that a server will be made, which takes long.
        """

    async def start(self, service: Service, url: DatabaseUrl) -> Started:
        """Start a service's server unless it runs, and return when its database accepts its user.

        Raises:
            HuleEduError: If it cannot be started, or does not let the user in.
        """

    async def stop(self, service: Service) -> str:
        """Stop a service's server if it runs, keeping its data; return what was done."""

    async def renew(self, service: Service, url: DatabaseUrl) -> Started:
        """Destroy a service's server with all its data, once in a run, and start a new one."""

    async def identity(self, service: Service) -> ServerIdentity | None:
        """Return which server is the service's own, as seen from the provider's side."""

    async def comments_inside(self, service: Service, url: DatabaseUrl) -> Mapping[str, str]:
        """Read the comment of each database from the provider's side, without the password.

        Raises:
            Refused: If they cannot be read, or the server is not the provider's own.
        """

    async def init_scripts(self, service: Service) -> str:
        """Return a fingerprint of the scripts that fill a new server; empty if there are none."""

    def psql(self) -> str:
        """Return the `psql` to use, or an empty text if there is none."""

    def logs(self, services: Sequence[Service], *, follow: bool, lines: int) -> list[str]:
        """Return the command that shows the servers' logs.

        Raises:
            ConfigurationError: If this provider has no logs to show.
        """
