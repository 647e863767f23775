"""Resolve a service's PostgreSQL URL from the environment, by the same rules for every service.

Standard library only: services import this in production, where no developer tooling is installed.
"""

import os
from dataclasses import dataclass
from urllib.parse import quote, urlencode

ENVIRONMENTS = ("development", "testing", "staging", "production")
DEFAULT_EXTERNAL_USER = "huleedu_user"
DEFAULT_EXTERNAL_PORT = "5432"

TESTING_SUFFIX = "_test"

_EXTERNAL_PREFIXES = {"production": "HULEEDU_PROD_DB", "staging": "HULEEDU_STAGING_DB"}


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseSettings:
    """What one service states about its database; the rest comes from the environment.

    `database` is its name in every environment but testing, where it ends with `TESTING_SUFFIX`.

    `service` is the name of the service's directory, `port` the one its development server has on
    localhost.
    """

    service: str
    database: str
    port: int

    @property
    def override_variable(self) -> str:
        """The variable that replaces the whole URL, for example FILE_SERVICE_DATABASE_URL."""
        return f"{self.service.upper()}_DATABASE_URL"

    @property
    def DATABASE_URL(self) -> str:
        """The asyncpg URL, read at each access so that a test can change the environment.

        1. The override variable, as is. An empty variable counts as unset, here and below.
        2. HULEEDU_ENVIRONMENT: `development` (the default) and `testing` mean this service's server
           on localhost, with a database for each of the two; `staging` and `production` an
           external, managed one.
        3. A ValueError that names every missing variable.
        """
        override = os.environ.get(self.override_variable)
        if override:
            return override
        environment = current_environment()
        prefix = _EXTERNAL_PREFIXES.get(environment)
        if prefix is None:
            return self._development_url(environment)
        return self._external_url(environment, prefix)

    def _development_url(self, environment: str) -> str:
        user, password = self._required(environment, "HULEEDU_DB_USER", "HULEEDU_DB_PASSWORD")
        suffix = TESTING_SUFFIX if environment == "testing" else ""
        return _url(user, password, "localhost", str(self.port), f"{self.database}{suffix}")

    def _external_url(self, environment: str, prefix: str) -> str:
        host, password = self._required(environment, f"{prefix}_HOST", f"{prefix}_PASSWORD")
        user = os.environ.get("HULEEDU_DB_USER") or DEFAULT_EXTERNAL_USER
        port = os.environ.get(f"{prefix}_PORT") or DEFAULT_EXTERNAL_PORT
        if not port.isdecimal():
            raise ValueError(f"{prefix}_PORT is {port!r}; it must be a number.")
        return _url(user, password, host, port, self.database) + _tls_query(prefix)

    def _required(self, environment: str, *names: str) -> list[str]:
        missing = [name for name in names if not os.environ.get(name)]
        if missing:
            raise ValueError(
                f"No database URL for {self.service} in {environment}: "
                f"{' and '.join(missing)} must be set (or {self.override_variable})."
            )
        return [os.environ[name] for name in names]


def current_environment() -> str:
    """Return the environment that HULEEDU_ENVIRONMENT names; `development` if it is not set.

    Raises:
        ValueError: If it is not one of `ENVIRONMENTS`.
    """
    stated = os.environ.get("HULEEDU_ENVIRONMENT", "")
    environment = stated.strip().lower() if stated else "development"
    if environment not in ENVIRONMENTS:
        raise ValueError(
            f"HULEEDU_ENVIRONMENT is {stated!r}; it must be one of {', '.join(ENVIRONMENTS)}."
        )
    return environment


def _url(user: str, password: str, host: str, port: str, database: str) -> str:
    credentials = f"{quote(user, safe='')}:{quote(password, safe='')}"
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return f"postgresql+asyncpg://{credentials}@{address}/{database}"


def _tls_query(prefix: str) -> str:
    """Return the TLS settings as arguments of asyncpg, in the form of a URL's query.

    asyncpg calls the mode `ssl`, and has no argument for the root certificate: it reads that path
    only from the query of a DSN, so the URL contains a DSN with nothing else in it. User, password
    and address are those of the URL itself.

    A certificate without a mode means verify-full. Otherwise asyncpg would "prefer" TLS, and would
    not verify the server.
    """
    mode = os.environ.get(f"{prefix}_SSLMODE")
    certificate = os.environ.get(f"{prefix}_SSLROOTCERT")
    arguments: dict[str, str] = {}
    if mode or certificate:
        arguments["ssl"] = mode or "verify-full"
    if certificate:
        arguments["dsn"] = f"postgresql://?{_query({'sslrootcert': certificate})}"
    return f"?{_query(arguments)}" if arguments else ""


def _query(arguments: dict[str, str]) -> str:
    return urlencode(arguments, safe="/", quote_via=quote)
