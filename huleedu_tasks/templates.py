"""What a database was made of, so that a copy of it may stand for making it again.

A template is a copy of a database that was migrated, verified and seeded. It notes what went into
it, part by part; as long as every part is the same now, a reset is a copy. Whatever cannot be told
apart counts as changed.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path

from huleedu_tasks.config.registry import Registry, Service
from huleedu_tasks.config.settings import VARIABLES, Settings
from huleedu_tasks.migrations.runner import Used
from huleedu_tasks.seeds import seed_files

# Files above this size, in bytes, are known by their size and the time of their last change; so are
# all of them where there are very many.
LARGE = 2**22
MANY = 5000
VIRTUAL_ENVIRONMENT = "pyvenv.cfg"
INSTALLED = "installed in "
_KEY_LENGTH = 12
_DISTRIBUTIONS = "*.dist-info"
_MISSING = "missing"
_TOUCHED = "changed while it was used"
_NOBODYS = frozenset({"__pycache__", "node_modules"})
_OURS = Path(__file__).parent
Parts = Mapping[str, str]


def parts_of(service: Service, settings: Settings, registry: Registry, *, server: str) -> Parts:
    """Return what goes into a service's database before it is made, each part with its digest.

    Args:
        server: What the server is, and what it puts into a new database.
    """
    root = registry.root
    return {
        "its registry entry": _digest(_stated(service, root)),
        "its files": _digest(_contents(_files(service), root)),
        "the settings": _digest(_settings(settings)),
        "the server": _digest([server]),
    }


def with_used(parts: Parts, used: Used, root: Path, *, since: float) -> Parts:
    """Return the parts with what has turned out to be used while the database was made.

    Args:
        since: When the making began, in seconds since the epoch. What was changed after that may
            have been read before or after, and counts as changed.
    """
    folders = [Path(folder) for folder in used.folders]
    files = {Path(file) for file in used.files}
    # What is installed is known by its folder; what lies elsewhere may be edited in place.
    edited = [p for p in sorted(files) if not any(p.is_relative_to(f) for f in (*folders, _OURS))]
    found = {
        _name(path, root): _TOUCHED
        if was_touched([path], since)
        else _digest([_content(path, LARGE)])
        for path in edited
    }
    names = [f"{INSTALLED}{folder}" for folder in sorted(folders)]
    return {**parts, **found, **{name: _digest_of(name, root) for name in names}}


def touched(service: Service, since: float) -> bool:
    """Whether a file of a service was changed after a moment, in seconds since the epoch."""
    return was_touched(_files(service), since)


def was_touched(files: Iterable[Path], since: float) -> bool:
    """Whether one of several files was changed after a moment, or is gone."""
    try:
        return any(path.stat().st_mtime >= since for path in files)
    except OSError:
        return True


def difference(noted: Parts, parts: Parts, root: Path) -> str:
    """Return the first part that is another one now, or nothing if a copy may stand for it all.

    Args:
        noted: The parts a template was made of.
        parts: Those of now, as `parts_of` tells them.
        root: The root of the monorepo.
    """
    for name, digest in noted.items():
        now = parts[name] if name in parts else _digest_of(name, root)
        if now != digest:
            return name
    return next((name for name in parts if name not in noted), "")


def key(parts: Parts) -> str:
    """Return a name for all the parts together."""
    return _digest([json.dumps(dict(sorted(parts.items())))])[:_KEY_LENGTH]


def _stated(service: Service, root: Path) -> Iterator[str]:
    for field in fields(service):
        # A folder that is moved as a whole is the same monorepo.
        yield f"{field.name} {getattr(service, field.name)!r}".replace(str(root), "")


def _settings(settings: Settings) -> Iterator[str]:
    """Return what a migration or a seed may look at; a password is not among it."""
    ours = {variable.name for variable in VARIABLES}
    yield f"{settings.environment} {settings.get('HULEEDU_DB_USER')}"
    yield from (
        f"{name}={value}" for name, value in sorted(settings.file.items()) if name not in ours
    )


def _files(service: Service) -> list[Path]:
    """Return every file that may have a part in it, ignored by git or not."""
    inside = (file for path in (service.directory, *service.inputs) for file in _files_at(path))
    return sorted({*inside, *seed_files(service), service.alembic_config})


def _files_at(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    for folder, folders, files in os.walk(path):
        if VIRTUAL_ENVIRONMENT in files:
            folders.clear()
            continue
        folders[:] = [name for name in folders if name not in _NOBODYS and name[0] != "."]
        yield from (Path(folder, name) for name in files)


def _contents(files: Sequence[Path], root: Path) -> Iterator[str]:
    limit = LARGE if len(files) <= MANY else 0
    for path in files:
        yield f"{_name(path, root)} {_content(path, limit)}"


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def _digest_of(name: str, root: Path) -> str:
    """Return the digest of a part that is known by its name: a file, or a folder of libraries."""
    if name.startswith(INSTALLED):
        folder = Path(name.removeprefix(INSTALLED))
        return _digest(sorted(path.name for path in folder.glob(_DISTRIBUTIONS)))
    return _digest([_content(root / name, LARGE)])


def _content(path: Path, limit: int) -> str:
    try:
        facts = path.stat()
        if facts.st_size > limit:
            return f"{facts.st_size} {facts.st_mtime_ns}"
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return _MISSING


def _digest(texts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]
