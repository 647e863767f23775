"""What a database was made of, so that a copy of it may stand for making it again.

A template is a copy of a database that was migrated, verified and seeded. It notes what went into
it, part by part; as long as every part is the same now, a reset is a copy. Whatever cannot be told
apart counts as changed.
"""

import hashlib
import json
import os
import re
import sysconfig
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from stat import S_ISREG

from huleedu_tasks.config.registry import Registry, Service
from huleedu_tasks.config.settings import ENV_FILE, VARIABLES, Settings
from huleedu_tasks.migrations.runner import Used
from huleedu_tasks.migrations.worker import INSTALLED as LIBRARY_FOLDERS
from huleedu_tasks.seeds import seed_files

# Files above this size, in bytes, are known by their size and the time of their last change; so are
# all of them where there are very many.
LARGE = 2**22
MANY = 5000
VIRTUAL_ENVIRONMENT = "pyvenv.cfg"
INSTALLED = "what is installed in "
LISTED = "what lies in "
_KEY_LENGTH = 12
_DISTRIBUTIONS = "*-info"
_MISSING = "missing"
_TOUCHED = "changed while it was used"
_NOBODYS = frozenset({"__pycache__", "node_modules", *LIBRARY_FOLDERS})
_OURS = Path(__file__).parent
_VARIABLE = re.compile(rb"\b[A-Z][A-Z0-9_]+\b")
Parts = Mapping[str, str]


def parts_of(service: Service, settings: Settings, registry: Registry, *, server: str) -> Parts:
    """Return what goes into a service's database before it is made, each part with its digest.

    Args:
        server: What the server is, and what it puts into a new database.
    """
    root = registry.root
    files = _files(service)
    # An interpreter of its own tells only later where its libraries are.
    folders = [] if service.python else _own_libraries()
    return {
        "its registry entry": _digest(_stated(service, root)),
        "its files": _digest(_contents(files, root)),
        "the settings": _digest(_settings(settings, files)),
        "the server": _digest([server]),
        **{name: _digest_of(name, root) for name in (_part_of(each, root) for each in folders)},
    }


def with_used(parts: Parts, service: Service, used: Used, root: Path, *, since: float) -> Parts:
    """Return the parts with what has turned out to be used while the database was made.

    Args:
        since: When the making began, in seconds since the epoch. What was changed after that may
            have been read before or after, and counts as changed.
    """
    known = {*_files(service), root / ENV_FILE}
    files = [path for path in map(Path, used.files) if path not in known]
    known |= {path.parent for path in known} | {service.directory}
    folders = [path for path in map(Path, used.folders) if path not in known]
    names = [
        *(_part_of(path, root) for path in files if not path.is_relative_to(_OURS)),
        *(_part_of(path, root, LISTED) for path in folders if not path.is_relative_to(_OURS)),
    ]
    edited = {_name(path, root) for path in files if _was_touched(path, since)}
    found = {name: _TOUCHED if name in edited else _digest_of(name, root) for name in sorted(names)}
    return {**parts, **found}


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


def _settings(settings: Settings, files: Iterable[Path]) -> Iterator[str]:
    """Return what a migration or a seed may look at; a password is not among it.

    That is every variable of `.env`, and of all the others those that the files name.
    """
    ours = {variable.name for variable in VARIABLES}
    names = (settings.file.keys() | _named_in(files, settings.process.keys())) - ours
    values = settings.child_environment()
    yield f"{settings.environment} {settings.get('HULEEDU_DB_USER')}"
    yield from (f"{name}={values[name]}" for name in sorted(names))


def _named_in(files: Iterable[Path], variables: Collection[str]) -> set[str]:
    """Return those variables whose names stand in one of several files of Python."""
    sources = [path for path in files if path.suffix == ".py"]
    words = {word for path in sources for word in _VARIABLE.findall(_read(path))}
    return {name for name in variables if name.encode() in words}


def _own_libraries() -> list[Path]:
    paths = sysconfig.get_paths()
    return [Path(paths["purelib"]), Path(paths["platlib"])]


def _part_of(path: Path, root: Path, kind: str = "") -> str:
    """Return the name of the part a path is, or of the installed libraries it is one of."""
    folders = (each for each in (path, *path.parents) if each.name in LIBRARY_FOLDERS)
    library = next(folders, None)
    return f"{INSTALLED}{_name(library, root)}" if library else f"{kind}{_name(path, root)}"


def _files(service: Service) -> list[Path]:
    """Return every file that may have a part in it, ignored by git or not."""
    inside = (file for path in (service.directory, *service.inputs) for file in _files_at(path))
    return sorted({*inside, *seed_files(service), service.alembic_config})


def _files_at(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    for folder, folders, files in os.walk(path):
        if VIRTUAL_ENVIRONMENT in files and Path(folder) != path:
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
    """Return the digest of a part that is known by its name: a file, or what is in a folder."""
    if name.startswith(INSTALLED):
        folder = root / name.removeprefix(INSTALLED)
        return _digest(sorted(path.name for path in folder.glob(_DISTRIBUTIONS)))
    if name.startswith(LISTED):
        return _digest(_entries(root / name.removeprefix(LISTED)))
    return _digest([_content(root / name, LARGE)])


def _entries(folder: Path) -> list[str]:
    try:
        names = [path.name for path in folder.iterdir()]
    except OSError:
        return [_MISSING]
    return sorted(name for name in names if name not in _NOBODYS and name[0] != ".")


def _was_touched(path: Path, since: float) -> bool:
    try:
        facts = path.stat()
    except OSError:
        return True
    # A file that was moved here keeps the time of its content, and not that of its entry.
    return max(facts.st_mtime, facts.st_ctime) >= since


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _content(path: Path, limit: int) -> str:
    try:
        facts = path.stat()
        if not S_ISREG(facts.st_mode):
            # A device or a pipe has no end.
            return _MISSING
        if facts.st_size > limit:
            return f"{facts.st_size} {facts.st_mtime_ns}"
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return _MISSING


def _digest(texts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]
