"""Resolve the URL of a service's database, and the variable or rule that it came from.

The service's override variable takes precedence, then the variables of the environment; otherwise
an error names every missing variable.
"""

import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlencode

from huleedu_tasks.config.hosts import LOOPBACK, is_socket
from huleedu_tasks.config.registry import (
    PASSWORD_VARIABLE,
    URL_SCHEME,
    USER_VARIABLE,
    Service,
)
from huleedu_tasks.config.secret import MASK, SECRET_PARAMETERS, Secret, masked_urls
from huleedu_tasks.config.settings import EXTERNAL_PREFIX, Environment, Settings
from huleedu_tasks.config.url_parts import POSTGRES_PORT as POSTGRES_PORT
from huleedu_tasks.config.url_parts import InvalidUrl, url_parts
from huleedu_tasks.errors import ConfigurationError, Finding

# For a root certificate without a mode, with which asyncpg would not verify the server.
STRICTEST_TLS = "verify-full"
PLAIN_SCHEME = "postgresql"
_BARE_DSN = "postgresql://?"
_FORM = (
    f"Write it as {URL_SCHEME}://USER:PASSWORD@HOST:PORT/DATABASE, with special characters of the "
    "password percent-encoded."
)
_HINTS = {
    "url-several-hosts": "The tasks connect to one server. State only the URL of the primary, or "
    "keep this one and set {SERVICE}_DIRECT_DATABASE_URL to that of the primary.",
    "url-parameter-unsupported": f"State host, port and database in the URL itself. {_FORM}",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseUrl:
    """The parts of a database's URL, with the password as a secret.

    Attributes:
        scheme: As SQLAlchemy names dialect and driver, for example `postgresql+asyncpg`.
        query: The pairs behind the question mark, in order.
    """

    user: str
    password: Secret
    host: str
    port: int
    database: str
    scheme: str = URL_SCHEME
    query: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        query = [
            (name, MASK if name in SECRET_PARAMETERS else masked_urls(value))
            for name, value in self.query
        ]
        return self._text(MASK if self.password else None, query)

    def reveal(self) -> str:
        """Return the URL with its password, everything percent-encoded."""
        password = quote(self.password.reveal(), safe="") if self.password else None
        return self._text(password, self.query)

    @property
    def plain(self) -> "DatabaseUrl":
        """The URL as libpq reads it: no driver, TLS by libpq's names, no other parameters."""
        return replace(self, scheme=PLAIN_SCHEME, query=tuple(self.tls.items()))

    @property
    def secrets(self) -> list[Secret]:
        """The secrets in the URL: the password, and those in its query."""
        stated = [Secret(value) for name, value in self.query if name in SECRET_PARAMETERS]
        return [self.password, *stated]

    @property
    def address(self) -> str:
        """`HOST:PORT`, or the path of the Unix socket."""
        if self.is_socket:
            return f"{self.host}/.s.PGSQL.{self.port}"
        return f"{_bracketed(self.host)}:{self.port}"

    @property
    def place(self) -> str:
        """`DATABASE on HOST:PORT`, for messages."""
        return f"{self.database} on {self.address}"

    @property
    def is_socket(self) -> bool:
        """Whether the server is reached by a Unix socket."""
        return is_socket(self.host)

    @property
    def is_local(self) -> bool:
        """Whether the host is one of this machine's own loopback names."""
        return self.host in LOOPBACK

    @property
    def tls(self) -> dict[str, str]:
        """The TLS settings in the query, by libpq's names."""
        pairs = dict(self.query)
        inner = dict(parse_qsl(pairs.pop("dsn", "").partition("?")[2]))
        named = {"sslmode" if name == "ssl" else name: value for name, value in pairs.items()}
        return {name: value for name, value in (inner | named).items() if name.startswith("ssl")}

    def _text(self, password: str | None, pairs: Sequence[tuple[str, str]]) -> str:
        # quote_plus would write a space as +, which a server reads as a plus sign.
        user = quote(self.user, safe="")
        login = user if password is None else f"{user}:{password}"
        database = quote(self.database, safe="")
        pairs = [*self._socket, *pairs]
        query = f"?{urlencode(pairs, quote_via=quote, safe='/*')}" if pairs else ""
        server = "" if self.is_socket else self.address
        return f"{self.scheme}://{login}@{server}/{database}{query}"

    @property
    def _socket(self) -> list[tuple[str, str]]:
        """The parameters for a Unix socket, by the driver's names; empty for TCP."""
        if not self.is_socket:
            return []
        if self.scheme.endswith("+pg8000"):
            return [("unix_sock", self.address)]
        return [("host", self.host), ("port", str(self.port))]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedUrl:
    """A service's URL and the variable or rule it came from.

    Attributes:
        stated: The value of the override variable; None if the URL was built from parts.
    """

    url: DatabaseUrl
    source: str
    stated: Secret | None = None

    @property
    def is_override(self) -> bool:
        """Whether the URL was stated by the service's override variable."""
        return self.stated is not None

    def reveal(self) -> str:
        """Return the URL with its password; an override exactly as it was stated."""
        return self.stated.reveal() if self.stated else self.url.reveal()


def parse_url(text: str, *, variable: str) -> DatabaseUrl:
    """Parse a PostgreSQL URL.

    Args:
        text: The URL, as SQLAlchemy writes it.
        variable: The name of the variable that has it, for the error.

    Raises:
        ConfigurationError: If it is not a valid PostgreSQL URL. The message does not repeat the
            URL, which may contain a password.
    """
    try:
        parts = url_parts(text)
    except InvalidUrl as invalid:
        raise ConfigurationError(
            f"{variable} {invalid.problem}.",
            code=invalid.code,
            hint=_HINTS.get(invalid.code, _FORM),
        ) from None
    return DatabaseUrl(
        scheme=parts.scheme,
        user=parts.user,
        password=Secret(parts.password),
        host=parts.host,
        port=parts.port,
        database=parts.database,
        query=parts.query,
    )


def resolve(service: Service, settings: Settings) -> ResolvedUrl:
    """Return the URL of a service's database in the current environment.

    In testing that is a database of its own on the server of development (`testing_database`).
    In development an override whose host is the compose service resolves to the port that the
    service publishes: such a line of `.env` is meant for the other containers.

    Raises:
        ConfigurationError: If the override is not a valid URL, or variables are missing; the
            message names all of them.
    """
    environment = settings.environment
    if override := _stated(service.url_variable, settings):
        inside = environment.is_disposable and override.url.host == service.compose_service
        return _published(override, service) if inside else override
    if environment.is_disposable:
        return ResolvedUrl(url=_local_url(service, settings), source=str(environment))
    return ResolvedUrl(url=_external_url(service, settings), source=str(environment))


def resolve_direct(service: Service, settings: Settings) -> ResolvedUrl:
    """Return the URL of the server itself, not of a pooler, for locks and migrations.

    It is the value of the service's DIRECT variable, or else the service's URL.

    Raises:
        ConfigurationError: As `resolve`.
    """
    return _stated(service.direct_url_variable, settings) or resolve(service, settings)


def resolve_each(
    services: Sequence[Service],
    settings: Settings,
    one: Callable[[Service, Settings], ResolvedUrl] = resolve,
) -> tuple[dict[str, ResolvedUrl], list[ConfigurationError]]:
    """Return the URLs of several services by name, and the errors of the others.

    Args:
        one: Resolves the URL of one service.
    """
    resolved, errors = {}, []
    for service in services:
        try:
            resolved[service.name] = one(service, settings)
        except ConfigurationError as error:
            errors.append(error)
    return resolved, errors


def resolve_all(services: Sequence[Service], settings: Settings) -> dict[str, ResolvedUrl]:
    """Return the URLs of several services by name.

    Raises:
        ConfigurationError: With the problems of all services, each missing variable once.
    """
    resolved, errors = resolve_each(services, settings)
    if errors:
        raise ConfigurationError(
            f"The database URLs of the {settings.environment} environment cannot be resolved.",
            code="url-unresolved",
            findings=findings_of(errors),
            hint=errors[-1].hint,
        )
    return resolved


def findings_of(errors: Sequence[ConfigurationError]) -> list[Finding]:
    """Return the findings of several errors, without duplicates."""
    found = (e.findings or (Finding(place="", problem=e.message, code=e.code),) for e in errors)
    return list(dict.fromkeys(finding for findings in found for finding in findings))


def certificates_problem(file: str) -> str:
    """Return the problem of a file of certificate authorities; an empty string if it is valid."""
    if not Path(file).is_absolute():
        return f"{file!r} is not an absolute path; each service runs in its own directory"
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=file)
    except ssl.SSLError:
        return f"{file!r} contains no certificates"
    except OSError as error:
        return f"{file!r} could not be read: {error.strerror}"
    return ""


def _stated(variable: str, settings: Settings) -> ResolvedUrl | None:
    text = settings.get(variable)
    if not text:
        return None
    return ResolvedUrl(url=parse_url(text, variable=variable), source=variable, stated=Secret(text))


def _published(override: ResolvedUrl, service: Service) -> ResolvedUrl:
    """Return a URL for containers with the host and port as published on this machine."""
    url = replace(override.url, host="localhost", port=service.port)
    return replace(override, url=url, stated=Secret(url.reveal()))


def _local_url(service: Service, settings: Settings) -> DatabaseUrl:
    _require(settings, service.user_variable, service.password_variable)
    return DatabaseUrl(
        user=settings.get(service.user_variable),
        password=settings.secret(service.password_variable),
        host="localhost",
        port=service.port,
        database=service.database_in(settings.environment),
        scheme=service.url_scheme,
    )


def _external_url(service: Service, settings: Settings) -> DatabaseUrl:
    prefix = EXTERNAL_PREFIX[settings.environment]
    # Their values in `.env` are for development.
    own_user = _of_process(settings, service.user_variable, but=USER_VARIABLE)
    own_password = _of_process(settings, service.password_variable, but=PASSWORD_VARIABLE)
    _require(settings, f"{prefix}_HOST", *([] if own_password else [f"{prefix}_PASSWORD"]))
    if wrong := [found for found in settings.findings() if found.place.startswith(prefix)]:
        raise ConfigurationError(
            "The settings have errors.",
            code="settings-invalid",
            hint="Correct them; `invoke env.show` shows each variable and where it comes from.",
            findings=wrong,
        )
    return DatabaseUrl(
        user=own_user or settings.get(USER_VARIABLE) or f"{settings.prefix.lower()}_user",
        password=Secret(own_password) if own_password else settings.secret(f"{prefix}_PASSWORD"),
        host=settings.get(f"{prefix}_HOST"),
        port=int(settings.get(f"{prefix}_PORT")),
        database=service.database,
        scheme=service.url_scheme,
        query=_tls_query(settings, prefix, service.url_scheme),
    )


def _of_process(settings: Settings, name: str, *, but: str) -> str:
    """Return a variable of this process.

    An empty string if it is not set, or is `but`: the variable that all services share.
    """
    return "" if name == but else settings.process.get(name, "")


def _tls_query(settings: Settings, prefix: str, scheme: str) -> tuple[tuple[str, str], ...]:
    """Return the TLS parameters as SQLAlchemy passes them to the driver, by libpq's names.

    Only asyncpg differs: it calls the mode `ssl`, and has no argument for the root certificate.
    It reads that from the query of a DSN, so the pairs contain a DSN with nothing else in it.
    """
    mode = settings.get(f"{prefix}_SSLMODE")
    root_certificate = settings.get(f"{prefix}_SSLROOTCERT")
    if not scheme.endswith("+asyncpg"):
        mode = mode or (STRICTEST_TLS if root_certificate else "")
        pairs = (("sslmode", mode), ("sslrootcert", root_certificate))
        return tuple((name, value) for name, value in pairs if value)
    if root_certificate:
        dsn = (
            f"{_BARE_DSN}{urlencode({'sslrootcert': root_certificate}, quote_via=quote, safe='/')}"
        )
        return (("ssl", mode or STRICTEST_TLS), ("dsn", dsn))
    return (("ssl", mode),) if mode else ()


def _require(settings: Settings, *names: str) -> None:
    missing = [name for name in names if not settings.get(name)]
    if missing:
        environment: Environment = settings.environment
        raise ConfigurationError(
            f"The {environment} environment needs {' and '.join(missing)}.",
            code="setting-missing",
            findings=[Finding(place=name, problem="is not set") for name in missing],
            hint="Set them in .env (`invoke env.init` writes it) or in the environment."
            if environment.is_disposable
            else "Set them in the environment of this command.",
        )


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
