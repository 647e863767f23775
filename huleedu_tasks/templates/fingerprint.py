"""What a database was made of, so that a copy of it may stand for making it again.

A template is a copy of a database that was migrated, verified and seeded. It notes what went into
it, part by part; as long as every part is the same now, a reset is a copy. Whatever cannot be told
apart counts as changed.
"""

import json
import os
import sysconfig
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path

from huleedu_tasks.config.registry import Service
from huleedu_tasks.config.settings import ENV_FILE, Settings
from huleedu_tasks.migrations.child.input_tracker import INSTALLED as LIBRARY_DIRECTORIES
from huleedu_tasks.migrations.child.input_tracker import is_installed
from huleedu_tasks.migrations.inputs import (
    BYTECODE,
    LARGE,
    Inputs,
    Present,
    digest,
    entries,
    shown,
)
from huleedu_tasks.migrations.runner import Used
from huleedu_tasks.seeds.files import seed_files

# Of very many files, size and time are enough.
MANY = 5000
VIRTUAL_ENVIRONMENT = "pyvenv.cfg"
ITS_FILES = "its files"
SERVER = "the server"
ROLES = "the server's roles"
_KEY_LENGTH = 12
# What tools leave behind in any directory.
_NOBODYS = frozenset(
    {BYTECODE, "node_modules", ".DS_Store", ".coverage", "coverage.xml", *LIBRARY_DIRECTORIES}
)
_NOBODYS_ENDINGS = (".pyc", ".log", ".swp", "~")
_OURS = Path(__file__).parent


def parts_of(
    service: Service,
    settings: Settings,
    present: Present,
    *,
    server: str,
    roles: str = "",
    others: Collection[Service] = (),
) -> Inputs:
    """Return what goes into a service's database before it is made, each part with its digest.

    Args:
        others: Those that share the database; their files are among the service's (`merged`).
        server: What the server is, and what it puts into a new database.
        roles: Which roles it has, with their settings.
    """
    # An interpreter of its own tells only later where its libraries are.
    directories = [] if service.python else _own_libraries()
    libraries = [present.input_of(directory) for directory in directories]
    return {
        "its registry entry": digest(_stated(service, present.root)),
        **{
            f"the registry entry of {other.name}": digest(_stated(other, present.root))
            for other in others
        },
        "the settings": digest(_settings(settings, present)),
        ITS_FILES: digest(_contents(_files(service), present)),
        SERVER: digest([server]),
        ROLES: digest([roles]),
        **{name: present.digest_of(name) for name in libraries},
    }


def merged(members: Sequence[Service]) -> Service:
    """Return the first of the services that share a database, with the files of all as its own."""
    first, *others = members
    files = [
        path
        for other in others
        for path in (other.directory, *other.inputs, *_named(other))
        if path != first.directory
    ]
    python = first.python if all(member.python for member in members) else ()
    return replace(first, inputs=(*first.inputs, *files), python=python)


def with_used(parts: Inputs, service: Service, used: Used, present: Present) -> Inputs:
    """Return the parts with what has turned out to be used while the database was made."""
    return {**parts, **present.inputs(_beside(service, used, present.root))}


def changed_since(service: Service, used: Used, present: Present, since: float) -> str:
    """Return a file beside the service's own that was changed while it was used; or nothing.

    Args:
        since: When that began, in seconds since the epoch.
    """
    beside = _beside(service, used, present.root)
    # What is installed is known by that, and compiled when it is first used.
    files, directories = (
        [Path(path) for path in paths if not is_installed(path)]
        for paths in (beside.files, beside.directories)
    )
    # A directory changes with what is in it, which is no entry of this one.
    found = (
        directory / name
        for directory in directories
        for name in entries(directory)
        if name[-1] != "/"
    )
    return _first_touched((*files, *found), since, present)


def own_change_since(service: Service, present: Present, since: float) -> str:
    """Return one of the service's own files that was changed after a moment; or nothing."""
    return _first_touched(_files(service), since, present)


def difference(noted: Inputs, parts: Inputs, present: Present) -> str:
    """Return the first part that is another one now, or nothing if a copy may stand for it all.

    Args:
        noted: The parts a template was made of.
        parts: Those of now, as `parts_of` tells them.
    """
    for name, was in noted.items():
        now = parts[name] if name in parts else present.digest_of(name)
        if now != was:
            return shown(name)
    return next((name for name in parts if name not in noted), "")


def key(parts: Inputs) -> str:
    """Return a name for all the parts together."""
    return digest([json.dumps(dict(sorted(parts.items())))])[:_KEY_LENGTH]


def _stated(service: Service, root: Path) -> Iterator[str]:
    for each in fields(service):
        yield f"{each.name} {getattr(service, each.name)!r}".replace(str(root), "")


def _settings(settings: Settings, present: Present) -> Iterator[str]:
    """Tell what a migration or a seed may look at; a password is not among it."""
    yield f"{settings.environment} {settings.get('HULEEDU_DB_USER')}"
    names = settings.file.keys() & present.variables.keys()
    yield from (f"{name}={present.variables[name]}" for name in sorted(names))
    # Some settings classes read them as well.
    for path in sorted(settings.root.glob(f"{ENV_FILE}.*")):
        yield from (path.name, *present.content(path))


def _own_libraries() -> list[Path]:
    paths = sysconfig.get_paths()
    return [Path(paths["purelib"]), Path(paths["platlib"])]


def _beside(service: Service, used: Used, root: Path) -> Used:
    """Return what was used, but for the files that are known anyway."""
    known = {str(path) for path in (*_walked(service), *_named(service), root / ENV_FILE)}
    own = f"{_OURS}{os.sep}"
    return replace(
        used,
        files=[path for path in used.files if path not in known and not path.startswith(own)],
        directories=[path for path in used.directories if not path.startswith(own)],
        statuses=[path for path in used.statuses if path not in known],
    )


def _files(service: Service) -> list[Path]:
    """Return every file that may have a part in it, ignored by git or not."""
    return sorted({*_walked(service), *_named(service)})


def _walked(service: Service) -> Iterator[Path]:
    for path in (service.directory, *service.inputs):
        yield from _files_at(path)


def _named(service: Service) -> list[Path]:
    return [*seed_files(service), service.alembic_config]


def _files_at(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    for directory, directories, files in os.walk(path):
        if VIRTUAL_ENVIRONMENT in files and Path(directory) != path:
            directories.clear()
            continue
        directories[:] = [name for name in directories if not _is_nobodys(name) and name[0] != "."]
        links = [name for name in directories if Path(directory, name).is_symlink()]
        yield from (Path(directory, name) for name in (*files, *links) if not _is_nobodys(name))


def _is_nobodys(name: str) -> bool:
    return name in _NOBODYS or name.endswith(_NOBODYS_ENDINGS)


def _contents(files: Sequence[Path], present: Present) -> Iterator[str]:
    limit = LARGE if len(files) <= MANY else 0
    for path in files:
        yield " ".join((present.name(path), *present.content(path, limit)))


def _first_touched(paths: Iterable[Path], since: float, present: Present) -> str:
    return next((present.name(path) for path in paths if _was_touched(path, since)), "")


def _was_touched(path: Path, since: float) -> bool:
    try:
        facts = path.stat()
    except OSError:
        # What is not there is known as that.
        return False
    # A file that was moved here keeps the time of its content, and not that of its entry.
    return max(facts.st_mtime, facts.st_ctime) >= since
