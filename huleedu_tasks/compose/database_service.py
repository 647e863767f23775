"""A service of the compose configuration, and the properties of a database server in it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from huleedu_tasks.compose.declarations import Declaration
from huleedu_tasks.config.urls import POSTGRES_PORT

# Replaces the value of a required variable that is not set. A number, since it may be a port.
PLACEHOLDER = "64999"

_POSTGRES_IMAGE = re.compile(
    r"(postgres|postgresql|postgis|pgvector|pgvecto-rs|timescaledb(-ha)?|citus|paradedb|spilo)"
    r"([-_]?\d[\w-]*|-alpine|-repmgr)?"
)
DATABASE_VARIABLES = ("POSTGRES_DB", "POSTGRESQL_DATABASE", "POSTGRESQL_DB")
_USER_VARIABLES = ("POSTGRES_USER", "POSTGRESQL_USERNAME", "POSTGRESQL_USER")
_PASSWORD_VARIABLES = ("POSTGRES_PASSWORD", "POSTGRESQL_PASSWORD")
_SERVER_VARIABLES = (*DATABASE_VARIABLES, *_USER_VARIABLES, "POSTGRES_PASSWORD")
# Variables of a client of another server.
_CLIENT_VARIABLES = ("POSTGRES_HOST", "POSTGRES_SERVER", "POSTGRES_HOSTNAME", "PGHOST")
_DATA_DIRECTORIES = ("/var/lib/postgresql/data", "/bitnami/postgresql", "/var/lib/pgsql/data")


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """One service of the compose configuration.

    Attributes:
        environment: Its variables; one without a value is left out.
        ports: Pairs of the port on the host (None if it is not known) and in the container.
        mounts: Pairs of the volume's key or host path, and the path in the container.
        build_context: The directory that its image is built from; None if it is not built here.
        file: The compose file that declares it; None if it is not known.
    """

    name: str
    image: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    ports: tuple[tuple[int | None, int], ...] = ()
    mounts: tuple[tuple[str, str], ...] = ()
    container_name: str = ""
    build_context: Path | None = None
    dockerfile: Path | None = None
    working_dir: str = ""
    command: str = ""
    depends_on: tuple[str, ...] = ()
    file: Path | None = None

    @property
    def is_postgres(self) -> bool:
        """Whether it is a PostgreSQL server, by its image or its variables."""
        repository = self.image.partition("@")[0].rpartition("/")[2].partition(":")[0]
        if _POSTGRES_IMAGE.fullmatch(repository.lower()):
            return True
        if any(name in self.environment for name in _CLIENT_VARIABLES):
            return False
        is_configured = any(name in self.environment for name in _SERVER_VARIABLES)
        serves = any(inside == POSTGRES_PORT for _, inside in self.ports)
        return is_configured and (serves or bool(self.data_volume))

    @property
    def database(self) -> str:
        """The database that it creates; empty if the variable that names it is not set."""
        return self._first(DATABASE_VARIABLES) or self.user or self._default(_USER_VARIABLES)

    @property
    def user(self) -> str:
        """The user that it creates; empty if it is not known."""
        return self._first(_USER_VARIABLES)

    @property
    def login(self) -> tuple[str, str]:
        """The user that it creates and its password; either is empty if it is not known."""
        user = self.user or self._default(_USER_VARIABLES)
        return user, self._first(_PASSWORD_VARIABLES)

    @property
    def port(self) -> int | None:
        """The port on the host that is mapped to the server's; None if it is not known."""
        published = [(inside, outside) for outside, inside in self.ports if outside]
        return next(
            (outside for inside, outside in published if inside == POSTGRES_PORT),
            # The server may listen on another port than 5432 in its container.
            published[0][1] if len(published) == 1 else None,
        )

    @property
    def data_volume(self) -> str:
        """The key of the volume, or the host path, that has its data; empty if neither does."""
        directories = [*_DATA_DIRECTORIES, self.environment.get("PGDATA", "")]
        return next(
            (
                source
                for source, target in self.mounts
                if any(
                    f"{directory}/".startswith(f"{target}/")
                    for directory in directories
                    if directory
                )
            ),
            "",
        )

    def _first(self, names: Sequence[str]) -> str:
        return next((self.environment[name] for name in names if self.environment.get(name)), "")

    def _default(self, names: Sequence[str]) -> str:
        return "" if any(name in self.environment for name in names) else "postgres"


def container_of(name: str, service: Declaration) -> Container:
    """Return the compose service of a declaration, without values that are not known."""
    unknown = int(PLACEHOLDER)
    return Container(
        name=name,
        image=_known(service.image or ""),
        environment={n: _known(v) for n, v in sorted(service.environment.items()) if v is not None},
        ports=tuple(dict.fromkeys((None if o == unknown else o, i) for o, i in service.ports)),
        mounts=tuple((_known(source), target) for target, source in sorted(service.mounts.items())),
        container_name=_known(service.container_name or ""),
        build_context=service.context,
        dockerfile=service.built_by,
        working_dir=service.working_dir or "",
        command=service.command or "",
        depends_on=tuple(sorted(service.depends_on)),
        file=service.file,
    )


def _known(value: str) -> str:
    return value.replace(PLACEHOLDER, "")
