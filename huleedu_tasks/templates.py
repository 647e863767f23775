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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from stat import S_ISREG

from huleedu_tasks.config.registry import Service
from huleedu_tasks.config.settings import ENV_FILE, VARIABLES, Settings
from huleedu_tasks.migrations.runner import Used
from huleedu_tasks.migrations.worker import INSTALLED as LIBRARY_FOLDERS
from huleedu_tasks.migrations.worker import is_installed
from huleedu_tasks.seeds.files import seed_files

# Files above this size, in bytes, are known by their size and the time of their last change; so are
# all of them where there are very many.
LARGE = 2**22
MANY = 5000
# In larger ones nobody looks for names of variables, in bytes.
READABLE = 2**18
VIRTUAL_ENVIRONMENT = "pyvenv.cfg"
INSTALLED = "what is installed in "
LISTED = "what lies in "
ITS_FILES = "its files"
_KEY_LENGTH = 12
_DISTRIBUTION = "-info"
_PATHS = (".pth", ".egg-link")
_EDITABLE = "__editable__"
_MISSING = "missing"
# What tools leave behind in any folder.
_NOBODYS = frozenset(
    {"__pycache__", "node_modules", ".DS_Store", ".coverage", "coverage.xml", *LIBRARY_FOLDERS}
)
_NOBODYS_ENDINGS = (".pyc", ".log", ".swp", "~")
# What may be a variable's name, or the beginning of several as `env_prefix` has it.
_NAME = re.compile(rb"[A-Za-z][A-Za-z0-9]*_\w*|[A-Z][A-Z0-9]+")
# They tell where somebody types, and what cannot be seen in a database.
_OF_A_TERMINAL = frozenset({"COLUMNS", "LINES", "OLDPWD", "PWD", "SHLVL", "TERM", "_"})
_OURS = Path(__file__).parent
Parts = Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Present:
    """What there is now.

    Attributes:
        root: The root of the monorepo.
        variables: What a migration or a seed finds in its environment, but for what says how
            these tasks work.
    """

    root: Path
    variables: Mapping[str, str]
    # What every service has, by its name.
    _installed: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, settings: Settings) -> "Present":
        """Return what there is for a run with these settings."""
        nobodys = {variable.name for variable in VARIABLES} | _OF_A_TERMINAL
        environment = settings.child_environment().items()
        variables = {name: value for name, value in environment if name not in nobodys}
        return cls(root=settings.root, variables=variables)

    def name(self, path: Path) -> str:
        """Return a path as it is noted: a folder that is moved as a whole is the same monorepo."""
        inside = path.is_relative_to(self.root)
        return path.relative_to(self.root).as_posix() if inside else str(path)

    def digest_of(self, name: str) -> str:
        """Return the digest of a part that is known by its name: a file, or what is in a folder."""
        if name.startswith(INSTALLED):
            if name not in self._installed:
                folder = self.root / name.removeprefix(INSTALLED)
                self._installed[name] = _digest(_distributions(folder))
            return self._installed[name]
        if name.startswith(LISTED):
            return _digest(_entries(self.root / name.removeprefix(LISTED)))
        return _digest(self.content(self.root / name))

    def content(self, path: Path, limit: int = LARGE) -> Iterator[str]:
        """Tell what is in a file, and in the variables it names.

        Args:
            limit: Bytes above which it is not read.
        """
        try:
            facts = path.stat()
            if not S_ISREG(facts.st_mode):
                # A device or a pipe has no end.
                yield _MISSING
            elif facts.st_size > limit:
                yield f"{facts.st_size} {facts.st_mtime_ns} {facts.st_ctime_ns}"
            else:
                text = path.read_bytes()
                yield hashlib.sha256(text).hexdigest()
                yield from self._named_in(text)
        except OSError:
            yield _MISSING

    def _named_in(self, text: bytes) -> Iterator[str]:
        """Tell the values of those variables whose names, or beginnings, stand in a text."""
        if len(text) > READABLE:
            return
        words = {word.lower() for word in _NAME.findall(text)}
        beginnings = tuple(word for word in words if word.endswith(b"_"))
        for name, value in sorted(self.variables.items()):
            sought = os.fsencode(name).lower()
            if sought in words or sought.startswith(beginnings):
                yield f"{name}={value}"


def parts_of(service: Service, settings: Settings, present: Present, *, server: str) -> Parts:
    """Return what goes into a service's database before it is made, each part with its digest.

    Args:
        server: What the server is, and what it puts into a new database.
    """
    # An interpreter of its own tells only later where its libraries are.
    folders = [] if service.python else _own_libraries()
    libraries = [_part_of(folder, present) for folder in folders]
    return {
        "its registry entry": _digest(_stated(service, present.root)),
        # Before the files that name a variable of them.
        "the settings": _digest(_settings(settings, present)),
        ITS_FILES: _digest(_contents(_files(service), present)),
        "the server": _digest([server]),
        **{name: present.digest_of(name) for name in libraries},
    }


def with_used(parts: Parts, service: Service, used: Used, present: Present) -> Parts:
    """Return the parts with what has turned out to be used while the database was made."""
    files, folders = _beside(service, used, present.root)
    names = {
        *(_part_of(path, present) for path in files),
        *(_part_of(path, present, LISTED) for path in folders),
    }
    return {**parts, **{name: present.digest_of(name) for name in sorted(names)}}


def changed_since(service: Service, used: Used, present: Present, since: float) -> str:
    """Return a file beside the service's own that was changed while it was used; or nothing.

    Args:
        since: When that began, in seconds since the epoch.
    """
    # What is installed is known by that, and compiled when it is first used.
    files, folders = (
        [path for path in paths if not is_installed(str(path))]
        for paths in _beside(service, used, present.root)
    )
    entries = (folder / name for folder in folders for name in _entries(folder))
    return _first_touched((*files, *entries), since, present)


def own_change_since(service: Service, present: Present, since: float) -> str:
    """Return one of the service's own files that was changed after a moment; or nothing."""
    return _first_touched(_files(service), since, present)


def difference(noted: Parts, parts: Parts, present: Present) -> str:
    """Return the first part that is another one now, or nothing if a copy may stand for it all.

    Args:
        noted: The parts a template was made of.
        parts: Those of now, as `parts_of` tells them.
    """
    for name, digest in noted.items():
        now = parts[name] if name in parts else present.digest_of(name)
        if now != digest:
            return name
    return next((name for name in parts if name not in noted), "")


def key(parts: Parts) -> str:
    """Return a name for all the parts together."""
    return _digest([json.dumps(dict(sorted(parts.items())))])[:_KEY_LENGTH]


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


def _part_of(path: Path, present: Present, kind: str = "") -> str:
    """Return the name of the part a path is, or of the installed libraries it is one of."""
    folders = (each for each in (path, *path.parents) if each.name in LIBRARY_FOLDERS)
    library = next(folders, None)
    return f"{INSTALLED}{present.name(library)}" if library else f"{kind}{present.name(path)}"


def _beside(service: Service, used: Used, root: Path) -> tuple[list[Path], list[Path]]:
    """Return the files and folders that were used, but for those that are known anyway."""
    walked = list(_walked(service))
    known = {*walked, *_named(service), root / ENV_FILE}
    folders = {service.directory, *service.inputs, *(path.parent for path in walked)}
    return (
        [path for path in map(Path, used.files) if path not in known and not _is_ours(path)],
        [path for path in map(Path, used.folders) if path not in folders and not _is_ours(path)],
    )


def _is_ours(path: Path) -> bool:
    return path.is_relative_to(_OURS)


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
    for folder, folders, files in os.walk(path):
        if VIRTUAL_ENVIRONMENT in files and Path(folder) != path:
            folders.clear()
            continue
        folders[:] = [name for name in folders if not _is_nobodys(name) and name[0] != "."]
        yield from (Path(folder, name) for name in files if not _is_nobodys(name))


def _is_nobodys(name: str) -> bool:
    return name in _NOBODYS or name.endswith(_NOBODYS_ENDINGS)


def _contents(files: Sequence[Path], present: Present) -> Iterator[str]:
    limit = LARGE if len(files) <= MANY else 0
    for path in files:
        yield " ".join((present.name(path), *present.content(path, limit)))


def _entries(folder: Path) -> list[str]:
    try:
        names = [path.name for path in folder.iterdir()]
    except OSError:
        return [_MISSING]
    return sorted(name for name in names if not _is_nobodys(name) and name[0] != ".")


def _distributions(folder: Path) -> Iterator[str]:
    """Tell what is installed in a folder: a version may be installed again with other files."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        if entry.name.endswith(_DISTRIBUTION):
            yield f"{entry.name} {_age(Path(entry.path, 'RECORD'))}"
        elif entry.name.endswith(_PATHS) or entry.name.startswith(_EDITABLE):
            yield f"{entry.name} {_age(Path(entry.path))}"


def _age(path: Path) -> str:
    try:
        facts = path.stat()
    except OSError:
        return _MISSING
    return f"{facts.st_size} {facts.st_mtime_ns}"


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


def _digest(texts: Iterable[str]) -> str:
    text = "\n".join(texts)
    # Names of files and values of variables need not be UTF-8.
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]
