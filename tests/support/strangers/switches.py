"""The irregularities of real monorepos: switches whose default is the regular value."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum, auto
from functools import cached_property


class Folder(StrEnum):
    """The directory of a service."""

    REGULAR = "services/{name}_service"
    HYPHENS = "services/{hyphens}-service"
    APPS = "apps/{name}"
    BACKEND = "backend/svc-{hyphens}"
    TOP = "{name}"


class DatabaseName(StrEnum):
    REGULAR = "huleedu_{name}"
    BARE = "{name}"
    LONG = "{name}_prod_db"
    MIXED_CASE = "{camel}DB"


class Override(StrEnum):
    """The variable that a service takes its URL from."""

    REGULAR = "{directory}_DATABASE_URL"
    INITIALS = "{initials}_DATABASE_URL"
    DSN = "{capitals}_DB_DSN"
    # Only one service of a monorepo may have it.
    BARE = "DATABASE_URL"


class Config(StrEnum):
    """How a service reads its settings."""

    REGULAR = auto()
    MODULE = auto()
    PYDANTIC_ALIAS = auto()
    PYDANTIC_PREFIX = auto()
    # There is no config.py: env.py reads the variable.
    NONE = auto()


class EnvironmentVariable(StrEnum):
    """The variable that a service takes its environment from."""

    REGULAR = "HULEEDU_ENVIRONMENT"
    BARE = "ENVIRONMENT"
    OWN = "{capitals}_ENVIRONMENT"


class Driver(StrEnum):
    """The driver of a service's migrations."""

    REGULAR = "asyncpg"
    PSYCOPG2 = "psycopg2"
    PSYCOPG = "psycopg"
    PSYCOPG_ASYNC = "psycopg, asynchronous"

    @property
    def is_async(self) -> bool:
        return self in (Driver.REGULAR, Driver.PSYCOPG_ASYNC)

    @property
    def module(self) -> str:
        return self.partition(",")[0]

    @property
    def scheme(self) -> str:
        return f"postgresql+{self.module}"


class AlembicConfig(StrEnum):
    """Where Alembic is configured."""

    REGULAR = auto()
    SUBFOLDER = auto()
    PYPROJECT = auto()
    # script_location is in pyproject.toml, and logging is configured in alembic.ini.
    BOTH = auto()


class Paths(StrEnum):
    """The import path of a service's own code; the values are `prepend_sys_path`."""

    REGULAR = "."
    ROOT = "../.."
    SOURCES = "src"
    # Its env.py changes `sys.path` itself.
    OWN = ""


class Interpreter(StrEnum):
    """The interpreter of a service's migrations."""

    REGULAR = auto()
    OWN_PYTHON = auto()
    OWN_ALEMBIC = auto()
    UV_PYTHON = auto()
    UV_ALEMBIC = auto()


class History(StrEnum):
    """The shape of a service's revisions."""

    REGULAR = auto()
    MERGED = auto()
    SUBFOLDERS = auto()
    CONCURRENT_INDEX = auto()


# The fields of the registry for each interpreter.
COMMANDS: Mapping[Interpreter, Mapping[str, str | list[str]]] = {
    Interpreter.REGULAR: {},
    Interpreter.OWN_PYTHON: {"python": ".venv/bin/python"},
    Interpreter.OWN_ALEMBIC: {"alembic": ".venv/bin/alembic"},
    Interpreter.UV_PYTHON: {"python": ["uv", "run", "--no-sync", "python"]},
    Interpreter.UV_ALEMBIC: {"alembic": ["uv", "run", "--no-sync", "alembic"]},
}


@dataclass(frozen=True, kw_only=True)
class Stranger:
    """One service.

    Attributes:
        translates: Its env.py takes the regular URL and replaces the driver.
        interpolates: Its env.py passes the URL to `config.set_main_option`, which interprets `%`.
        shadows: Its directory of migrations is a package, which shadows Alembic if its name is
            `alembic`.
        migrations: The directory of its migrations is named `migrations`.
        loads_env_file: It searches for a `.env` in its parent directories.
        is_package: Its configuration is a package with relative imports.
        is_heavy: Its env.py has unused imports that take long.
        transaction_each: Every revision has a separate transaction.
        logs: Its env.py configures logging from the configuration file.
    """

    name: str = "orders"
    folder: Folder = Folder.REGULAR
    database_name: DatabaseName = DatabaseName.REGULAR
    override: Override = Override.REGULAR
    config: Config = Config.REGULAR
    environment: EnvironmentVariable = EnvironmentVariable.REGULAR
    driver: Driver = Driver.REGULAR
    translates: bool = False
    interpolates: bool = False
    shadows: bool = False
    migrations: bool = False
    alembic_config: AlembicConfig = AlembicConfig.REGULAR
    loads_env_file: bool = False
    paths: Paths = Paths.REGULAR
    is_package: bool = False
    is_heavy: bool = False
    interpreter: Interpreter = Interpreter.REGULAR
    history: History = History.REGULAR
    transaction_each: bool = False
    logs: bool = False

    def possible(self) -> "Stranger":
        """Return this service without switches that contradict each other."""
        changes: dict[str, object] = {}
        if self.paths is Paths.ROOT and not self.is_importable:
            changes["paths"] = Paths.REGULAR
        if self.config is Config.NONE:
            changes["is_package"] = False
        if self.alembic_config is AlembicConfig.PYPROJECT:
            changes["logs"] = False
        if self.driver is Driver.REGULAR:
            changes["translates"] = False
        return replace(self, **changes)  # type: ignore[arg-type]

    @property
    def is_importable(self) -> bool:
        """Whether Python can import its directory from the root of the monorepo."""
        return all(part.isidentifier() for part in self.directory.split("/"))

    @cached_property
    def directory(self) -> str:
        return self._filled(self.folder)

    @property
    def directory_name(self) -> str:
        return self.directory.rpartition("/")[2]

    @property
    def database(self) -> str:
        return self._filled(self.database_name)

    @property
    def url_variable(self) -> str:
        return self._filled(self.override)

    @property
    def environment_variable(self) -> str:
        return self._filled(self.environment)

    @property
    def scripts(self) -> str:
        return "migrations" if self.migrations else "alembic"

    @property
    def alembic_file(self) -> str:
        names = {
            AlembicConfig.SUBFOLDER: f"{self.scripts}/alembic.ini",
            AlembicConfig.PYPROJECT: "pyproject.toml",
        }
        return names.get(self.alembic_config, "alembic.ini")

    @property
    def url_scheme(self) -> str:
        """The scheme of the URL that it expects."""
        return (Driver.REGULAR if self.translates else self.driver).scheme

    @property
    def has_own_interpreter(self) -> bool:
        return self.interpreter is not Interpreter.REGULAR

    @property
    def hyphens(self) -> str:
        return self.name.replace("_", "-")

    def _filled(self, pattern: str) -> str:
        words = self.name.split("_")
        # `directory_name` itself is computed here, from a pattern without `{directory}`.
        directory = (
            self.directory_name.upper().replace("-", "_") if "{directory}" in pattern else ""
        )
        return str(pattern).format(
            name=self.name,
            hyphens=self.hyphens,
            capitals=self.name.upper(),
            camel="".join(word.capitalize() for word in words),
            initials="".join(word[0] for word in [*words, "service"]).upper(),
            directory=directory,
        )


class ComposeFiles(StrEnum):
    """How the compose configuration is split."""

    REGULAR = auto()
    INCLUDED = auto()
    SEVERAL = auto()


class ComposeNames(StrEnum):
    """The names of the servers in the compose files."""

    REGULAR = "{name}_db"
    DB_FIRST = "db-{hyphens}"
    POSTGRES = "postgres-{hyphens}"


class Ports(StrEnum):
    """How the compose files write a port."""

    REGULAR = "127.0.0.1:{port}:5432"
    SHORT = "{port}:5432"
    VARIABLE = "${{{capitals}_DB_PORT:-{port}}}:5432"
    # The long syntax of Compose, which is a mapping.
    LONG = ""


class Password(StrEnum):
    REGULAR = "secret-of-strangers"
    SIGNS = "p@ss#w%rd/1"
    QUOTES = """it's a "$ecret" of ${unset}"""


@dataclass(frozen=True, kw_only=True)
class Repository:
    """A monorepo of strangers.

    Attributes:
        ports: The port of each service's server; services that share one have the first.
        sharing: How many services, from the first one, share one server.
        containers: How many application containers every service has.
        containers_know: The application containers have the URL in the service's own variable.
        builds_from_root: The build context is the root, with a Dockerfile in the service's
            directory.
        fixed_names: The compose files name the containers.
        lists: The compose files write environments as lists.
        bystanders: The compose files have servers that belong to no service.
    """

    services: tuple[Stranger, ...]
    ports: tuple[int, ...] = ()
    folder: str = "repo"
    registry: str = "services.json"
    sharing: int = 0
    compose_files: ComposeFiles = ComposeFiles.REGULAR
    compose_names: ComposeNames = ComposeNames.REGULAR
    port_style: Ports = Ports.REGULAR
    password: Password = Password.SIGNS
    containers: int = 1
    containers_know: bool = True
    builds_from_root: bool = False
    fixed_names: bool = False
    lists: bool = False
    bystanders: bool = False

    @property
    def registry_is_elsewhere(self) -> bool:
        return "/" in self.registry

    def shares(self, service: Stranger) -> bool:
        return service in self.services[: self.sharing]

    def port(self, service: Stranger) -> int:
        return self.ports[0 if self.shares(service) else self.services.index(service)]

    def compose_service(self, service: Stranger) -> str:
        name = "shared_postgres" if self.shares(service) else str(self.compose_names)
        return name.format(name=service.name, hyphens=service.hyphens)

    def volume(self, service: Stranger) -> str:
        name = self.compose_service(service)
        return f"{name}-data" if "-" in name else f"{name}_data"
