"""Finds the services of a repository: directories with their own Alembic migrations."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from huleedu_tasks.errors import Finding
from huleedu_tasks.migrations.alembic_config import (
    ALEMBIC,
    CONFIG,
    DATABASES,
    LOCATION,
    PYPROJECT,
    engine_names,
    read_options,
    read_sections,
)
from huleedu_tasks.repository import (
    is_file,
    is_nameable,
    repository_files,
    shown,
    text_of,
)

ENV_PY = "env.py"
HERE = "%(here)s"
# The name by which an `env.py` of Flask-Migrate uses its application, and where it is defined.
CURRENT_APP = "current_app"
FLASK_APP = re.compile(r"^\s*(?:export\s+)?FLASK_APP\s*=\s*[\"']?([\w./:]+)", re.MULTILINE)
FACTORY = re.compile(r"^def create_app\(", re.MULTILINE)
# Directories whose contents are not services of the repository.
NO_SERVICES = frozenset({"tests", "test", "fixtures", "testdata", "templates", "cookiecutter"})
# Names of directories inside a service that may contain its migrations.
TECHNICAL = frozenset({"alembic", "migrations", "migration", "db", "database"})
# Interpreters of a service, and programs that run one, by their lock file.
VIRTUAL_PYTHONS = (".venv/bin/python", "venv/bin/python")
LOCKS = {"uv.lock": "uv", "pdm.lock": "pdm", "poetry.lock": "poetry"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceDirectory:
    """One service's directory.

    Attributes:
        path: The working directory of its migrations.
        config: Alembic's configuration file.
        scripts: The directory with `env.py`.
        root: The root of the repository.
        runs_anywhere: Whether the configuration resolves to the scripts from any directory.
        section: The section of the configuration.
        engine: One of the databases that the configuration names, as Alembic's template multidb
            does; an empty string if it names none.
        flask_app: The Flask application that its `env.py` needs, as `flask --app` takes it; an
            empty string if it needs none.
        import_paths: The directories in Alembic's prepend_sys_path.
    """

    path: Path
    config: Path
    scripts: Path
    root: Path
    section: str = ALEMBIC
    engine: str = ""
    flask_app: str = ""
    runs_anywhere: bool = False
    import_paths: tuple[Path, ...] = ()

    @property
    def key(self) -> Path:
        """Its unique key: directory of its scripts, section and engine."""
        path = self.scripts if self.section == ALEMBIC else self.scripts / f"[{self.section}]"
        return path / f"[{self.engine}]" if self.engine else path

    @property
    def home(self) -> Path:
        """The service's directory, above a directory for its migrations only."""
        path = self.path
        while path.name in TECHNICAL and path != self.root:
            path = path.parent
        return path

    def contains(self, path: Path | None) -> bool:
        """Whether a path is the service's directory or below it."""
        return path is not None and path.is_relative_to(self.home)

    @property
    def python(self) -> tuple[str | list[str], Path] | None:
        """The service's interpreter, and the file that names it; None if it has none of its own."""
        if self.home == self.root:
            return None
        for name in VIRTUAL_PYTHONS:
            if is_file(self.home / name):
                return os.path.relpath(self.home / name, self.path), self.home / name
        for name, program in LOCKS.items():
            if is_file(self.home / name):
                return [program, "run", "python"], self.home / name
        return None


def find_directories(root: Path, not_taken: list[Finding]) -> list[ServiceDirectory]:
    """Return every directory with migrations, in the order of their paths.

    Args:
        root: The root of the repository.
        not_taken: Receives a finding for each skipped Alembic configuration.
    """
    found: dict[Path, ServiceDirectory] = {}
    configurations = _configurations(root)
    for file in repository_files(root):
        if file.name == CONFIG and file not in configurations:
            problem = "has no section that configures Alembic"
            if read_sections(file) is None:
                problem = "could not be parsed, and its service was skipped"
            not_taken.append(Finding(place=shown(file, root), problem=problem))
    for file in configurations:
        sections = [name for name in _sections(file) if _directory(file, root, name)]
        for section in sections or [ALEMBIC]:
            directory = _directory(file, root, section)
            if problem := _why_not_taken(file, root, directory, found):
                not_taken.append(Finding(place=shown(file, root), problem=problem))
            elif directory:
                found |= {engine.key: engine for engine in _by_engine(directory)}
    return sorted(found.values(), key=lambda directory: (directory.path, directory.key))


def _by_engine(directory: ServiceDirectory) -> list[ServiceDirectory]:
    """Return a directory once for each database that one run of its `env.py` migrates."""
    stated = str((read_options(directory.config, directory.section) or {}).get(DATABASES) or "")
    engines = engine_names(stated) if DATABASES in text_of(directory.scripts / ENV_PY) else []
    return [replace(directory, engine=engine) for engine in engines] or [directory]


def _why_not_taken(
    file: Path,
    root: Path,
    directory: ServiceDirectory | None,
    found: Mapping[Path, ServiceDirectory],
) -> str:
    """Return why a configuration is skipped; an empty string if it is not."""
    if not is_nameable(file):
        return "configures Alembic, but its path is not valid UTF-8, which a registry requires"
    if not NO_SERVICES.isdisjoint(file.relative_to(root).parts[:-1]):
        return "configures Alembic in a directory of tests or templates, and was skipped"
    if directory is None:
        return _why_no_directory(file)
    if doubles := {engine.key for engine in _by_engine(directory)} & found.keys():
        first = found[doubles.pop()].config.name
        return (
            f"configures the same migrations of {shown(directory.path, root)} as {first}, and was "
            "skipped: an entry has one configuration"
        )
    return ""


def _why_no_directory(file: Path) -> str:
    if _sections(file):
        return f"configures Alembic, but its script_location has no {ENV_PY}"
    if is_file(file.with_name(ENV_PY)):
        return (
            "has no script_location, as Flask-Migrate writes it, and no application was found "
            "beside it; write an entry with 'alembic_config' and 'flask_app'"
        )
    return "has no script_location"


def _sections(file: Path) -> list[str]:
    """Return the sections of a configuration with a script_location."""
    document = read_sections(file) or {}
    if file.suffix == ".toml":
        return [ALEMBIC] if (read_options(file) or {}).get(LOCATION) else []
    beside = (read_options(file.with_name(PYPROJECT)) or {}).get(LOCATION)
    return [
        name
        for name, options in document.items()
        if isinstance(options, dict) and (LOCATION in options or (name == ALEMBIC and beside))
    ]


def _configurations(root: Path) -> list[Path]:
    """Return every file that configures Alembic; alembic.ini first in each directory."""
    files = [
        path
        for path in repository_files(root)
        if path.suffix == ".ini" or path.name == PYPROJECT
        if read_options(path) is not None or (path.name == CONFIG and _sections(path))
    ]
    inis = {path.parent for path in files if path.suffix == ".ini"}
    # Alembic reads the pyproject.toml beside an alembic.ini by itself.
    kept = [path for path in files if path.name != PYPROJECT or path.parent not in inis]
    return sorted(kept, key=lambda path: (path.parent, path.name != CONFIG, path.name))


def ini_url(directory: ServiceDirectory) -> str:
    """Return sqlalchemy.url of an Alembic configuration; an empty string if it has none."""
    section = directory.engine or directory.section
    return str((read_options(directory.config, section) or {}).get("sqlalchemy.url") or "")


def _directory(file: Path, root: Path, section: str) -> ServiceDirectory | None:
    options = {
        **(read_options(file.with_name(PYPROJECT)) or {}),
        **(read_options(file, section) or {}),
    }
    location = str(options.get(LOCATION) or "")
    if not location:
        return _flask_directory(file, root)
    for path in _working_directories(file, location, root):
        for scripts in _script_directories(location, file.parent, path):
            if is_file(scripts / ENV_PY):
                return ServiceDirectory(
                    path=path,
                    config=file,
                    scripts=scripts,
                    root=root,
                    section=section,
                    runs_anywhere=HERE in location,
                    import_paths=tuple(
                        _import_paths(options.get("prepend_sys_path"), file.parent, path)
                    ),
                )
    return None


def _flask_directory(file: Path, root: Path) -> ServiceDirectory | None:
    """Return a Flask-Migrate directory and its application; None if none is found."""
    if CURRENT_APP not in text_of(file.with_name(ENV_PY)) or file.parent == root:
        return None
    home = file.parent.parent
    application = _flask_app(home)
    if not application:
        return None
    return ServiceDirectory(
        path=home, config=file, scripts=file.parent, root=root, flask_app=application
    )


def _flask_app(home: Path) -> str:
    """Return the Flask application of a directory; an empty string if none is found.

    FLASK_APP of .flaskenv comes first, then a file that Flask finds, then a factory of a package.
    """
    if stated := FLASK_APP.search(text_of(home / ".flaskenv")):
        return stated[1]
    for name in ("wsgi", "app"):
        if is_file(home / f"{name}.py"):
            return name
    files = (path for path in repository_files(home) if path.suffix == ".py")
    for path in sorted(files, key=lambda path: (len(path.parts), path)):
        inside = path.relative_to(home).with_suffix("")
        if inside.parts[0] not in NO_SERVICES and FACTORY.search(text_of(path)):
            parts = inside.parts[:-1] if path.stem == "__init__" else inside.parts
            return ".".join(parts) + ":create_app"
    return ""


def _working_directories(file: Path, location: str, root: Path) -> Iterator[Path]:
    if HERE not in location:
        yield from (p for p in (file.parent, *file.parents) if p.is_relative_to(root))
        return
    # The location is absolute: the service is the common parent of the file and the scripts.
    scripts = _normal(location.replace(HERE, str(file.parent)), file.parent)
    common = Path(os.path.commonpath([file.parent, scripts.parent]))
    if common.is_relative_to(root):
        yield common


def _script_directories(location: str, here: Path, path: Path) -> Iterator[Path]:
    package, colon, rest = location.partition(":")
    if colon:
        relative = f"{package.replace('.', '/')}/{rest}"
        yield from (_normal(relative, base) for base in (path, path / "src"))
    yield _normal(location.replace(HERE, str(here)), path)


def _import_paths(stated: object, here: Path, path: Path) -> Iterator[Path]:
    texts: Sequence[object] = stated if isinstance(stated, list) else str(stated or "").split()
    for text in texts:
        yield from (
            _normal(part.replace(HERE, str(here)), path) for part in str(text).split(os.pathsep)
        )


def _normal(path: str, directory: Path) -> Path:
    return Path(os.path.normpath(directory / path))
