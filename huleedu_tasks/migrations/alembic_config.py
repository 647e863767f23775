"""A service's Alembic configuration: the only code that parses alembic.ini and pyproject.toml."""

import configparser
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huleedu_tasks.config.registry import Service
from huleedu_tasks.errors import MigrationError

CONFIG = "alembic.ini"
PYPROJECT = "pyproject.toml"
# The usual name of the section.
ALEMBIC = "alembic"
# The option with the directory of `env.py`.
LOCATION = "script_location"
# The option with the names of databases, in Alembic's template multidb.
DATABASES = "databases"
# Flask's error if `current_app` is used without an application.
NO_APPLICATION = "Working outside of application context"
STATE_FLASK_APP = (
    'state it as `flask --app` takes it in the registry, such as "flask_app": "wsgi" or '
    '"flask_app": "package:create_app".'
)
_OPTIONS = (
    LOCATION,
    DATABASES,
    "prepend_sys_path",
    "version_locations",
    "recursive_version_locations",
    "revision_environment",
    "sourceless",
    "path_separator",
    "version_path_separator",
)


class NotUnderstood(MigrationError):
    """A file or a configuration that only Alembic itself can evaluate."""


def read_sections(file: Path) -> dict[str, object] | None:
    """Return the sections of any configuration file, with their options as they are written.

    Returns:
        The sections, or a whole TOML document; None if the file cannot be parsed.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
        if file.suffix == ".toml":
            return _parsed(text)
        parser = configparser.RawConfigParser(strict=False, allow_no_value=True)
        parser.read_string(text)
    except (OSError, ValueError, RecursionError, configparser.Error):
        return None
    return {section: dict(parser.items(section)) for section in parser.sections()}


def read_options(file: Path, section: str = ALEMBIC) -> dict[str, object] | None:
    """Return the options of a section as they are written; None if the file does not have it."""
    document = read_sections(file) or {}
    sections = document.get("tool") if file.suffix == ".toml" else document
    options = sections.get(section) if isinstance(sections, dict) else None
    return options if isinstance(options, dict) else None


def alembic_options(service: Service) -> dict[str, object]:
    """Return the options of a registered service, with interpolated values.

    Those of alembic.ini override those of a pyproject.toml beside it.

    Raises:
        MigrationError: If the configuration cannot be read.
    """
    options: dict[str, object] = {}
    pyproject = service.directory / PYPROJECT
    here = {"here": str(service.alembic_config.parent)}
    try:
        if pyproject.is_file():
            tool = _parsed(pyproject.read_text(encoding="utf-8")).get("tool", {})
            options |= {
                key: _fill_in(value, {"here": str(service.directory)})
                for key, value in tool.get("alembic", {}).items()
            }
            if options:
                options[PYPROJECT] = True
        if service.alembic_config.suffix != ".toml":
            parser = configparser.ConfigParser(here)
            parser.read(service.alembic_config, encoding="utf-8")
            if parser.has_section(service.alembic_section):
                for name in _OPTIONS:
                    if value := parser.get(service.alembic_section, name, fallback=""):
                        options[name] = value
        if service.flask_app:
            # The default that Flask-Migrate passes to Alembic.
            options.setdefault(LOCATION, str(service.alembic_config.parent))
    except (OSError, ValueError, configparser.Error) as error:
        raise MigrationError(
            f"The Alembic configuration of {service.directory} could not be read: {error}",
            code="alembic-config-unreadable",
            hint="Correct the file, or 'alembic_config' in the registry.",
        ) from error
    return options


def runs_env_py_for_every_revision(service: Service) -> bool:
    """Whether Alembic runs `env.py` for a revision without autogenerate (revision_environment).

    Raises:
        MigrationError: If the configuration cannot be read.
    """
    stated = str(alembic_options(service).get("revision_environment", ""))
    return stated.lower() in ("true", "yes", "on", "y", "t", "1")


def script_directory(service: Service, options: Mapping[str, object] | None = None) -> Path:
    """Return the directory of a service's `env.py`: script_location of its Alembic configuration.

    Args:
        options: Its `alembic_options`, if they were read already.

    Raises:
        NotUnderstood: If only Alembic can resolve it.
        MigrationError: If script_location is missing, or is not a directory.
    """
    options = alembic_options(service) if options is None else options
    location = _location(service, options)
    if ":" in location or not location.isascii() or _is_in_pyproject(options):
        raise NotUnderstood(f"only Alembic can resolve the script_location {location!r}")
    directory = service.directory / location
    if not directory.is_dir():
        raise MigrationError(
            f"{service.alembic_config} has the script_location {directory}, which is not a "
            "directory.",
            code="script-location-missing",
            hint="Correct its script_location, or 'directory' in the registry, to which it is "
            "relative.",
        )
    return directory


def version_directories(service: Service) -> list[Path]:
    """Return the directories of a service's revision files, from its Alembic configuration.

    Raises:
        MigrationError: If the configuration has no script_location.
    """
    options = alembic_options(service)
    directories = [
        _absolute(service, path, options) for path in _version_locations(service, options)
    ]
    if str(options.get("recursive_version_locations", "")).lower() != "true":
        return directories
    return [
        path for directory in directories for path in (directory, *_directories_below(directory))
    ]


def engine_names(stated: str) -> list[str]:
    """Return the names in the option `databases` of an Alembic configuration."""
    return [name for name in re.split(r"[,\s]+", stated) if name]


def option_hint(service: Service, error: str) -> str:
    """Return which field of the registry a failed or mismatched `env.py` needs.

    Args:
        error: The error, as Python prints it; an empty string if there is none.

    Returns:
        The hint; an empty string if no field helps.
    """
    if NO_APPLICATION in error and not service.flask_app:
        return f"Its env.py needs its Flask application: {STATE_FLASK_APP}"
    return _engines_hint(service)


def _engines_hint(service: Service) -> str:
    """Return how to register several databases of one Alembic configuration.

    Returns:
        The hint; an empty string if it names no databases, or the service names one of them.
    """
    if service.alembic_engine:
        return ""
    try:
        stated = str(alembic_options(service).get(DATABASES, ""))
    except MigrationError:
        return ""
    engines = engine_names(stated)
    if not engines:
        return ""
    fields = " and ".join(f'"alembic_engine": "{name}"' for name in engines)
    return (
        f"{service.alembic_config.name} names {len(engines)} databases (Alembic's template "
        f"multidb): write an entry for each in the registry, with the same directory and with "
        f"{fields}."
    )


def _parsed(toml: str) -> dict[str, Any]:
    # Few services have a pyproject.toml, and the import takes time in every command.
    import tomllib

    return tomllib.loads(toml)


def _fill_in(value: object, here: Mapping[str, str]) -> object:
    if isinstance(value, str):
        return value % here if "%(here)s" in value else value
    return [_fill_in(item, here) for item in value] if isinstance(value, list) else value


def _is_in_pyproject(options: Mapping[str, object]) -> bool:
    return PYPROJECT in options


def _location(service: Service, options: Mapping[str, object]) -> str:
    """Return script_location.

    Raises:
        MigrationError: If it is missing.
    """
    if location := str(options.get(LOCATION) or ""):
        return location
    lack = "has no script_location" if service.alembic_config.is_file() else "does not exist"
    raise MigrationError(
        f"{service.alembic_config} {lack}.",
        code="script-location-missing",
        hint=_location_hint(service),
    )


def _location_hint(service: Service) -> str:
    if service.alembic_config.with_name("env.py").is_file():
        return f"Flask-Migrate passes it from its application: {STATE_FLASK_APP}"
    return f"Set script_location in its [{service.alembic_section}] section."


def _version_locations(service: Service, options: Mapping[str, object]) -> list[str]:
    script_location = _location(service, options)
    stated = options.get("version_locations")
    if not stated:
        return [f"{script_location}/versions"]
    if isinstance(stated, list):
        return stated
    separator = options.get("path_separator") or options.get("version_path_separator")
    return _split(str(stated), str(separator or ""))


def _absolute(service: Service, location: str, options: Mapping[str, object]) -> Path:
    package, colon, rest = location.partition(":")
    if not colon or len(package) < 2:
        return service.directory / location
    # `package:directory` is resolved as an import is, except for installed packages.
    relative = f"{package.replace('.', '/')}/{rest}"
    stated = options.get("prepend_sys_path") or []
    paths = stated if isinstance(stated, list) else re.split(rf"[,\s{os.pathsep}]+", str(stated))
    found = (service.directory / path / relative for path in paths)
    # Before the first revision only the parent directory exists.
    return next((path for path in found if path.parent.is_dir()), service.directory / relative)


def _split(value: str, separator: str) -> list[str]:
    known = {"os": os.pathsep, "space": " ", "newline": "\n", ":": ":", ";": ";"}
    # The default separators of Alembic are spaces and commas.
    parts = value.split(known[separator]) if separator in known else re.split(r"[,\s]+", value)
    return [part.strip() for part in parts if part.strip()]


def _directories_below(directory: Path) -> list[Path]:
    found = (path for path in directory.rglob("*") if path.is_dir())
    return sorted(path for path in found if path.name != "__pycache__")
