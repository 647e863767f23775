"""The inputs of a build, and their fingerprint.

A template is a copy of a database that was migrated, verified and seeded. Its tag has the digest of
each input. As long as every input is unchanged, a reset copies the template. An input that cannot
be compared counts as changed.
"""

import json
import os
import re
import sysconfig
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import fields, replace
from fnmatch import translate
from pathlib import Path
from typing import TYPE_CHECKING

from huleedu_tasks.config.dotenv import ENV_FILE
from huleedu_tasks.config.registry import Service
from huleedu_tasks.config.settings import Settings
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
from huleedu_tasks.seeds.files import seed_files

if TYPE_CHECKING:
    from huleedu_tasks.migrations.results import Used

# Of more files than this, only size and time are compared.
MANY = 5000
VIRTUAL_ENVIRONMENT = "pyvenv.cfg"
MODULE = ".py"
ITS_FILES = "its files"
SERVER = "the server"
ROLES = "the server's roles"
# The inputs that are those of a server, and not of what is built on it.
OF_SERVER = frozenset({SERVER, ROLES})
_KEY_LENGTH = 12
# What tools write into any directory.
_WRITTEN = (".DS_Store", ".coverage", "coverage.xml", "htmlcov", "node_modules", "*.log")
_OF_EDITORS = ("*.swp", "*~")
# A test is edited before most runs of pytest. A file of the tests that a build reads is an input.
_OF_TESTS = ("tests", "test", "conftest.py", "test_*.py", "*_test.py")
_BUILT = (BYTECODE, "*.pyc", *LIBRARY_DIRECTORIES)
_IGNORED = re.compile("|".join(map(translate, (*_WRITTEN, *_OF_EDITORS, *_OF_TESTS, *_BUILT))))


def inputs_of(
    service: Service,
    settings: Settings,
    present: Present,
    *,
    server: str,
    roles: str = "",
    others: Collection[Service] = (),
) -> Inputs:
    """Return the inputs of a build that are known before it begins, each with its digest.

    Args:
        server: The server's version and settings, and the fingerprint of its init scripts.
        roles: The server's roles, with their settings.
        others: The other services that share the database; `merged` adds their files.
    """
    # The libraries of a service with its own interpreter are known only after it has run.
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
    """Return the first of the services that share a database, with the files of all of them."""
    first, *others = members
    files = [
        path
        for other in others
        for path in (other.directory, *other.inputs, *_named(other))
        if path != first.directory
    ]
    python = first.python if all(member.python for member in members) else ()
    return replace(first, inputs=(*first.inputs, *files), python=python)


def with_used(inputs: Inputs, service: Service, used: "Used", present: Present) -> Inputs:
    """Return the inputs together with those that the build has read."""
    return {**inputs, **present.inputs(_beside(service, used, present.root))}


def changed_since(service: Service, used: "Used", present: Present, since: float) -> str:
    """Return a file outside the service that the build has read and that was changed during it.

    Args:
        since: When the build began, in seconds since the epoch.

    Returns:
        Its name, for messages; empty string if no such file was changed.
    """
    beside = _beside(service, used, present.root)
    # Installed libraries are known by their versions, and write bytecode on first use.
    files, directories = (
        [Path(path) for path in paths if not is_installed(path)]
        for paths in (beside.files, beside.directories)
    )
    # Only files: a subdirectory's time changes with its entries, which were not listed.
    found = (
        directory / name
        for directory in directories
        for name in entries(directory)
        if name[-1] != "/"
    )
    return _first_touched((*files, *found), since, present)


def own_change_since(service: Service, present: Present, since: float) -> str:
    """Return a file of the service that was changed since a moment; empty string if none was.

    Args:
        since: The moment, in seconds since the epoch.
    """
    return _first_touched(_files(service), since, present)


def difference(noted: Inputs, inputs: Inputs, present: Present) -> str:
    """Return the first input that changed, or an empty string if the template is still valid.

    Args:
        noted: The inputs in the template's tag.
        inputs: The current inputs, from `inputs_of`.
    """
    return shown(next(differences(noted, inputs, present), ""))


def differences(noted: Inputs, inputs: Inputs, present: Present) -> Iterator[str]:
    """Yield the name of each input that changed; the arguments are those of `difference`."""
    for name, was in noted.items():
        now = inputs[name] if name in inputs else present.digest_of(name)
        if now != was:
            yield name
    yield from (name for name in inputs if name not in noted)


def key(inputs: Inputs) -> str:
    """Return the fingerprint: the digest of all inputs together."""
    return digest([json.dumps(dict(sorted(inputs.items())))])[:_KEY_LENGTH]


def _stated(service: Service, root: Path) -> Iterator[str]:
    for field in fields(service):
        yield f"{field.name} {getattr(service, field.name)!r}".replace(str(root), "")


def _settings(settings: Settings, present: Present) -> Iterator[str]:
    """Yield the settings that a migration or a seed may read, without passwords."""
    yield f"{settings.environment} {settings.get('HULEEDU_DB_USER')}"
    names = settings.file.keys() & present.variables.keys()
    yield from (f"{name}={present.variables[name]}" for name in sorted(names))
    # Settings classes of services may read `.env.local` and the like.
    for path in sorted(settings.root.glob(f"{ENV_FILE}.*")):
        yield from (path.name, *present.content(path))


def _own_libraries() -> list[Path]:
    paths = sysconfig.get_paths()
    return [Path(paths["purelib"]), Path(paths["platlib"])]


def _beside(service: Service, used: "Used", root: Path) -> "Used":
    """Return what was read, without `.env` and the files that count in any case."""
    known = {str(path) for path in (*_files(service), root / ENV_FILE)}
    return replace(
        used,
        files=[path for path in used.files if path not in known],
        statuses=[path for path in used.statuses if path not in known],
    )


def _files(service: Service) -> list[Path]:
    """Return the files that count even if no build reads them, including those Git ignores.

    Modules of the service are not among them: those that a build searches for, imports or reads are
    recorded, and an edit of another one does not change the database.
    """
    found = {path for path in _files_at(service.directory) if path.suffix != MODULE}
    for path in service.inputs:
        found.update(_files_at(path))
    return sorted({*found, *_named(service)})


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
        directories[:] = [name for name in directories if not _is_ignored(name) and name[0] != "."]
        links = [name for name in directories if Path(directory, name).is_symlink()]
        yield from (Path(directory, name) for name in (*files, *links) if not _is_ignored(name))


def _is_ignored(name: str) -> bool:
    return bool(_IGNORED.match(name))


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
        # That the file does not exist is an input already.
        return False
    # A rename keeps the modification time, and sets the change time.
    return max(facts.st_mtime, facts.st_ctime) >= since
