"""What was read of one service."""

from dataclasses import dataclass

from huleedu_tasks.discovery.applications import ContainerFacts
from huleedu_tasks.discovery.name_likeness import stem
from huleedu_tasks.discovery.sources import Sources
from huleedu_tasks.migrations.alembic_config import ALEMBIC, CONFIG, PYPROJECT
from huleedu_tasks.migrations.directories import TECHNICAL, ServiceDirectory

USUAL_FILES = (CONFIG, PYPROJECT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What was read of one service: its files and its containers."""

    directory: ServiceDirectory
    sources: Sources
    containers: ContainerFacts


def telling_name(directory: ServiceDirectory) -> str:
    """Return the name of a service's directory, or of a parent if that name is generic.

    If a directory has several histories, return the engine, the section, or the name of the
    directory of the scripts.
    """
    if directory.engine:
        return directory.engine
    if directory.section != ALEMBIC:
        return directory.section
    if directory.config.name not in USUAL_FILES and directory.scripts.name not in TECHNICAL:
        return directory.scripts.name
    for path in (directory.home, *directory.home.parents):
        if not path.is_relative_to(directory.root):
            break
        if stem(path.name) and path.name != "src":
            return path.name
    return directory.home.name
