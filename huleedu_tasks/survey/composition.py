"""The compose configuration of a monorepo as values, whoever has read it.

Docker's command line is asked where it is there; it needs no engine for that. Else the files are
read here. Both come to the same.
"""

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from huleedu_tasks import process
from huleedu_tasks.errors import ConfigurationError
from huleedu_tasks.servers.compose import CONFIG_TIMEOUT, DEFAULT_FILES, Compose
from huleedu_tasks.survey.compose_files import ENV_FILE, Declarations, env_file, read_files
from huleedu_tasks.survey.declarations import Declaration, declaration
from huleedu_tasks.survey.files import repository_files, shown

POSTGRES_PORT = 5432
BY_COMPOSE = "docker compose config"
BY_READING = "the files, read here"
OVERRIDE_FILES = (
    "compose.override.yml",
    "compose.override.yaml",
    "docker-compose.override.yml",
    "docker-compose.override.yaml",
)
# How many folders below the root a compose file is looked for.
DEPTH = 3
# Words in the name of a file that is not for development.
ELSEWHERE = frozenset(
    {"prod", "production", "staging", "stage", "test", "tests", "testing", "ci", "e2e"}
)
# What stands for a variable that must be set and is not. A number, as it may be a port.
PLACEHOLDER = "64999"

_POSTGRES_IMAGE = re.compile(
    r"(postgres|postgresql|postgis|pgvector|pgvecto-rs|timescaledb(-ha)?|citus|paradedb|spilo)"
    r"([-_]?\d[\w-]*|-alpine|-repmgr)?"
)
_DATABASE_VARIABLES = ("POSTGRES_DB", "POSTGRESQL_DATABASE", "POSTGRESQL_DB")
_USER_VARIABLES = ("POSTGRES_USER", "POSTGRESQL_USERNAME", "POSTGRESQL_USER")
_SERVERS_OWN = (*_DATABASE_VARIABLES, *_USER_VARIABLES, "POSTGRES_PASSWORD")
# What a client of a server elsewhere is told.
_CLIENTS_OWN = ("POSTGRES_HOST", "POSTGRES_SERVER", "POSTGRES_HOSTNAME", "PGHOST")
_DATA_FOLDERS = ("/var/lib/postgresql/data", "/bitnami/postgresql", "/var/lib/pgsql/data")
_REQUIRED = re.compile(r"required variable (\w+) is missing a value")


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """One service of the compose configuration.

    Attributes:
        ports: For each, the port on the host, if it is known, and the one in the container.
        mounts: For each, the volume's key or the path on the host, and the path in the container.
        file: Where it is declared, as far as that is known.
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
    file: Path | None = None

    @property
    def is_postgres(self) -> bool:
        """Whether it is a PostgreSQL server, by its image or by what it is told."""
        repository = self.image.partition("@")[0].rpartition("/")[2].partition(":")[0]
        if _POSTGRES_IMAGE.fullmatch(repository.lower()):
            return True
        if any(name in self.environment for name in _CLIENTS_OWN):
            return False
        told = any(name in self.environment for name in _SERVERS_OWN)
        serves = any(inside == POSTGRES_PORT for _, inside in self.ports)
        return told and (serves or bool(self.data_volume))

    @property
    def database(self) -> str:
        """The database it makes; empty if a variable that nobody has set names it."""
        return self._first(_DATABASE_VARIABLES) or self.user or self._default(_USER_VARIABLES)

    @property
    def user(self) -> str:
        """The user it makes; empty if that is not known."""
        return self._first(_USER_VARIABLES)

    @property
    def port(self) -> int | None:
        """The port on the host that leads to the server, if that is known."""
        published = [(inside, outside) for outside, inside in self.ports if outside]
        return next(
            (outside for inside, outside in published if inside == POSTGRES_PORT),
            # The server may listen on another port in its container.
            published[0][1] if len(published) == 1 else None,
        )

    @property
    def data_volume(self) -> str:
        """The volume's key, or the path on the host, that holds its data; empty if none does."""
        folders = [*_DATA_FOLDERS, self.environment.get("PGDATA", "")]
        return next(
            (
                source
                for source, target in self.mounts
                if any(f"{folder}/".startswith(f"{target}/") for folder in folders if folder)
            ),
            "",
        )

    def _first(self, names: Sequence[str]) -> str:
        return next((self.environment[name] for name in names if self.environment.get(name)), "")

    def _default(self, names: Sequence[str]) -> str:
        return "" if any(name in self.environment for name in names) else "postgres"


@dataclass(frozen=True, slots=True, kw_only=True)
class Composition:
    """All services of a compose configuration.

    Attributes:
        files: The files it was read from, without those they include.
        how: Who has read them.
        remarks: What else is to be known of it, in sentences.
    """

    containers: Mapping[str, Container]
    files: tuple[Path, ...] = ()
    how: str = BY_READING
    remarks: tuple[str, ...] = ()

    @property
    def databases(self) -> dict[str, Container]:
        """Those that are PostgreSQL servers."""
        return {name: each for name, each in self.containers.items() if each.is_postgres}


async def read_composition(
    root: Path, files: Sequence[Path], environment: Mapping[str, str]
) -> Composition:
    """Read the compose files of a monorepo.

    Args:
        root: Its root.
        files: The compose files; none to look for those with its databases.
        environment: The variables they may use.

    Raises:
        ConfigurationError: If a file that was named cannot be read.
    """
    remarks: list[str] = []
    chosen = [root / file for file in files] or find_files(root, environment, remarks)
    if not chosen:
        return Composition(containers={}, remarks=(*remarks, "There is no compose file."))
    read = read_files(chosen, environment)
    filled = {**environment, **dict.fromkeys(read.missing, PLACEHOLDER)}
    if read.missing:
        names = ", ".join(sorted(read.missing))
        remarks.append(f"The compose files require {names}, which nobody has set.")
        read = read_files(chosen, filled)
    services, how = await _ask_compose(root, chosen, filled, read.services, remarks), BY_COMPOSE
    if services is None:
        services, how = read.services, BY_READING
    containers = {name: _container(name, each) for name, each in services.items()}
    return Composition(containers=containers, files=tuple(chosen), how=how, remarks=tuple(remarks))


def read_here(files: Sequence[Path], environment: Mapping[str, str]) -> dict[str, Container]:
    """Read compose files without Docker's command line.

    Raises:
        ConfigurationError: If one cannot be read.
    """
    missing = read_files(files, environment).missing
    read = read_files(files, {**environment, **dict.fromkeys(missing, PLACEHOLDER)})
    return {name: _container(name, each) for name, each in read.services.items()}


def default_files(root: Path, environment: Mapping[str, str]) -> list[Path]:
    """Return the files Compose takes in a folder if nobody names any."""
    variables = {**env_file(root / ENV_FILE, environment), **environment}
    if stated := variables.get("COMPOSE_FILE"):
        separator = variables.get("COMPOSE_PATH_SEPARATOR") or os.pathsep
        return [root / name for name in stated.split(separator) if name]
    main = [root / name for name in DEFAULT_FILES if (root / name).is_file()]
    over = [root / name for name in OVERRIDE_FILES if (root / name).is_file()]
    return [*main[:1], *over[:1]] if main else []


def find_files(root: Path, environment: Mapping[str, str], remarks: list[str]) -> list[Path]:
    """Return Compose's own choice if it holds a PostgreSQL server, else all files that do."""
    usual = default_files(root, environment)
    if usual and _declares_postgres(usual, environment, remarks):
        return usual
    others = [path for path in compose_files(root) if path not in usual]
    holding = [path for path in others if _declares_postgres([path], environment, remarks)]
    chosen = [path for path in holding if not _is_elsewhere(path, root)] or holding
    if not chosen:
        return usual
    chosen = _compatible(chosen, environment, root, remarks)
    names = ", ".join(shown(path, root) for path in chosen)
    remarks.append(f"The PostgreSQL servers are declared in {names}.")
    return chosen


def compose_files(root: Path) -> list[Path]:
    """Return everything in the repository that is called like a compose file, the nearest first."""
    found = [
        path
        for path in repository_files(root)
        if path.suffix in (".yml", ".yaml")
        and "compose" in path.name
        and len(path.relative_to(root).parts) <= DEPTH + 1
    ]
    return sorted(found, key=lambda path: (len(path.parts), path))


def _compatible(
    files: Sequence[Path], environment: Mapping[str, str], root: Path, remarks: list[str]
) -> list[Path]:
    """Leave out a file of another folder with the same names: it is another project."""
    taken: dict[str, Path] = {}
    kept = []
    for file in files:
        names = [n for n, each in read_here([file], environment).items() if each.is_postgres]
        others = {taken[name] for name in names if name in taken} - set(file.parent.iterdir())
        if others:
            clash = shown(min(others), root)
            remarks.append(
                f"{shown(file, root)} declares the same names as {clash} and was not read: one "
                "compose project cannot hold both."
            )
            continue
        kept.append(file)
        taken |= {name: file for name in names if name not in taken}
    return kept


def _declares_postgres(
    files: Sequence[Path], environment: Mapping[str, str], remarks: list[str]
) -> bool:
    try:
        return any(each.is_postgres for each in read_here(files, environment).values())
    except ConfigurationError as error:
        remarks.append(error.message)
        return False


def _is_elsewhere(path: Path, root: Path) -> bool:
    words = re.split(r"[^a-z0-9]+", shown(path, root).lower())
    return not ELSEWHERE.isdisjoint(words)


async def _ask_compose(
    root: Path,
    files: Sequence[Path],
    environment: Mapping[str, str],
    read: Declarations,
    remarks: list[str],
) -> Declarations | None:
    """Return what Compose itself makes of the files; None if it is not there or cannot use them."""
    if not shutil.which("docker", path=environment.get("PATH")):
        return None
    compose = Compose(root=root, files=tuple(files), environment=environment)
    document = await _config(compose, environment)
    if document is None:
        remarks.append(
            "`docker compose config` does not work with these files, so they were read here."
        )
        return None
    services = _services(document)
    # Compose sorts them by name; the order of the files says more.
    names = sorted(services, key=lambda name: list(read).index(name) if name in read else len(read))
    return {
        name: replace(
            declaration(_unescaped(services[name]), files[0].parent, None),
            file=read[name].file if name in read else None,
        )
        for name in names
    }


async def _config(compose: Compose, environment: Mapping[str, str]) -> Any:
    """Ask for the configuration, with something in place of each variable that must be set."""
    variables = dict(environment)
    with process.scratch_folder() as folder:
        output = folder / "config.json"
        command = compose.command("config", "--format", "json", "--output", str(output))
        while True:
            done = await process.run(
                command, cwd=compose.root, environment=variables, timeout=CONFIG_TIMEOUT
            )
            if done.returncode == 0 and output.is_file():
                return json.loads(output.read_text(encoding="utf-8"))
            missing = _REQUIRED.search(done.output)
            if not missing or variables.get(missing[1]) == PLACEHOLDER:
                return None
            variables[missing[1]] = PLACEHOLDER


def _services(document: Any) -> dict[str, Any]:
    services = document.get("services") if isinstance(document, dict) else None
    return services if isinstance(services, dict) else {}


def _unescaped(value: Any) -> Any:
    """Undo what `config` does to a dollar sign, so that its output may be read again."""
    if isinstance(value, str):
        return value.replace("$$", "$")
    if isinstance(value, list):
        return [_unescaped(each) for each in value]
    if isinstance(value, dict):
        return {key: _unescaped(each) for key, each in value.items()}
    return value


def _container(name: str, service: Declaration) -> Container:
    unknown = int(PLACEHOLDER)
    return Container(
        name=name,
        image=_known(service.image),
        environment={n: _known(v) for n, v in sorted(service.environment.items()) if v is not None},
        ports=tuple(dict.fromkeys((None if o == unknown else o, i) for o, i in service.ports)),
        mounts=tuple((_known(source), target) for target, source in sorted(service.mounts.items())),
        container_name=_known(service.container_name),
        build_context=service.build_context,
        dockerfile=service.dockerfile,
        working_dir=service.working_dir,
        command=service.command or "",
        file=service.file,
    )


def _known(text: str) -> str:
    return text.replace(PLACEHOLDER, "")
