"""Finds the environment variables that a service's sources read."""

import re
from pathlib import Path

from huleedu_tasks.config.registry import Service
from huleedu_tasks.errors import MigrationError
from huleedu_tasks.migrations.alembic_config import version_directories
from huleedu_tasks.probe.addresses import config_files
from huleedu_tasks.repository import text_of

# The maximum; every variable is tried with several drivers.
MOST = 6
_READ = re.compile(
    r"""(?:getenv|environ|env|config|alias|get)\w*\W{1,3}["']([A-Z][A-Z0-9_]+)["']"""
)
_OF_DATABASE = re.compile(r"DATABASE|DB|DSN|PG|POSTGRES|SQL")


def read_variables(service: Service) -> list[str]:
    """Return the variables that may hold a service's URL, the most likely first.

    They are the variables that `env.py` and the settings files read according to their source.
    """
    found = [name for path in _sources(service) for name in _READ.findall(text_of(path))]
    others = [name for name in dict.fromkeys(found) if name != service.alembic_url_variable]
    likely = [name for name in others if _OF_DATABASE.search(name) and "HULEEDU_" not in name]
    return sorted(likely, key=lambda name: not name.endswith(("URL", "URI", "DSN")))[:MOST]


def _sources(service: Service) -> list[Path]:
    try:
        environments = [directory.parent / "env.py" for directory in version_directories(service)]
    except MigrationError:
        environments = []
    return [*environments, *config_files(service.directory)]
