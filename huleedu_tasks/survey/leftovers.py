"""What lies in a monorepo and belongs to no service of its registry."""

import re
from collections.abc import Iterator
from pathlib import Path

from huleedu_tasks.config.registry import SEED_FOLDER, Registry
from huleedu_tasks.report import Level, Problem
from huleedu_tasks.survey.agreement import copes, must_act
from huleedu_tasks.survey.answers import config_files
from huleedu_tasks.survey.files import repository_root, shown
from huleedu_tasks.survey.folders import find_folders

SEED_PATTERNS = ("seed_*.py", "seed_*.sql")
MENTIONS_DATABASE = re.compile(r"postgres(ql)?(\+\w+)?://|DATABASE_UR[IL]")


def leftovers(registry: Registry) -> Iterator[Problem]:
    """Find seeds without a service, folders with migrations, and those that should have some."""
    yield from _seeds(registry)
    root = repository_root(registry.root) or registry.root
    registered = {service.directory.resolve() for service in registry.services}
    migrating = {folder.path.resolve() for folder in find_folders(root, [])}
    for path in sorted(migrating - registered):
        yield must_act(
            f"{shown(path, root)} has migrations and is not in the registry",
            "Add it; `invoke services.discover` shows the entry.",
        )
    known = registered | migrating
    for path in sorted(_siblings(registered)):
        # A folder of services is none itself.
        holds = any(each.is_relative_to(path) for each in known)
        if not holds and _mentions_database(path):
            yield copes(
                f"{shown(path, root)} names a database and has no migrations",
                "Nothing to do, unless that database is its own: `alembic init alembic` there.",
                Level.INFO,
            )


def _seeds(registry: Registry) -> Iterator[Problem]:
    used = {seed for service in registry.services for seed in service.seeds}
    folder = registry.root / SEED_FOLDER
    for path in sorted(path for pattern in SEED_PATTERNS for path in folder.glob(pattern)):
        if path not in used:
            yield must_act(
                f"the seed {shown(path, registry.root)} belongs to no service",
                "State it as 'seeds' of its service, or delete it.",
            )


def _siblings(folders: set[Path]) -> set[Path]:
    parents = {folder.parent for folder in folders}
    inside = (path for parent in parents if parent.is_dir() for path in parent.iterdir())
    return {path for path in inside if path.is_dir() and not path.name.startswith(".")}


def _mentions_database(folder: Path) -> bool:
    texts = (path.read_text(encoding="utf-8", errors="replace") for path in config_files(folder))
    return any(MENTIONS_DATABASE.search(text) for text in texts)
