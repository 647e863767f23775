"""Which URL a service's database has, and where that URL came from.

The order is the contract's: the service's own override variable, then what the environment
prescribes, then an error that names every variable that is missing.
"""

from dataclasses import dataclass, replace
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from huleedu_tasks.config.registry import Service
from huleedu_tasks.config.secret import MASK, Secret
from huleedu_tasks.config.settings import EXTERNAL_PREFIX, Environment, Settings
from huleedu_tasks.errors import ConfigurationError, Finding

SCHEME = "postgresql+asyncpg"
EXTERNAL_DEFAULT_USER = "huleedu_user"
POSTGRES_PORT = 5432
# With a root certificate and no mode: asyncpg would prefer TLS, and verify nothing.
STRICTEST_TLS = "verify-full"
_BARE_DSN = "postgresql://?"


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
    scheme: str = SCHEME
    query: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return self._text(MASK if self.password else None)

    def reveal(self) -> str:
        """Return the URL with its password, everything percent-encoded."""
        return self._text(quote(self.password.reveal(), safe="") if self.password else None)

    def without_password(self) -> "DatabaseUrl":
        """Return the same address with no password in it."""
        return replace(self, password=Secret(""))

    @property
    def address(self) -> str:
        """Host and port, as people write them."""
        return f"{_bracketed(self.host)}:{self.port}"

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

    def _text(self, password: str | None) -> str:
        # quote_plus would write a space as +, which a server takes for a plus sign.
        user = quote(self.user, safe="")
        login = user if password is None else f"{user}:{password}"
        database = quote(self.database, safe="")
        query = f"?{urlencode(self.query, quote_via=quote, safe='/')}" if self.query else ""
        return f"{self.scheme}://{login}@{self.address}/{database}{query}"


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
    problem = ""
    try:
        parts = urlsplit(text.strip())
        port = parts.port or POSTGRES_PORT
    except ValueError:
        # What Python says of it repeats a part, and that may be the password.
        problem = "is no URL"
    else:
        if parts.scheme.partition("+")[0] not in ("postgresql", "postgres"):
            problem = "does not begin with postgresql+asyncpg://"
        elif parts.fragment:
            problem = "has a bare # in it"
        elif not parts.hostname or not parts.path.strip("/") or not parts.username:
            problem = "lacks a user, a host or a database"
    if problem:
        raise ConfigurationError(
            f"{variable} {problem}.",
            hint=f"Write it as {SCHEME}://USER:PASSWORD@HOST:PORT/DATABASE, with special "
            "characters of the password percent-encoded.",
        ) from None
    return DatabaseUrl(
        scheme=parts.scheme,
        user=unquote(parts.username or ""),
        password=Secret(unquote(parts.password or "")),
        host=parts.hostname or "",
        port=port,
        database=unquote(parts.path.removeprefix("/")),
        query=tuple(parse_qsl(parts.query, keep_blank_values=True)),
    )


def resolve(service: Service, settings: Settings) -> ResolvedUrl:
    """Return the URL of a service's database in the current environment.

    Raises:
        ConfigurationError: If the override is no URL, or variables are missing: all are named.
    """
    override = settings.get(service.url_variable)
    if override:
        return ResolvedUrl(
            url=parse_url(override, variable=service.url_variable),
            source=service.url_variable,
            stated=Secret(override),
        )
    environment = settings.environment
    if environment.is_disposable:
        return ResolvedUrl(url=_local_url(service, settings), source=str(environment))
    return ResolvedUrl(url=_external_url(service, settings), source=str(environment))


def resolve_all(services: tuple[Service, ...], settings: Settings) -> dict[str, ResolvedUrl]:
    """Return the URLs of several services by name.

    Raises:
        ConfigurationError: With every service's problem at once, each missing variable once.
    """
    resolved = {}
    problems: dict[tuple[str, str], Finding] = {}
    for service in services:
        try:
            resolved[service.name] = resolve(service, settings)
        except ConfigurationError as error:
            for finding in error.findings or (Finding(place="", problem=error.message),):
                problems.setdefault((finding.place, finding.problem), finding)
            hint = error.hint
    if problems:
        raise ConfigurationError(
            f"The database URLs of the {settings.environment} environment cannot be resolved.",
            findings=list(problems.values()),
            hint=hint,
        )
    return resolved


def _local_url(service: Service, settings: Settings) -> DatabaseUrl:
    _require(settings, "HULEEDU_DB_USER", "HULEEDU_DB_PASSWORD")
    return DatabaseUrl(
        user=settings.get("HULEEDU_DB_USER"),
        password=settings.secret("HULEEDU_DB_PASSWORD"),
        host="localhost",
        port=service.port,
        database=service.database,
    )


def _external_url(service: Service, settings: Settings) -> DatabaseUrl:
    prefix = EXTERNAL_PREFIX[settings.environment]
    _require(settings, f"{prefix}_HOST", f"{prefix}_PASSWORD")
    return DatabaseUrl(
        user=settings.get("HULEEDU_DB_USER") or EXTERNAL_DEFAULT_USER,
        password=settings.secret(f"{prefix}_PASSWORD"),
        host=settings.get(f"{prefix}_HOST"),
        port=int(settings.get(f"{prefix}_PORT")),
        database=service.database,
        query=_tls_query(settings, prefix),
    )


def _tls_query(settings: Settings, prefix: str) -> tuple[tuple[str, str], ...]:
    """Return TLS as SQLAlchemy's asyncpg dialect takes it: pairs for `asyncpg.connect`.

    asyncpg calls the mode `ssl`, and has no argument for the root certificate: it reads that from
    a DSN's query only, so a DSN with nothing else is handed over.
    """
    mode = settings.get(f"{prefix}_SSLMODE")
    root_certificate = settings.get(f"{prefix}_SSLROOTCERT")
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
            findings=[Finding(place=name, problem="is not set") for name in missing],
            hint="Set them in .env, which `invoke env.init` writes where there is none, or in the "
            "environment."
            if environment.is_disposable
            else "Set them in the environment of this command.",
        )


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
