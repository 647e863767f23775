"""The registry: `services.json`, parsed, checked and completed with defaults.

A registry with errors is refused, with all findings at once. Whether the files it refers to exist
is checked later, and only for the selected services, so that `services.list` can show a service
whose directory is missing.
"""

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from graphlib import CycleError, TopologicalSorter
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from huleedu_tasks.config.settings import PREFIX, Environment
from huleedu_tasks.errors import ConfigurationError, Finding

REGISTRY_FILE = "services.json"
SEED_DIRECTORY = Path("database/seed-scripts")
URL_SCHEME = "postgresql+asyncpg"
ALEMBIC = "alembic"
SEED_AFTER, MIGRATE_AFTER = "seed_after", "migrate_after"
USER_VARIABLE = "HULEEDU_DB_USER"
PASSWORD_VARIABLE = "HULEEDU_DB_PASSWORD"  # the name of a variable
SHARE = (
    'state "shared_database": true for each service with a history in it; any other service needs '
    "a database of its own"
)
# The convention for the database in testing.
TESTING_SUFFIX = "_test"
# Database names are limited to 63 bytes (PostgreSQL, NAMEDATALEN).
_LONGEST_DATABASE = 63
# The placeholder for a service's name in `database_name`.
NAME_PLACE = "{name}"
# The placeholders in values of `environment`, in braces (placeholders.py fills them in).
PLACEHOLDERS = ("environment", "host", "port", "user", "password", "database", "url")
# The limit of nested lists and objects; a valid registry has five levels.
MOST_LEVELS = 50
# Returns the published port of each compose service, given the compose files and the services
# whose ports are needed.
Published = Callable[[Sequence[str], Collection[str]], Mapping[str, int]]

TYPE_NAMES = {
    "integer": "an integer",
    "string": "a string",
    "array": "a list",
    "object": "an object",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One service, with its defaults filled in. Paths are absolute.

    Attributes:
        database: The name of its database in every environment but testing.
        testing_database: The name of its database in testing, on the server of development; equal
            to `database` if the two environments share it.
        url_variable: The name of its override variable.
        alembic_url_variable: The name of the variable that its `env.py` reads its URL from.
            Several services may share it, since each migration process has its own environment.
        user_variable: The name of the variable with the user of its database.
        password_variable: The name of the variable with that user's password.
        url_scheme: Dialect and driver by SQLAlchemy's names, for `env.py`, which may use another
            driver than the tasks.
        python: The command that starts the interpreter of its migrations; empty for the
            interpreter of this process.
        lock_timeout: Seconds a statement may wait for a lock; None for the setting.
        statement_timeout: Seconds a statement may take; None for the setting.
        alembic_section: The section of its Alembic configuration (`alembic --name`).
        alembic_x_arguments: The arguments of `alembic -x`, for its `env.py`.
        alembic_engine: The name of its database in the option `databases` of its Alembic
            configuration (template `multidb`); an empty string without that option.
        flask_app: Its Flask application, in the form of `flask --app`, in whose context its
            `env.py` runs; an empty string without one.
        seed_after: Names of the services that must be seeded before it.
        shared_database: Whether other services may have their histories in its database.
        migrate_after: Names of the services that must be migrated before it.
        inputs: Files and directories outside the service that its build reads.
        unmanaged: Patterns of objects in its database that no migration creates, such as
            `cron.*`; their drift is not reported.
    """

    name: str
    port: int
    directory: Path
    database: str
    testing_database: str
    url_variable: str
    alembic_url_variable: str
    url_scheme: str
    user_variable: str
    password_variable: str
    alembic_config: Path
    alembic_section: str
    alembic_x_arguments: tuple[str, ...]
    alembic_engine: str
    flask_app: str
    python: tuple[str, ...]
    environment: Mapping[str, str]
    lock_timeout: int | None
    statement_timeout: int | None
    compose_service: str
    volume: str
    extensions: tuple[str, ...]
    seeds: tuple[Path, ...]
    seed_after: tuple[str, ...]
    inputs: tuple[Path, ...]
    shared_database: bool
    migrate_after: tuple[str, ...]
    unmanaged: tuple[str, ...]

    @property
    def has_testing_database(self) -> bool:
        """Whether its databases in development and testing are two."""
        return self.testing_database != self.database

    def database_in(self, environment: Environment) -> str:
        """Return the name of its database in an environment."""
        is_testing = environment is Environment.TESTING
        return self.testing_database if is_testing else self.database

    @property
    def alembic_arguments(self) -> list[str]:
        """The global arguments of every Alembic command: configuration, section, `-x`."""
        section = ["--name", self.alembic_section] if self.alembic_section != ALEMBIC else []
        passed = [word for argument in self.alembic_x_arguments for word in ("-x", argument)]
        return ["-c", str(self.alembic_config), *section, *passed]

    @property
    def alembic_options(self) -> dict[str, str]:
        """The set options of the migration process that are not arguments of Alembic."""
        options = {"engine": self.alembic_engine, "flask_app": self.flask_app}
        return {name: value for name, value in options.items() if value}

    @property
    def direct_url_variable(self) -> str:
        """The name of the variable with the URL of the server itself, not of a pooler."""
        stem = self.url_variable.removesuffix("DATABASE_URL").removesuffix("_")
        return f"{stem}_DIRECT_DATABASE_URL".removeprefix("_")

    @property
    def names(self) -> tuple[str, ...]:
        """Its names and paths as they occur in messages, which no secret may mask."""
        paths = (self.directory, self.alembic_config, *self.seeds)
        databases = (self.database, self.testing_database)
        stated = (self.name, *databases, self.url_variable, self.compose_service, self.volume)
        return (*stated, *map(str, paths))

    def missing_files(self, *, seeds: bool = True) -> list[Finding]:
        """Return a finding for each required file of the service that is missing.

        Args:
            seeds: Whether its seeds are required; they are not in staging and production.
        """
        if not self.directory.is_dir():
            problem = f"its directory {self.directory} does not exist"
            return [Finding(place=self.name, problem=problem)]
        required = [self.alembic_config, *(self.seeds if seeds else ())]
        return [
            Finding(place=self.name, problem=f"its file {path} does not exist")
            for path in required
            if not path.is_file()
        ] + self._missing_interpreter()

    def _missing_interpreter(self) -> list[Finding]:
        # Without a slash it is found in PATH, when the migration process starts.
        if not self.python or "/" not in self.python[0]:
            return []
        path = self.directory / self.python[0]
        if path.exists():
            return []
        problem = f"its interpreter {path} does not exist: create its virtual environment"
        return [Finding(place=self.name, problem=problem)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Registry:
    """All services, in the order of the file.

    Attributes:
        prefix: The prefix of the names of all settings.
        state_directory: The directory for state; None for the default.
        without_port: The names of the services whose entry has no port.
    """

    path: Path
    services: tuple[Service, ...]
    compose_files: tuple[Path, ...] = ()
    prefix: str = PREFIX
    state_directory: Path | None = None
    without_port: frozenset[str] = frozenset()

    @property
    def root(self) -> Path:
        """The directory that all paths in the registry are relative to."""
        return self.path.parent

    @property
    def source(self) -> str:
        """The file of the registry, or the directory in which the services were discovered."""
        if self.path.is_file():
            return str(self.path)
        return f"{self.root} (services discovered, no {self.path.name})"

    def select(self, names: Sequence[str]) -> tuple[Service, ...]:
        """Return the named services in registry order, or all of them if none is named.

        Args:
            names: Names of services or of their directories.

        Raises:
            ConfigurationError: If a name is unknown; the closest known name is suggested.
        """
        known = {service.directory.name: service for service in self.services}
        known |= {service.name: service for service in self.services}
        unknown = [name for name in names if name not in known]
        if unknown:
            raise ConfigurationError(
                f"No service is named {', '.join(map(repr, unknown))} in {self.source}.",
                code="service-unknown",
                hint=_suggestion(unknown[0], list(known))
                or f"Known: {', '.join(service.name for service in self.services)}.",
            )
        wanted = {known[name].name for name in names}
        return tuple(s for s in self.services if not wanted or s.name in wanted)


def find_registry(start: Path, explicit: str) -> Path:
    """Return the path of the registry.

    Args:
        start: The directory to search first; its parents follow.
        explicit: The value of `HULEEDU_REGISTRY`; an empty string to search.

    Raises:
        ConfigurationError: If it is not found.
    """
    if explicit:
        path = (start / Path(explicit).expanduser()).resolve()
        if not path.is_file():
            raise ConfigurationError(
                f"HULEEDU_REGISTRY names {path}, which is not an existing file.",
                code="registry-missing",
                hint="Correct HULEEDU_REGISTRY, or unset it to search from this directory upwards.",
            )
        return path
    for directory in (start, *start.parents):
        if (directory / REGISTRY_FILE).is_file():
            return directory / REGISTRY_FILE
    raise ConfigurationError(
        f"{REGISTRY_FILE} was not found in {start} or any directory above it.",
        code="registry-missing",
        hint="Run `invoke services.discover` to write a registry, or create it at the root of the "
        'monorepo, for example: {"services": [{"name": "orders", "port": 5433}]}',
    )


def load_registry(path: Path, published: Published | None = None) -> Registry:
    """Read and check a registry.

    Args:
        published: Returns the published port of each compose service, given the compose files of
            the registry, and the compose services whose ports are needed; called only if an entry
            has no port.

    Raises:
        ConfigurationError: If it has errors; with every finding and its place.
    """
    text = read_text(path)
    document, findings = parse_registry(path, text)
    without_port = add_ports(document, published or (lambda *_: {}))
    registry = registry_of(document, path, text=text, findings=findings)
    return replace(registry, without_port=without_port)


def add_ports(document: Any, published: Published) -> frozenset[str]:
    """Add the port to each entry without one: that of an entry on the same server, or Compose's.

    Args:
        document: The parsed registry, which is changed.
        published: As for `load_registry`.

    Returns:
        The names of the services whose entry had no port.
    """
    stated = document if isinstance(document, dict) else {}
    listed = stated.get("services")
    entries = [entry for entry in listed if _has_name(entry)] if isinstance(listed, list) else []
    shared = [entry for entry in entries if "compose_service" in entry]
    ports = {_server_of(e): e["port"] for e in shared if isinstance(e.get("port"), int)}
    without = [entry for entry in entries if "port" not in entry]
    files = stated.get("compose_files", [])
    has_files = isinstance(files, list) and all(isinstance(file, str) for file in files)
    servers = {_server_of(entry) for entry in without} - ports.keys()
    by_compose = published(files, servers) if has_files and servers else {}
    for entry in without:
        port = ports.get(_server_of(entry)) or by_compose.get(_server_of(entry))
        entry.update({"port": port} if port else {})
    return frozenset(entry["name"] for entry in without)


def _has_name(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("name"), str)


def _server_of(entry: Mapping[str, Any]) -> str:
    return str(entry.get("compose_service", f"{entry['name']}_db"))


def registry_of(
    document: Any, path: Path, *, text: str = "", findings: Sequence[Finding] = ()
) -> Registry:
    """Return the registry of a parsed document.

    Args:
        path: The path of the file, which need not exist.
        text: The unparsed document, for the line numbers of findings.
        findings: The findings of parsing it.

    Raises:
        ConfigurationError: If it has errors; with every finding and its place.
    """
    services, wrong = _complete_services(document, path.parent)
    if findings or wrong:
        found = [*findings, *wrong]
        raise ConfigurationError(
            f"{path} has {len(found)} error{'s' * (len(found) > 1)}.",
            code="registry-invalid",
            findings=_with_lines(text, found),
            hint=f"Correct the file; {_schema_file()} describes each field.",
        )
    files = document.get("compose_files", ())
    state = document.get("state_directory")
    return Registry(
        path=path,
        services=services,
        compose_files=tuple(path.parent / file for file in files),
        prefix=document.get("prefix", PREFIX),
        state_directory=path.parent / state if state else None,
    )


def findings_in(document: Any, root: Path) -> list[Finding]:
    """Return the errors of a registry, each with its place in the document.

    Args:
        root: The directory of the registry, which need not exist.
    """
    return _complete_services(document, root)[1]


def _complete_services(document: Any, root: Path) -> tuple[tuple[Service, ...], list[Finding]]:
    """Return the services as far as their entries are valid, and the findings."""
    import jsonschema_rs

    errors = list(jsonschema_rs.validator_for(schema()).iter_errors(document))
    findings = [Finding(place=_place(e.instance_path), problem=_explain(e)) for e in errors]
    findings += _without_port(document)
    entries = _sound_entries(document, [error.instance_path for error in errors])
    convention = database_convention(document)
    services = tuple(complete(root, entry, convention) for entry in entries)
    # Of three equal entries, the last conflicts with both others in the same words.
    return services, list(dict.fromkeys([*findings, *_contradictions(entries, services)]))


def _without_port(document: Any) -> list[Finding]:
    listed = document.get("services") if isinstance(document, dict) else None
    return [
        Finding(place=f"services[{index}]", problem="'port' is missing")
        for index, entry in enumerate(listed if isinstance(listed, list) else [])
        if isinstance(entry, dict) and "port" not in entry
    ]


def schema() -> dict[str, Any]:
    """Return the JSON Schema of the registry, as shipped with the package."""
    document: dict[str, Any] = json.loads(_schema_file().read_text(encoding="utf-8"))
    return document


def _schema_file() -> Traversable:
    return resources.files("huleedu_tasks") / "services.schema.json"


def migrating_order(services: Sequence[Service]) -> tuple[Service, ...]:
    """Return the services in an order that satisfies `migrate_after`.

    Predecessors come directly before their service; otherwise the given order is kept. A loaded
    registry has no cycle.
    """
    by_name = {service.name: service for service in services}
    ordered: dict[str, Service] = {}

    def add(service: Service) -> None:
        if service.name not in ordered:
            for name in service.migrate_after:
                if name in by_name:
                    add(by_name[name])
            ordered[service.name] = service

    for service in services:
        add(service)
    return tuple(ordered.values())


def seeding_predecessors(services: Sequence[Service]) -> dict[str, Sequence[str]]:
    """Return the names of the services that must be seeded before each one.

    Seeds in one database follow its migrations, unless `seed_after` says otherwise.
    """
    stated = {service.name: service.seed_after for service in services}
    by_name = {service.name: service for service in services}
    both = {
        service.name: (
            *service.seed_after,
            *(
                name
                for name in service.migrate_after
                if name in by_name and share_database(service, by_name[name])
            ),
        )
        for service in services
    }
    try:
        tuple(TopologicalSorter(both).static_order())
    except CycleError:
        return dict(stated)
    return dict(both)


def _ordered(services: Sequence[Service], field: str) -> tuple[Service, ...]:
    by_name = {service.name: service for service in services}
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for service in services:
        sorter.add(service.name, *(name for name in getattr(service, field) if name in by_name))
    return tuple(by_name[name] for name in sorter.static_order())


def read_text(path: Path) -> str:
    """Return the text of a registry, with its line ends.

    Raises:
        ConfigurationError: If it cannot be read.
    """
    try:
        # Text mode would convert the line ends.
        return path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"{path} could not be read: {error}",
            code="registry-unreadable",
            hint="Save it as UTF-8, and make it readable.",
        ) from error


def parse_registry(path: Path, text: str) -> tuple[Any, list[Finding]]:
    """Parse a registry; return the document, and a finding for each duplicate key.

    Args:
        path: The path of the file, for the error.
        text: Its content.

    Raises:
        ConfigurationError: If it is not JSON.
    """
    duplicates: list[Finding] = []

    def without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        # JSON allows duplicate keys, of which the last one wins: one of them is a mistake.
        twice = sorted({key for key in keys if keys.count(key) > 1})
        owner = dict(pairs).get("name")
        place = f"service {owner}" if isinstance(owner, str) else ""
        duplicates.extend(
            Finding(place=place, problem=f"key {key!r} is duplicated") for key in twice
        )
        return dict(pairs)

    try:
        document = json.loads(text, object_pairs_hook=without_duplicates)
        _require_levels(document, MOST_LEVELS)
    except json.JSONDecodeError as error:
        raise ConfigurationError(
            f"{path} is not JSON: line {error.lineno}, column {error.colno}: {error.msg}.",
            code="registry-invalid",
            hint="Correct that line. JSON requires double quotes, and no trailing comma.",
        ) from error
    except (RecursionError, ValueError):
        raise ConfigurationError(
            f"{path} is not valid: it is nested too deeply, or a number has too many digits.",
            code="registry-invalid",
            hint=f"Correct the file; {_schema_file()} describes each field.",
        ) from None
    return document, duplicates


def _require_levels(value: Any, levels: int) -> None:
    """Raise `RecursionError` if a value has more levels: the schema validator recurses."""
    if not levels:
        raise RecursionError
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for child in inside:
        _require_levels(child, levels - 1)


def _sound_entries(document: Any, wrong: Sequence[Sequence[str | int]]) -> list[dict[str, Any]]:
    """Return the entries without their invalid fields, so that the others can be compared.

    An invalid name or port is replaced by one that no other entry has.
    """
    entries = document.get("services") if isinstance(document, dict) else None
    known = schema()["$defs"]["service"]["properties"]
    sound = []
    for index, entry in enumerate(entries if isinstance(entries, list) else []):
        bad = {path[2] for path in wrong if len(path) > 2 and path[1] == index}
        stated = entry if isinstance(entry, dict) else {}
        kept = {key: value for key, value in stated.items() if key in known and key not in bad}
        sound.append({"name": f"services[{index}]", "port": -index, **kept})
    return sound


def _explain(error: Any) -> str:
    """Return the message for an error of JSON Schema; the validator's own for rare kinds."""
    kind = error.kind.name
    if kind == "additionalProperties":
        known = _known_keys(error.instance_path)
        return "; ".join(
            f"unknown key {key!r}. {_suggestion(key, known) or 'Known: ' + ', '.join(known) + '.'}"
            for key in error.kind.unexpected
        )
    if kind == "minItems":
        return "is empty: name at least one"
    if kind == "required":
        return f"{error.kind.property!r} is missing"
    if kind == "type":
        wanted = " or ".join(TYPE_NAMES.get(name, name) for name in error.kind.types)
        return f"must be {wanted}, not {json.dumps(error.instance)}"
    return str(error.message)


def _known_keys(instance_path: Sequence[str | int]) -> list[str]:
    document = schema()
    level = document["$defs"]["service"] if len(instance_path) > 1 else document
    return list(level["properties"])


def _place(instance_path: Iterable[str | int]) -> str:
    place = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in instance_path)
    return place.removeprefix(".")


def _suggestion(name: str, known: Sequence[str]) -> str:
    close = get_close_matches(name, known, n=1, cutoff=0.6)
    return f"Did you mean {close[0]!r}?" if close else ""


def database_convention(document: Any) -> str:
    """Return the pattern, with `{name}` in it, for databases whose entry states no name."""
    stated = document if isinstance(document, dict) else {}
    convention, prefix = stated.get("database_name"), stated.get("prefix")
    if isinstance(convention, str) and NAME_PLACE in convention:
        return convention
    word = prefix.lower() if isinstance(prefix, str) else PREFIX.lower()
    return f"{word}_{NAME_PLACE}"


def stated_prefix(path: Path) -> str:
    """Return the prefix that a registry states, or the default; `load_registry` reports errors."""
    try:
        stated = json.loads(path.read_text(encoding="utf-8-sig"))["prefix"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return PREFIX
    is_sound = isinstance(stated, str) and re.fullmatch(r"[A-Z][A-Z0-9_]*[A-Z0-9]", stated)
    return stated if is_sound else PREFIX


def complete(root: Path, entry: Mapping[str, Any], convention: str = "huleedu_{name}") -> Service:
    """Return the service of a valid entry, with defaults for the fields that it does not state.

    Args:
        root: The directory of the registry.
        entry: The entry as parsed.
        convention: The pattern for the name of the database, with `{name}` in it.
    """
    name = entry["name"]
    directory = root / entry.get("directory", f"services/{name}_service")
    variable_stem = directory.name.upper().replace("-", "_").replace(".", "_")
    compose_service = entry.get("compose_service", f"{name}_db")
    engine = entry.get("alembic_engine", "")
    if engine:
        variable_stem += "_" + re.sub(r"\W", "_", engine).upper()
    url_variable = entry.get("url_variable", f"{variable_stem}_DATABASE_URL")
    database = entry.get("database", convention.replace(NAME_PLACE, name))
    return Service(
        name=name,
        # JSON Schema accepts 5433.0 as an integer.
        port=int(entry["port"]),
        directory=directory,
        database=database,
        testing_database=entry.get("testing_database", f"{database}{TESTING_SUFFIX}"),
        url_variable=url_variable,
        alembic_url_variable=entry.get("alembic_url_variable", url_variable),
        url_scheme=entry.get("url_scheme", URL_SCHEME),
        user_variable=entry.get("user_variable", USER_VARIABLE),
        password_variable=entry.get("password_variable", PASSWORD_VARIABLE),
        alembic_config=directory / entry.get("alembic_config", "alembic.ini"),
        alembic_section=entry.get("alembic_section", ALEMBIC),
        alembic_x_arguments=tuple(entry.get("alembic_x_arguments", ())),
        alembic_engine=engine,
        flask_app=entry.get("flask_app", ""),
        python=_interpreter(entry),
        environment=dict(entry.get("environment", {})),
        lock_timeout=entry.get("lock_timeout"),
        statement_timeout=entry.get("statement_timeout"),
        compose_service=compose_service,
        volume=entry.get("volume", f"{compose_service}_data"),
        extensions=tuple(entry.get("extensions", ())),
        seeds=_seeds(root, name, entry.get("seeds")),
        seed_after=tuple(entry.get("seed_after", ())),
        inputs=tuple(root / path for path in entry.get("inputs", ())),
        shared_database=entry.get("shared_database", False),
        migrate_after=tuple(entry.get("migrate_after", ())),
        unmanaged=tuple(entry.get("unmanaged", ())),
    )


def _interpreter(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the command that starts the interpreter a service's Alembic runs with.

    The script `alembic` itself is never run, because the migration process calls Alembic in
    Python. The interpreter is in the same directory as the script, and a runner such as
    `pdm run` finds both.
    """
    if "alembic" not in entry:
        return _command(entry.get("python", []))
    *runner, script = _command(entry["alembic"])
    directory, slash, _ = script.rpartition("/")
    return (*runner, f"{directory}{slash}python")


def _command(stated: str | Sequence[str]) -> tuple[str, ...]:
    return (stated,) if isinstance(stated, str) else tuple(stated)


def _seeds(root: Path, name: str, stated: Sequence[str] | None) -> tuple[Path, ...]:
    if stated is not None:
        return tuple(root / path for path in stated)
    candidates = [root / SEED_DIRECTORY / f"seed_{name}{suffix}" for suffix in (".py", ".sql")]
    return tuple(path for path in candidates if path.is_file())


def _contradictions(
    entries: Sequence[Mapping[str, Any]], services: Sequence[Service]
) -> Iterator[Finding]:
    """Yield the conflicts between entries, and those between the fields of one entry."""
    for index, service in enumerate(services):
        yield from _unclear_interpreter(f"services[{index}]", entries[index])
        yield from _unknown_placeholders(f"services[{index}].environment", service)
        yield from _too_long(f"services[{index}].testing_database", service)
        for earlier_index, earlier in enumerate(services[:index]):
            yield from _clashes(index, service, entries[index], earlier, entries[earlier_index])
        for field in (SEED_AFTER, MIGRATE_AFTER):
            yield from _unknown_names(
                f"services[{index}].{field}", getattr(service, field), services
            )
    for field in (SEED_AFTER, MIGRATE_AFTER):
        try:
            _ordered(services, field)
        except CycleError as error:
            cycle = " after ".join(error.args[1])
            yield Finding(place="services", problem=f"{field} forms a cycle: {cycle}")


def _unknown_names(
    place: str, stated: Sequence[str], services: Sequence[Service]
) -> Iterator[Finding]:
    names = sorted({service.name for service in services})
    for position, name in enumerate(stated):
        if name not in names:
            problem = f"no service is named {name!r}. {_suggestion(name, names)}".strip()
            yield Finding(place=f"{place}[{position}]", problem=problem)


def _unclear_interpreter(place: str, entry: Mapping[str, Any]) -> Iterator[Finding]:
    if "alembic" not in entry:
        return
    if "python" in entry:
        yield Finding(place=f"{place}.alembic", problem="conflicts with 'python': keep one of them")
    command = _command(entry["alembic"])
    if Path(command[-1]).name != ALEMBIC:
        problem = (
            f"must end with the program {ALEMBIC!r}, without arguments, not {command[-1]!r}; state "
            "--name as 'alembic_section' and -x as 'alembic_x_arguments'"
        )
        yield Finding(place=f"{place}.alembic", problem=problem)
    elif command == (ALEMBIC,):
        problem = "does not locate the program: write its path, or a command that runs it"
        yield Finding(place=f"{place}.alembic", problem=problem)


def _unknown_placeholders(place: str, service: Service) -> Iterator[Finding]:
    """Yield values that look like a misspelled placeholder; other braces are allowed."""
    for name, value in service.environment.items():
        word = value[1:-1] if re.fullmatch(r"\{[a-z_]+\}", value) else ""
        if word and word not in PLACEHOLDERS and (hint := _suggestion(word, PLACEHOLDERS)):
            problem = f"unknown placeholder {value}. {hint}"
            yield Finding(place=f"{place}.{name}", problem=problem)


def _too_long(place: str, service: Service) -> Iterator[Finding]:
    """Yield a testing database whose name PostgreSQL would truncate."""
    length = len(service.testing_database.encode())
    if service.has_testing_database and length > _LONGEST_DATABASE:
        yield Finding(
            place=place,
            problem=f"the database in testing, {service.testing_database!r}, has {length} bytes, "
            f"and PostgreSQL allows {_LONGEST_DATABASE}; state a shorter name as "
            "'testing_database'",
            code="testing-database-too-long",
        )


def _testing_clashes(index: int, service: Service, earlier: Service) -> Iterator[Finding]:
    """Yield a testing database that is a database of another service on the same server."""
    place = f"services[{index}].testing_database"
    if share_database(service, earlier):
        if service.testing_database != earlier.testing_database:
            yield Finding(
                place=place,
                problem=f"is {service.testing_database!r}, and {earlier.testing_database!r} for "
                f"{earlier.name!r}, which shares its database; state the same for both",
                code="testing-database-clash",
            )
        return
    for one, other in ((service, earlier), (earlier, service)):
        used = {other.database: "the database", other.testing_database: "the testing database"}
        if one.has_testing_database and one.testing_database in used:
            yield Finding(
                place=place,
                problem=f"the testing database {one.testing_database!r} of {one.name!r} is "
                f"{used[one.testing_database]} of {other.name!r}; state another "
                f"'testing_database' for {one.name!r}",
                code="testing-database-clash",
            )
            return


def _clashes(
    index: int,
    service: Service,
    entry: Mapping[str, Any],
    earlier: Service,
    earlier_entry: Mapping[str, Any],
) -> Iterator[Finding]:
    def clash(field: str, advice: str = "") -> Finding:
        value = getattr(service, field)
        shown = value if isinstance(value, int) else repr(str(value))
        problem = f"{shown} belongs to {earlier.name!r} already{advice}"
        return Finding(place=f"services[{index}].{field}", problem=problem)

    for field in ("name", "url_variable", "directory", "compose_service"):
        same = getattr(service, field) == getattr(earlier, field)
        if field == "directory":
            # One directory may contain several histories, each with its own configuration.
            same = same and service.alembic_arguments == earlier.alembic_arguments
            same = same and service.alembic_engine == earlier.alembic_engine
        # Fields that follow from a duplicate name by convention are not reported again.
        own = field == "name" or field in entry or service.name != earlier.name
        # Two services may share a server, which is compared below. A port below one stands for a
        # port that is invalid or missing.
        is_open = min(service.port, earlier.port) < 1
        allowed = field == "compose_service" and (service.port == earlier.port or is_open)
        # One variable may be the URL of all histories in one database.
        allowed = allowed or (field == "url_variable" and share_database(service, earlier))
        if same and own and not allowed:
            yield clash(field)
    if service.port != earlier.port:
        return
    server = entry.get("compose_service")
    if server is None or server != earlier_entry.get("compose_service"):
        yield clash(
            "port", "; if the two share one server, state the same 'compose_service' for both"
        )
    elif service.database == earlier.database and not share_database(service, earlier):
        yield clash("database", f"; {SHARE}")
    else:
        yield from _testing_clashes(index, service, earlier)


def share_database(one: Service, other: Service) -> bool:
    """Whether two services state that their histories share one development database."""
    return (
        one.shared_database
        and other.shared_database
        and (one.port, one.database) == (other.port, other.database)
    )


def _with_lines(text: str, findings: Sequence[Finding]) -> list[Finding]:
    """Return the findings with the line number in each place, if it is known."""
    lines = _lines_of_places(text)
    return [replace(finding, place=_with_line(finding.place, lines)) for finding in findings]


def _with_line(place: str, lines: Mapping[str, int]) -> str:
    stated = place
    # A field with its default has no line: use that of its entry.
    while stated and stated not in lines:
        stated = stated.rpartition(".")[0]
    return f"line {lines[stated]}, {place}" if stated in lines and place else place


def _lines_of_places(text: str) -> dict[str, int]:
    # The YAML parser reads JSON, and returns the line of each value.
    import yaml

    lines: dict[str, int] = {}

    def walk(node: yaml.Node, path: tuple[str | int, ...]) -> None:
        lines.setdefault(_place(path), node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == "name":
                    lines.setdefault(f"service {value.value}", node.start_mark.line + 1)
                walk(value, (*path, key.value))
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                walk(value, (*path, index))

    try:
        # JSON allows tabs between values; YAML does not.
        if document := yaml.compose(text.replace("\t", " "), Loader=yaml.SafeLoader):
            walk(document, ())
    except yaml.YAMLError:
        return {}
    return lines
