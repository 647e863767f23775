"""Finds seeds and directories that belong to no service of the registry."""

import re
from collections.abc import Iterator
from pathlib import Path

from huleedu_tasks.check.agreement import action_required, handled
from huleedu_tasks.config.registry import SEED_DIRECTORY, Registry
from huleedu_tasks.migrations.directories import find_directories
from huleedu_tasks.probe.addresses import CONFIG_NAMES
from huleedu_tasks.report import Level, Problem
from huleedu_tasks.repository import repository_files, repository_root, shown, text_of

SEED_PATTERNS = ("seed_*.py", "seed_*.sql")
MENTIONS_DATABASE = re.compile(r"postgres(ql)?(\+\w+)?://|DATABASE_UR[IL]")


def leftovers(registry: Registry) -> Iterator[Problem]:
    """Report seeds without a service, and directories with migrations or a database URL."""
    yield from _seeds(registry)
    root = (repository_root(registry.root) or registry.root).resolve()
    registered = {service.directory.resolve() for service in registry.services}
    configured = {service.alembic_config.resolve() for service in registry.services}
    directories = find_directories(root, [])
    for directory in directories:
        if directory.path not in registered and directory.config not in configured:
            # Only a warning: it may be an example.
            yield Problem(
                level=Level.WARNING,
                cause=f"{shown(directory.path, root)} has migrations and is not in the registry",
                remedy="If it is a service, run `invoke services.discover` to add it.",
            )
    known = registered | {directory.path for directory in directories}
    for path in _siblings(root, registered):
        # A directory that contains services is not a service.
        holds = any(directory.is_relative_to(path) for directory in known)
        if not holds and _mentions_database(path, root):
            yield handled(
                f"{shown(path, root)} names a database and has no migrations",
                "No action needed, unless it owns that database: run `alembic init alembic` in it.",
                Level.INFO,
            )


def _seeds(registry: Registry) -> Iterator[Problem]:
    used = {seed for service in registry.services for seed in service.seeds}
    directory = registry.root / SEED_DIRECTORY
    for path in sorted(path for pattern in SEED_PATTERNS for path in directory.glob(pattern)):
        if path not in used:
            yield action_required(
                f"the seed {shown(path, registry.root)} is not listed by any service",
                "Add it to 'seeds' of its service in the registry, or delete it.",
            )


def _siblings(root: Path, directories: set[Path]) -> list[Path]:
    """Return the sibling directories of services that contain files of the repository."""
    parents = {directory.parent for directory in directories} - {root.parent}
    inside = (
        parent / file.relative_to(parent).parts[0]
        for file in repository_files(root)
        for parent in parents
        if parent in file.parents[1:]
    )
    return sorted(set(inside))


def _mentions_database(directory: Path, root: Path) -> bool:
    files = (file for file in repository_files(root) if file.is_relative_to(directory))
    return any(
        file.name in CONFIG_NAMES and MENTIONS_DATABASE.search(text_of(file)) for file in files
    )
