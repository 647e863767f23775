"""Objects that init scripts of compose files create, and that embedded servers do not have."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from huleedu_tasks.compose.database_service import Container
from huleedu_tasks.compose.file_choice import read_own_files
from huleedu_tasks.config.registry import Registry, Service
from huleedu_tasks.config.settings import ProviderName, Settings
from huleedu_tasks.errors import ConfigurationError
from huleedu_tasks.report import Level, Problem
from huleedu_tasks.repository import is_directory, is_file, repository_files, shown, text_of

CODE = "init-scripts-not-run"
INIT_DIRECTORY = "/docker-entrypoint-initdb.d"
SCRIPTS = (".sql", ".sh")
_EXTENSION = "extension"
_CREATE = re.compile(
    r"\bCREATE\s+(ROLE|USER(?!\s+MAPPING)|EXTENSION|SCHEMA(?!\s+AUTHORIZATION))\s+"
    r"(?:IF\s+NOT\s+EXISTS\s+)?(?:\"([^\"$]+)\"|'?([A-Za-z_][\w-]*))(?!\$)",
    re.IGNORECASE,
)
_COMMENT = re.compile(r"--[^\n]*|^\s*#[^\n]*", re.MULTILINE)
_OBJECT_MISSING = re.compile(r'\b(role|schema) "([^"]+)" does not exist')
# Messages of PostgreSQL if the objects of an extension are missing.
_EXTENSION_OBJECT_MISSING = re.compile(
    r"\b(type|function|operator class|operator) .{1,200}? does not exist"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Created:
    """One object that an init script creates.

    Attributes:
        kind: `role`, `extension` or `schema`.
        script: The path of the script, relative to the root of the monorepo.
    """

    kind: str
    name: str
    script: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r}"


def created_on(
    servers: Mapping[str, Container], service: Service, root: Path
) -> tuple[Created, ...]:
    """Return the roles, extensions and schemas that the init scripts of a service's server create.

    Args:
        servers: The compose services, by name.
        root: The root of the monorepo.

    Returns:
        The objects, without extensions that the registry states, and without those that the
        service's own code also creates.
    """
    server = servers.get(service.compose_service)
    found = dict.fromkeys(
        created
        for script in (_scripts(server) if server else ())
        for created in _created_objects(script, root)
    )
    if not found:
        return ()
    own = {(_EXTENSION, name) for name in service.extensions} | {*_created_by_code(service)}
    return tuple(created for created in found if (created.kind, created.name) not in own)


def not_run(
    service: Service, created: Sequence[Created], provider: ProviderName
) -> Iterator[Problem]:
    """Yield a finding if init scripts create objects: embedded servers do not run them."""
    if created:
        is_embedded = provider is ProviderName.EMBEDDED
        yield Problem(
            level=Level.WARNING if is_embedded else Level.INFO,
            cause=f"{_listed(created)}, and embedded servers do not run init scripts",
            remedy=remedy(service, created),
            handled=not is_embedded,
            code=CODE,
        )


async def missing_objects(
    registry: Registry, settings: Settings, service: Service, output: str
) -> Sequence[Created]:
    """Return the objects of init scripts whose absence made a statement of a service fail.

    No file is read unless the output has a message about a missing object.

    Args:
        output: What the migration or seed printed, with PostgreSQL's message.
    """
    named = _OBJECT_MISSING.search(output)
    if not named and not _EXTENSION_OBJECT_MISSING.search(output):
        return []
    try:
        read = await read_own_files(
            registry.root, registry.compose_files, settings.compose_environment()
        )
    except ConfigurationError:
        return []
    created = created_on(read.containers, service, registry.root)
    if named:
        return [found for found in created if (found.kind, found.name) == named.groups()]
    return [found for found in created if found.kind == _EXTENSION]


def missing_hint(service: Service, missing: Sequence[Created]) -> str:
    """Return the hint for objects that only an init script creates."""
    return f"{_listed(missing)}, and embedded servers do not run it. {remedy(service, missing)}"


def remedy(service: Service, created: Sequence[Created]) -> str:
    """Return the steps that create the objects on an embedded server."""
    extensions = [found.name for found in created if found.kind == _EXTENSION]
    kinds = dict.fromkeys(found.kind for found in created if found.kind != _EXTENSION)
    steps = []
    if extensions:
        names = ", ".join(f'"{name}"' for name in (*service.extensions, *extensions))
        steps.append(f'State "extensions": [{names}] for {service.name} in services.json.')
    if kinds:
        objects = " and ".join(f"each {kind}" for kind in kinds)
        steps.append(f"Create {objects} in a revision, if it does not exist.")
    return " ".join([*steps, "Or set HULEEDU_PROVIDER=docker, which runs the scripts."])


def _listed(created: Sequence[Created]) -> str:
    """Return a clause for each script with the objects that it creates."""
    scripts = dict.fromkeys(found.script for found in created)
    return "; ".join(
        f"{script} creates {', '.join(str(found) for found in created if found.script == script)}"
        for script in scripts
    )


def _scripts(server: Container) -> Iterator[Path]:
    for source, target in server.mounts:
        if target.startswith(INIT_DIRECTORY) and source.startswith("/"):
            path = Path(source)
            files = sorted(path.glob("*")) if is_directory(path) else [path]
            yield from (file for file in files if file.suffix in SCRIPTS and is_file(file))


def _created_objects(script: Path, root: Path) -> Iterator[Created]:
    for kind, name in _objects(_COMMENT.sub("", text_of(script))):
        yield Created(kind=kind, name=name, script=shown(script, root))


def _created_by_code(service: Service) -> Iterator[tuple[str, str]]:
    """Yield kind and name of the objects that a service's revisions or other code create."""
    files = repository_files(service.directory) if is_directory(service.directory) else ()
    for path in files:
        if path.suffix in (".py", ".sql"):
            yield from _objects(text_of(path).replace('\\"', '"'))


def _objects(code: str) -> Iterator[tuple[str, str]]:
    for kind, quoted, plain in _CREATE.findall(code):
        noun = kind.lower()
        # PostgreSQL folds names without quotes.
        yield "role" if noun == "user" else noun, quoted or plain.lower()
