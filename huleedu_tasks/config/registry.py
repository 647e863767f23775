"""The registry: `services.json` read, checked as a whole, and completed by convention.

A registry that does not hold together is refused with every finding at once. Whether the files
it points at exist is asked later, of the services a command is about, so that one missing directory
does not keep `services.list` from showing it.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from graphlib import CycleError, TopologicalSorter
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from huleedu_tasks.config.settings import PREFIX
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
# Where a service's name stands in `database_name`.
NAME_PLACE = "{name}"
# What a value of `environment` may hold in braces (placeholders.py fills it in).
PLACEHOLDERS = ("environment", "host", "port", "user", "password", "database", "url")
# Of lists and objects in each other; a registry has five.
MOST_LEVELS = 50
# Returns the published port of each compose service, given the compose files.
Published = Callable[[Sequence[str]], Mapping[str, int]]

TYPE_NAMES = {
    "integer": "a whole number",
    "string": "a text",
    "array": "a list",
    "object": "an object",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One service and all that is derived for it. Paths are absolute.

    Attributes:
        url_variable: What overrides its URL, and no other service's.
        alembic_url_variable: What its `env.py` reads, and others may too; each runs alone.
        user_variable: What holds the user of its database, where that is its own.
        password_variable: What holds that user's password.
        url_scheme: As SQLAlchemy names dialect and driver; for `env.py`, which may know another
            driver than the tasks do.
        python: The command that starts the interpreter of its migrations; empty for the one
            that runs this process.
        lock_timeout: Seconds a statement may wait for a lock; None for the setting.
        statement_timeout: Seconds a statement may take; None for the setting.
        alembic_section: The section of its Alembic configuration (`alembic --name`).
        alembic_x_arguments: What its `env.py` is passed as `alembic -x`.
        alembic_engine: Its database's name in the option `databases` of its Alembic configuration,
            as the template `multidb` has it; an empty string if that names none.
        flask_app: Its Flask application, as `flask --app` takes it, in whose context its `env.py`
            runs; an empty string without one.
        seed_after: Names of the services that must be seeded before it.
        shared_database: Whether other services may keep their histories in its database.
        migrate_after: Names of the services that must be migrated before it.
        inputs: Files and directories besides its own that its database is made of.
    """

    name: str
    port: int
    directory: Path
    database: str
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

    @property
    def alembic_arguments(self) -> list[str]:
        """The arguments before every Alembic command: configuration, section, `-x`."""
        section = ["--name", self.alembic_section] if self.alembic_section != ALEMBIC else []
        passed = [word for argument in self.alembic_x_arguments for word in ("-x", argument)]
        return ["-c", str(self.alembic_config), *section, *passed]

    @property
    def alembic_options(self) -> dict[str, str]:
        """What the process that runs Alembic is told besides its arguments."""
        options = {"engine": self.alembic_engine, "flask_app": self.flask_app}
        return {name: value for name, value in options.items() if value}

    @property
    def direct_url_variable(self) -> str:
        """The variable that names a way around a pooler, after `url_variable`."""
        stem = self.url_variable.removesuffix("DATABASE_URL").removesuffix("_")
        return f"{stem}_DIRECT_DATABASE_URL".removeprefix("_")

    @property
    def names(self) -> tuple[str, ...]:
        """What it and its files are called, in sentences and in output."""
        paths = (self.directory, self.alembic_config, *self.seeds)
        stated = (self.name, self.database, self.url_variable, self.compose_service, self.volume)
        return (*stated, *map(str, paths))

    def missing_files(self, *, seeds: bool = True) -> list[Finding]:
        """Return a finding for each file the service cannot do without and does not have.

        Args:
            seeds: Whether it must have its seeds, which nobody sows in production.
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
        # Without a slash it is looked for in PATH, when it is needed.
        if not self.python or "/" not in self.python[0]:
            return []
        path = self.directory / self.python[0]
        if path.exists():
            return []
        problem = f"its interpreter {path} does not exist: make its virtual environment"
        return [Finding(place=self.name, problem=problem)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Registry:
    """All services, in the order of the file.

    Attributes:
        prefix: What the names of all settings begin with.
        state_directory: Where the tasks keep their state; None for the convention.
        without_port: The services whose own entry states no port.
    """

    path: Path
    services: tuple[Service, ...]
    compose_files: tuple[Path, ...] = ()
    prefix: str = PREFIX
    state_directory: Path | None = None
    without_port: frozenset[str] = frozenset()

    @property
    def root(self) -> Path:
        """The directory all relative paths of the registry start from."""
        return self.path.parent

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
                f"No service is named {', '.join(map(repr, unknown))} in {self.path}.",
                code="service-unknown",
                hint=_suggestion(unknown[0], list(known))
                or f"Known: {', '.join(service.name for service in self.services)}.",
            )
        wanted = {known[name].name for name in names}
        return tuple(s for s in self.services if not wanted or s.name in wanted)


def find_registry(start: Path, explicit: str) -> Path:
    """Return the path of the registry.

    Args:
        start: Directory the search starts in and goes up from.
        explicit: The path that was set, or an empty text to search.

    Raises:
        ConfigurationError: If there is none.
    """
    if explicit:
        path = (start / Path(explicit).expanduser()).resolve()
        if not path.is_file():
            raise ConfigurationError(
                f"HULEEDU_REGISTRY names {path}, and there is no such file.",
                code="registry-missing",
                hint="Correct HULEEDU_REGISTRY, or unset it to search from this directory upwards.",
            )
        return path
    for directory in (start, *start.parents):
        if (directory / REGISTRY_FILE).is_file():
            return directory / REGISTRY_FILE
    raise ConfigurationError(
        f"No {REGISTRY_FILE} in {start} or any directory above it.",
        code="registry-missing",
        hint="`invoke services.discover` writes a registry from what is there; by hand it is, for "
        'example, {"services": [{"name": "orders", "port": 5433}]} at the root of the monorepo.',
    )


def load_registry(path: Path, published: Published | None = None) -> Registry:
    """Read and check a registry.

    Args:
        published: Returns the port of each compose service, given the compose files that the
            registry states; called only if an entry states no port.

    Raises:
        ConfigurationError: With every finding and its place.
    """
    text = _read(path)
    document, findings = parse_registry(path, text)
    without_port = _add_ports(document, published or (lambda _: {}))
    registry = registry_of(document, path, text=text, findings=findings)
    return replace(registry, without_port=without_port)


def _add_ports(document: Any, published: Published) -> frozenset[str]:
    """Give each entry without a port that of its server: as another entry states it, or Compose.

    Returns:
        The names of the services whose entry had none.
    """
    stated = document if isinstance(document, dict) else {}
    listed = stated.get("services")
    entries = [entry for entry in listed if _has_name(entry)] if isinstance(listed, list) else []
    shared = [entry for entry in entries if "compose_service" in entry]
    ports = {_server_of(e): e["port"] for e in shared if isinstance(e.get("port"), int)}
    without = [entry for entry in entries if "port" not in entry]
    files = stated.get("compose_files", [])
    has_files = isinstance(files, list) and all(isinstance(file, str) for file in files)
    is_open = has_files and any(_server_of(entry) not in ports for entry in without)
    by_compose = published(files) if is_open else {}
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
    """Return the registry a document is.

    Args:
        path: Where it lies, or would lie.
        text: Its text, for the lines of what is wrong.
        findings: What is wrong with the text.

    Raises:
        ConfigurationError: With every finding and its place.
    """
    services, wrong = _completed(document, path.parent)
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
    """Return what would have a registry refused, each with its place in the document.

    Args:
        root: The directory the registry lies in, or would lie in.
    """
    return _completed(document, root)[1]


def _completed(document: Any, root: Path) -> tuple[tuple[Service, ...], list[Finding]]:
    """Return the services as far as they can be understood, and what is wrong with them."""
    import jsonschema_rs

    errors = list(jsonschema_rs.validator_for(schema()).iter_errors(document))
    findings = [Finding(place=_place(e.instance_path), problem=_explain(e)) for e in errors]
    findings += _without_port(document)
    entries = _sound_entries(document, [error.instance_path for error in errors])
    convention = database_convention(document)
    services = tuple(complete(root, entry, convention) for entry in entries)
    # Of three that are the same, the last clashes with both others in the same words.
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


def seeding_order(services: Sequence[Service]) -> tuple[Service, ...]:
    """Return the services so that each comes after those it must be seeded after.

    Otherwise the order given is kept.
    """
    return _ordered(services, SEED_AFTER)


def migrating_order(services: Sequence[Service]) -> tuple[Service, ...]:
    """Return the services so that each comes right after those it must be migrated after.

    Otherwise the order given is kept. A loaded registry has no circle.
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


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"{path} cannot be read: {error}",
            code="registry-unreadable",
            hint="It must be a readable file in UTF-8.",
        ) from error


def parse_registry(path: Path, text: str) -> tuple[Any, list[Finding]]:
    """Return the document a text is, and the keys that stand in it twice.

    Args:
        path: Where the text stands, for the error.

    Raises:
        ConfigurationError: If it is not JSON.
    """
    duplicates: list[Finding] = []

    def without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        # JSON lets a key stand twice and the last one win: one of the two was not meant.
        twice = sorted({key for key in keys if keys.count(key) > 1})
        owner = dict(pairs).get("name")
        place = f"service {owner}" if isinstance(owner, str) else ""
        duplicates.extend(
            Finding(place=place, problem=f"key {key!r} stands twice") for key in twice
        )
        return dict(pairs)

    try:
        document = json.loads(text, object_pairs_hook=without_duplicates)
        _require_levels(document, MOST_LEVELS)
    except json.JSONDecodeError as error:
        raise ConfigurationError(
            f"{path} is not JSON: line {error.lineno}, column {error.colno}: {error.msg}.",
            code="registry-invalid",
            hint="Correct that line; JSON wants double quotes and no comma after the last entry.",
        ) from error
    except (RecursionError, ValueError):
        raise ConfigurationError(
            f"{path} is no registry: it is nested too deeply, or has a number of too many digits.",
            code="registry-invalid",
            hint=f"Correct the file; {_schema_file()} describes each field.",
        ) from None
    return document, duplicates


def _require_levels(value: Any, levels: int) -> None:
    """See that a value is not nested more deeply; those that read it next cannot go far."""
    if not levels:
        raise RecursionError
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for each in inside:
        _require_levels(each, levels - 1)


def _sound_entries(document: Any, wrong: Sequence[Sequence[str | int]]) -> list[dict[str, Any]]:
    """Return the entries without what is wrong in them, so that the rest can be compared.

    A name or port that is wrong is replaced by one that no other entry has.
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
    """Say in words what JSON Schema found; what has no better words keeps its own."""
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
    """Return what a database is called where its entry does not say; it holds `{name}`."""
    stated = document if isinstance(document, dict) else {}
    convention, prefix = stated.get("database_name"), stated.get("prefix")
    if isinstance(convention, str) and NAME_PLACE in convention:
        return convention
    word = prefix.lower() if isinstance(prefix, str) else PREFIX.lower()
    return f"{word}_{NAME_PLACE}"


def stated_prefix(path: Path) -> str:
    """Return the prefix that a registry states, or the usual one; its errors are told elsewhere."""
    try:
        stated = json.loads(path.read_text(encoding="utf-8-sig"))["prefix"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return PREFIX
    is_sound = isinstance(stated, str) and re.fullmatch(r"[A-Z][A-Z0-9_]*[A-Z0-9]", stated)
    return stated if is_sound else PREFIX


def complete(root: Path, entry: Mapping[str, Any], convention: str = "huleedu_{name}") -> Service:
    """Return a service as convention has it, but for what its entry states.

    Args:
        root: The directory of the registry.
        convention: What a database is called, with `{name}` in it.
    """
    name = entry["name"]
    directory = root / entry.get("directory", f"services/{name}_service")
    variable_stem = directory.name.upper().replace("-", "_").replace(".", "_")
    compose_service = entry.get("compose_service", f"{name}_db")
    engine = entry.get("alembic_engine", "")
    if engine:
        variable_stem += "_" + re.sub(r"\W", "_", engine).upper()
    url_variable = entry.get("url_variable", f"{variable_stem}_DATABASE_URL")
    return Service(
        name=name,
        # JSON Schema takes 5433.0 for a whole number, as JavaScript does.
        port=int(entry["port"]),
        directory=directory,
        database=entry.get("database", convention.replace(NAME_PLACE, name)),
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
    )


def _interpreter(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the command that starts the interpreter a service's Alembic runs with.

    Alembic's own script is never run: only inside its interpreter can its steps be watched. Beside
    a script lies the interpreter it names, and what finds a program in a project finds both.
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
    """Find what each entry may say alone and two of them may not say together."""
    for index, service in enumerate(services):
        yield from _unclear_interpreter(f"services[{index}]", entries[index])
        yield from _unknown_placeholders(f"services[{index}].environment", service)
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
            circle = " after ".join(error.args[1])
            yield Finding(place="services", problem=f"{field} goes in a circle: {circle}")


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
        yield Finding(place=f"{place}.alembic", problem="states what 'python' states too; keep one")
    command = _command(entry["alembic"])
    if Path(command[-1]).name != ALEMBIC:
        problem = (
            f"must end with the program {ALEMBIC!r}, without arguments, not {command[-1]!r}; state "
            "--name as 'alembic_section' and -x as 'alembic_x_arguments'"
        )
        yield Finding(place=f"{place}.alembic", problem=problem)
    elif command == (ALEMBIC,):
        problem = "says nothing of where that program is: write a path, or the command before it"
        yield Finding(place=f"{place}.alembic", problem=problem)


def _unknown_placeholders(place: str, service: Service) -> Iterator[Finding]:
    """Find what is nearly a placeholder; any other braces are the service's own."""
    for name, value in service.environment.items():
        word = value[1:-1] if re.fullmatch(r"\{[a-z_]+\}", value) else ""
        if word and word not in PLACEHOLDERS and (hint := _suggestion(word, PLACEHOLDERS)):
            problem = f"unknown placeholder {value}. {hint}"
            yield Finding(place=f"{place}.{name}", problem=problem)


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
            # One directory may hold several histories, each with a configuration of its own.
            same = same and service.alembic_arguments == earlier.alembic_arguments
            same = same and service.alembic_engine == earlier.alembic_engine
        # What follows by convention from a name that stands twice is no finding of its own.
        own = field == "name" or field in entry or service.name != earlier.name
        # Two services may share a server, which is compared below.
        # A port that is not settled yet is replaced by a number below one.
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


def share_database(one: Service, other: Service) -> bool:
    """Whether two services state that they keep their histories in one development database."""
    return (
        one.shared_database
        and other.shared_database
        and (one.port, one.database) == (other.port, other.database)
    )


def _with_lines(text: str, findings: Sequence[Finding]) -> list[Finding]:
    """Add the line of the file to each place, as far as it can be found."""
    lines = _lines_of_places(text)
    return [
        Finding(place=_with_line(finding.place, lines), problem=finding.problem)
        for finding in findings
    ]


def _with_line(place: str, lines: Mapping[str, int]) -> str:
    stated = place
    # A field that follows from convention stands in no line: its entry does.
    while stated and stated not in lines:
        stated = stated.rpartition(".")[0]
    return f"line {lines[stated]}, {place}" if stated in lines and place else place


def _lines_of_places(text: str) -> dict[str, int]:
    # JSON is YAML for this purpose, and the YAML reader knows where each value stands.
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
        # In JSON a tab stands between values only, and where it does YAML wants spaces.
        if document := yaml.compose(text.replace("\t", " "), Loader=yaml.SafeLoader):
            walk(document, ())
    except yaml.YAMLError:
        return {}
    return lines
