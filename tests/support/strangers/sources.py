"""The files of one service, including its Alembic configuration."""

from collections.abc import Mapping

from tests.support.strangers import configs, env_py, histories
from tests.support.strangers.switches import (
    AlembicConfig,
    Driver,
    History,
    Paths,
    Repository,
    Stranger,
)

TEXT = '"{}"'
PYPROJECT = """\
[project]
name = "{name}"
version = "0.1.0"
requires-python = ">=3.11"
dependencies = ["alembic>=1.13", "sqlalchemy[asyncio]>=2.0", {drivers}]
"""
REQUIREMENTS = {
    Driver.REGULAR: "asyncpg",
    Driver.PSYCOPG2: "psycopg2-binary",
    Driver.PSYCOPG: "psycopg[binary]",
    Driver.PSYCOPG_ASYNC: "psycopg[binary]",
}

LOGGING = """
[loggers]
keys = root,sqlalchemy,alembic

[handlers]
keys = console

[formatters]
keys = generic

[logger_root]
level = WARN
handlers = console
qualname =

[logger_sqlalchemy]
level = WARN
handlers =
qualname = sqlalchemy.engine

[logger_alembic]
level = INFO
handlers =
qualname = alembic

[handler_console]
class = StreamHandler
args = (sys.stderr,)
level = NOTSET
formatter = generic

[formatter_generic]
format = %(levelname)-5.5s [%(name)s] %(message)s
datefmt = %H:%M:%S
"""


def files(service: Stranger, repository: Repository) -> dict[str, str]:
    """Return the content of each file of a service, by its path relative to its directory."""
    revisions = {
        f"{service.scripts}/versions/{path}": text for path, text in histories.files(service)
    }
    return {
        **configs.files(service, repository),
        **_alembic_files(service),
        f"{service.scripts}/env.py": env_py.text(service),
        **({f"{service.scripts}/__init__.py": ""} if service.shadows else {}),
        **revisions,
        "Dockerfile": 'FROM python:3.11-slim\nCOPY . /app\nCMD ["python", "-m", "app"]\n',
    }


def _alembic_files(service: Stranger) -> dict[str, str]:
    """Return the Alembic configuration and the pyproject.toml, which may contain it."""
    options = _options(service)
    pyproject = PYPROJECT.format(name=service.hyphens, drivers=_drivers(service))
    ini = "# A generic, single database configuration.\n\n[alembic]\n"
    if service.alembic_config in (AlembicConfig.PYPROJECT, AlembicConfig.BOTH):
        pyproject += f"\n[tool.alembic]\n{_toml(options)}"
    else:
        ini += "".join(f"{name} = {value}\n" for name, value in options.items())
        ini += "path_separator = os\n"
    ini += "sqlalchemy.url = driver://user:pass@localhost/dbname\n"
    made = {"pyproject.toml": pyproject}
    if service.alembic_config is not AlembicConfig.PYPROJECT:
        made[service.alembic_file] = ini + (LOGGING if service.logs else "")
    return made


def _drivers(service: Stranger) -> str:
    # If env.py replaces the driver, the service itself still uses the regular one.
    drivers = [Driver.REGULAR, service.driver] if service.translates else [service.driver]
    return ", ".join(f'"{REQUIREMENTS[driver]}"' for driver in drivers)


def _options(service: Stranger) -> dict[str, str]:
    location = {
        AlembicConfig.REGULAR: service.scripts,
        AlembicConfig.SUBFOLDER: "%(here)s",
    }.get(service.alembic_config, f"%(here)s/{service.scripts}")
    options = {"script_location": location}
    if service.paths is not Paths.OWN:
        options["prepend_sys_path"] = _prepended(service)
    if service.history is History.SUBFOLDERS:
        options["recursive_version_locations"] = "true"
    return options


def _prepended(service: Stranger) -> str:
    if service.paths is not Paths.ROOT:
        return str(service.paths)
    return "/".join([".."] * len(service.directory.split("/")))


def _toml(options: Mapping[str, str]) -> str:
    patterns = {"prepend_sys_path": '["{}"]', "recursive_version_locations": "{}"}
    lines = (f"{n} = {patterns.get(n, TEXT).format(value)}\n" for n, value in options.items())
    return "".join(lines)
