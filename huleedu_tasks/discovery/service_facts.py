"""All that was read of one service, before anything is made of it."""

from dataclasses import dataclass

from huleedu_tasks.discovery.applications import Told
from huleedu_tasks.discovery.names import stem
from huleedu_tasks.discovery.sources import Sources
from huleedu_tasks.migrations.directories import ALEMBIC, CONFIG, PYPROJECT, TECHNICAL, Folder

USUAL_FILES = (CONFIG, PYPROJECT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What was read of one service: its files, and what its containers are told."""

    folder: Folder
    sources: Sources
    told: Told


def telling_name(folder: Folder) -> str:
    """Return the name of a service's folder, or of one above it if that says nothing.

    One of several histories in a folder is named by its engine, its section, or the folder of its
    scripts.
    """
    if folder.engine:
        return folder.engine
    if folder.section != ALEMBIC:
        return folder.section
    if folder.config.name not in USUAL_FILES and folder.scripts.name not in TECHNICAL:
        return folder.scripts.name
    for path in (folder.home, *folder.home.parents):
        if not path.is_relative_to(folder.root):
            break
        if stem(path.name) and path.name != "src":
            return path.name
    return folder.home.name
