"""Which URL a service's database has, and where that URL came from.

The order is the contract's: the service's own override variable, then what the environment
prescribes, then an error that names every variable that is missing.
"""

import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlencode

from huleedu_tasks.config.hosts import is_socket
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

# With a root certificate and no mode: asyncpg would prefer TLS, and verify nothing.
STRICTEST_TLS = "verify-full"
PLAIN_SCHEME = "postgresql"
_BARE_DSN = "postgresql://?"
_FORM = (
    f"Write it as {URL_SCHEME}://USER:PASSWORD@HOST:PORT/DATABASE, with special characters of the "
    "password percent-encoded."
)
_HINTS = {
    "url-several-hosts": "The tasks act on one server. State the URL of the primary alone, or keep "
    "this one and state that in {SERVICE}_DIRECT_DATABASE_URL.",
    "url-parameter-unsupported": f"State host, port and database in the URL itself. {_FORM}",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseUrl:
    """A database's address in its parts, the password kept secret.

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
        """Everything in it that must not be shown."""
        stated = [Secret(value) for name, value in self.query if name in SECRET_PARAMETERS]
        return [self.password, *stated]

    @property
    def address(self) -> str:
        """Host and port, as people write them; the file of a Unix socket."""
        if self.is_socket:
            return f"{self.host}/.s.PGSQL.{self.port}"
        return f"{_bracketed(self.host)}:{self.port}"

    @property
    def place(self) -> str:
        """The database and its server, as people write them."""
        return f"{self.database} on {self.address}"

    @property
    def is_socket(self) -> bool:
        """Whether the server is reached by a Unix socket."""
        return is_socket(self.host)

    @property
    def is_local(self) -> bool:
        """Whether the host is one of this machine's own loopback names."""
        return self.host in ("localhost", "127.0.0.1", "::1")

    @property
    def tls(self) -> dict[str, str]:
        """The TLS settings in the query, by libpq's names."""
        pairs = dict(self.query)
        inner = dict(parse_qsl(pairs.pop("dsn", "").partition("?")[2]))
        named = {"sslmode" if name == "ssl" else name: value for name, value in pairs.items()}
        return {name: value for name, value in (inner | named).items() if name.startswith("ssl")}

    def _text(self, password: str | None, pairs: Sequence[tuple[str, str]]) -> str:
        # quote_plus would write a space as +, which a server takes for a plus sign.
        user = quote(self.user, safe="")
        login = user if password is None else f"{user}:{password}"
        database = quote(self.database, safe="")
        pairs = [*self._socket, *pairs]
        query = f"?{urlencode(pairs, quote_via=quote, safe='/*')}" if pairs else ""
        server = "" if self.is_socket else self.address
        return f"{self.scheme}://{login}@{server}/{database}{query}"

    @property
    def _socket(self) -> list[tuple[str, str]]:
        """The parameters that name a Unix socket, as the driver knows them."""
        if not self.is_socket:
            return []
        if self.scheme.endswith("+pg8000"):
            return [("unix_sock", self.address)]
        return [("host", self.host), ("port", str(self.port))]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedUrl:
    """A service's URL and the variable or rule it came from.

    Attributes:
        stated: The override variable's own text, or None if the URL was put together here.
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
    """Take a PostgreSQL URL apart.

    Args:
        text: The URL, as SQLAlchemy writes it.
        variable: The variable it stands in, for the error.

    Raises:
        ConfigurationError: If it is no such URL. The text is not repeated: it may hold a password.
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

    In development an override that names the compose service as its host leads to the port that
    the service publishes: such a line of `.env` is meant for the other containers.

    Raises:
        ConfigurationError: If the override is no URL, or variables are missing: all are named.
    """
    environment = settings.environment
    if override := _stated(service.url_variable, settings):
        inside = environment.is_disposable and override.url.host == service.compose_service
        return _published(override, service) if inside else override
    if environment.is_disposable:
        return ResolvedUrl(url=_local_url(service, settings), source=str(environment))
    return ResolvedUrl(url=_external_url(service, settings), source=str(environment))


def resolve_direct(service: Service, settings: Settings) -> ResolvedUrl:
    """Return the URL that leads to the server itself, past a pooler, for locks and migrations.

    It is the service's own, unless its DIRECT variable states another one.

    Raises:
        ConfigurationError: As `resolve`.
    """
    return _stated(service.direct_url_variable, settings) or resolve(service, settings)


def resolve_each(
    services: Sequence[Service],
    settings: Settings,
    one: Callable[[Service, Settings], ResolvedUrl] = resolve,
) -> tuple[dict[str, ResolvedUrl], list[ConfigurationError]]:
    """Return the URLs of several services by name, and why the others have none.

    Args:
        one: What resolves a single one.
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
        ConfigurationError: With every service's problem at once, each missing variable once.
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
    """Return what several errors have found, each of it once."""
    found = (e.findings or (Finding(place="", problem=e.message, code=e.code),) for e in errors)
    return list(dict.fromkeys(finding for findings in found for finding in findings))


def certificates_problem(file: str) -> str:
    """Return what is wrong with a file of certificate authorities, or nothing."""
    if not Path(file).is_absolute():
        return f"{file!r} is no absolute path, and every service has a directory of its own"
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=file)
    except ssl.SSLError:
        return f"{file!r} holds no certificates"
    except OSError as error:
        return f"{file!r} cannot be read: {error.strerror}"
    return ""


def _stated(variable: str, settings: Settings) -> ResolvedUrl | None:
    text = settings.get(variable)
    if not text:
        return None
    return ResolvedUrl(url=parse_url(text, variable=variable), source=variable, stated=Secret(text))


def _published(override: ResolvedUrl, service: Service) -> ResolvedUrl:
    """Return a URL that is meant for containers as it is reached from this machine."""
    url = replace(override.url, host="localhost", port=service.port)
    return replace(override, url=url, stated=Secret(url.reveal()))


def _local_url(service: Service, settings: Settings) -> DatabaseUrl:
    _require(settings, service.user_variable, service.password_variable)
    return DatabaseUrl(
        user=settings.get(service.user_variable),
        password=settings.secret(service.password_variable),
        host="localhost",
        port=service.port,
        database=service.database,
        scheme=service.url_scheme,
    )


def _external_url(service: Service, settings: Settings) -> DatabaseUrl:
    prefix = EXTERNAL_PREFIX[settings.environment]
    # What `.env` says of them is meant for development.
    own_user = _of_process(settings, service.user_variable, but=USER_VARIABLE)
    own_password = _of_process(settings, service.password_variable, but=PASSWORD_VARIABLE)
    _require(settings, f"{prefix}_HOST", *([] if own_password else [f"{prefix}_PASSWORD"]))
    if wrong := [found for found in settings.findings() if found.place.startswith(prefix)]:
        raise ConfigurationError(
            "The settings have errors.", code="settings-invalid", findings=wrong
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
    """Return a variable of this process; empty if it is not set, or is everybody's."""
    return "" if name == but else settings.process.get(name, "")


def _tls_query(settings: Settings, prefix: str, scheme: str) -> tuple[tuple[str, str], ...]:
    """Return TLS as SQLAlchemy hands it to the driver: libpq's own names, but for asyncpg.

    asyncpg calls the mode `ssl`, and has no argument for the root certificate: it reads that from
    a DSN's query only, so a DSN with nothing else is handed over.
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
            hint="Set them in .env, which `invoke env.init` writes where there is none, or in the "
            "environment."
            if environment.is_disposable
            else "Set them in the environment of this command.",
        )


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
