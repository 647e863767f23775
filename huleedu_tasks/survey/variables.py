"""Names of environment variables that a service's sources mention, as they stand there."""

import re
from pathlib import Path

from huleedu_tasks.config.registry import Service
from huleedu_tasks.errors import MigrationError
from huleedu_tasks.migrations.revisions import version_folders
from huleedu_tasks.survey.answers import config_files

_NAME = re.compile(r"""["']([A-Z][A-Z0-9_]*_?(?:URL|URI|DSN))["']""")


def url_variables(service: Service) -> list[str]:
    """Return the variables that may hold a URL, by the sources of `env.py` and `config.py`."""
    found = [name for path in _sources(service) for name in _NAME.findall(_text(path))]
    return [name for name in dict.fromkeys(found) if name != service.alembic_url_variable]


def _sources(service: Service) -> list[Path]:
    try:
        environments = [folder.parent / "env.py" for folder in version_folders(service)]
    except MigrationError:
        environments = []
    return [path for path in (*environments, *config_files(service.directory)) if path.is_file()]


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")
