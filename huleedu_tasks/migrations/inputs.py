"""Computes the digests of inputs: files, directories, modules, variables, installed libraries.

A template, or a cached answer of Alembic, is valid as long as the digest of every input is the
same.
"""

import errno
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import TYPE_CHECKING

from huleedu_tasks.config.settings import SETTINGS, Settings
from huleedu_tasks.migrations.child.input_tracker import INSTALLED as LIBRARIES
from huleedu_tasks.migrations.child.input_tracker import source_of

if TYPE_CHECKING:
    from huleedu_tasks.migrations.results import Used

# Above this size in bytes, the digest of a file is its size and modification time.
LARGE = 2**22
INSTALLED = "the packages in "
LISTED = "the entries of "
STATUS = "the status of "
MODULES = "the modules in "
VARIABLE = "the variable "
VARIABLES_SET = "the names of environment variables"
INTERPRETER = "the time zone, the locale or PYTHON*"
MISSING = "missing"
BYTECODE = "__pycache__"
# The name of the root itself.
HERE = "."
# What the system says of a path that is not a link.
_NO_LINK = (errno.EINVAL, errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
LOCAL_TIME = Path("/etc/localtime")
# Kinds of inputs that depend on the variables of a service.
_OF_ONE_SERVICE = (VARIABLE, VARIABLES_SET, INTERPRETER)
# Matches up to the innermost directory of installed libraries.
_INSTALLED_IN = re.compile(rf"(?:.*/)?(?:{'|'.join(LIBRARIES)})(?=/|$)", re.DOTALL)
_DISTRIBUTION = "-info"
_PATHS = (".pth", ".egg-link")
_EDITABLE = "__editable__"
# Prefixes of variables that the interpreter and its C libraries read.
_READ_AT_START = ("PYTHON", "LC_", "LANG", "TZ")
# Variables of a terminal, and the password, which these tasks set.
_NO_INPUTS = frozenset({"COLORTERM", "COLUMNS", "LINES", "PGPASSWORD", "TERM"})
# Variables of one terminal session. They count only if they are read by name.
_OF_A_SESSION = re.compile(
    r"_|OLDPWD|PWD|PYTEST_CURRENT_TEST|SHLVL|WINDOWID|DISPLAY|STY|(DBUS|GPG|ITERM|KITTY|KONSOLE|SSH|TERM|TERMINAL"
    r"|TMUX|VSCODE|VTE|WEZTERM|XDG_SESSION)(_\w+)?"
)
_SECRET = re.compile(r"PASS|PWD|SECRET|TOKEN|KEY|CREDENTIAL|DSN|UR[IL]", re.IGNORECASE)
# Too few digits to find a secret by trying values.
_DIGITS, _DIGITS_OF_A_SECRET = 16, 4
Inputs = Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What was found already, and is the same for all services of a command.

    Attributes:
        installed: The digests of installed libraries, by the name of the input.
        others: Those of other inputs, except variables.
        listings: The entries of directories.
        real_directories: The directories that paths lead to, without links.
    """

    installed: dict[str, str] = field(default_factory=dict)
    others: dict[str, str] = field(default_factory=dict)
    listings: dict[str, list[str]] = field(default_factory=dict)
    real_directories: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Present:
    """The current state of inputs; each digest is computed once.

    Attributes:
        root: The root of the monorepo.
        variables: The environment of a service's code, without settings of these tasks.
        seen: What was found already.
    """

    root: Path
    variables: Mapping[str, str]
    seen: Seen
    _known: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        settings: Settings,
        environment: Mapping[str, str] | None = None,
        seen: Seen | None = None,
    ) -> "Present":
        """Return the current state for a command with these settings.

        Args:
            settings: The settings.
            environment: The environment of a service's code; None for that of the settings.
            seen: What was found already; None for nothing.
        """
        own = {setting.name for setting in SETTINGS} | _NO_INPUTS
        found = settings.service_environment() if environment is None else environment
        variables = {name: value for name, value in found.items() if name not in own}
        return cls(
            root=settings.root,
            variables=variables,
            seen=seen or Seen(),
        )

    def name(self, path: Path | str) -> str:
        """Return a path relative to the root, so that a moved repository is the same monorepo."""
        return _below(str(path), str(self.root))

    def inputs(self, used: "Used") -> Inputs:
        """Return the digest of each input, by its name."""
        return {name: self.digest_of(name) for name in self._names(used)}

    def digest_of(self, name: str) -> str:
        """Return the digest of an input. A name without the prefix of a kind is a file."""
        known = self._known if name.startswith(_OF_ONE_SERVICE) else self.seen.others
        known = self.seen.installed if name.startswith(INSTALLED) else known
        if name not in known:
            is_secret = name.startswith(VARIABLE) and _SECRET.search(name)
            known[name] = digest(self._look_at(name))[: _DIGITS_OF_A_SECRET if is_secret else None]
        return known[name]

    def changed(self, noted: Inputs) -> str:
        """Return the first input that changed; an empty string if all are the same."""
        return next((shown(name) for name, was in noted.items() if self.digest_of(name) != was), "")

    def content(self, path: Path | str, limit: int = LARGE) -> Iterator[str]:
        """Yield the targets of links in a path, and the content of its file.

        Args:
            path: The path of the file.
            limit: Bytes above which the size and times are used instead of the content.
        """
        yield self._behind_links(str(path))
        try:
            facts = os.stat(path)
            if not S_ISREG(facts.st_mode):
                # A device or a pipe has no end.
                yield MISSING
            elif facts.st_size > limit:
                yield f"{facts.st_size} {facts.st_mtime_ns} {facts.st_ctime_ns}"
            else:
                with open(path, "rb") as file:
                    yield hashlib.sha256(file.read()).hexdigest()
        except OSError:
            yield MISSING

    def input_of(self, path: Path | str, kind: str = "") -> str:
        """Return the name of a path's input, or that of the installed libraries it belongs to."""
        text = str(path)
        # A build reads thousands of files, for which `Path.parents` would be slow.
        if around := _INSTALLED_IN.match(text):
            return f"{INSTALLED}{self.name(around[0])}"
        return f"{kind}{self.name(text)}"

    def _names(self, used: "Used") -> list[str]:
        files = {self.input_of(path) for path in used.files}
        others = {
            *(self.input_of(path, LISTED) for path in used.directories),
            *(self.input_of(path, STATUS) for path in used.statuses),
            *(
                f"{self.input_of(directory, MODULES)}\n{' '.join(sorted(set(names)))}"
                for directory, names in used.modules.items()
            ),
            *(f"{VARIABLE}{name}" for name in {*used.variables} - _NO_INPUTS),
            INTERPRETER,
        }
        if used.all_variables:
            others |= {VARIABLES_SET, *(f"{VARIABLE}{name}" for name in self._session_free())}
        return sorted(files) + sorted(others)

    def _look_at(self, name: str) -> Iterable[str]:
        kinds: dict[str, Callable[[str], Iterable[str]]] = {
            INSTALLED: self._installed,
            LISTED: self._listing,
            STATUS: self._status,
            MODULES: self._modules,
            VARIABLE: self._variable,
            VARIABLES_SET: self._variable_names,
            INTERPRETER: self._interpreter,
        }
        kind = next((kind for kind in kinds if name.startswith(kind)), "")
        return kinds.get(kind, self._file)(name.removeprefix(kind))

    def _file(self, rest: str) -> Iterator[str]:
        return self.content(self._path(rest))

    def _path(self, name: str) -> str:
        """Return the path that has a name; `pathlib` would be slow for hundreds of inputs."""
        return str(self.root) if name == HERE else os.path.join(self.root, name)

    def _installed(self, rest: str) -> Iterator[str]:
        return _distributions(self._path(rest))

    def _variable_names(self, _: str) -> list[str]:
        return sorted(self._session_free())

    def _session_free(self) -> Iterator[str]:
        return (name for name in self.variables if not _OF_A_SESSION.fullmatch(name))

    def _variable(self, name: str) -> Iterator[str]:
        yield f"={self.variables[name]}" if name in self.variables else MISSING

    def _interpreter(self, _: str) -> Iterator[str]:
        for name, value in sorted(self.variables.items()):
            if name.startswith(_READ_AT_START):
                yield f"{name}={value}"
        yield from self.content(LOCAL_TIME)

    def _status(self, rest: str) -> Iterator[str]:
        path = self._path(rest)
        yield self._behind_links(path)
        try:
            mode = os.stat(path).st_mode
            yield "directory" if S_ISDIR(mode) else "file" if S_ISREG(mode) else "other"
        except OSError:
            yield MISSING

    def _listing(self, rest: str) -> Iterator[str]:
        path = self._path(rest)
        yield self._behind_links(path)
        yield from self._entries(path)

    def _modules(self, rest: str) -> Iterator[str]:
        name, _, names = rest.partition("\n")
        directory = self._path(name)
        sought = set(names.split(" "))
        yield self._behind_links(directory)
        for entry in self._entries(directory):
            if entry.partition(".")[0].rstrip("/") in sought:
                yield entry
                if entry[-1] == "/":
                    # A package is found before a module, and a directory without code after it.
                    inner = self._entries(os.path.join(directory, entry))
                    yield from (name for name in inner if name.startswith("__init__."))

    def _entries(self, directory: str) -> list[str]:
        known = self.seen.listings
        if directory not in known:
            known[directory] = entries(directory)
        return known[directory]

    def _behind_links(self, path: str) -> str:
        """Return the targets of links in a path; an empty string if it has no links."""
        parent, name = os.path.split(path)
        found, link = os.path.join(self._real(parent), name), ""
        try:
            link = os.readlink(found)
            found = os.path.realpath(found)
        except OSError as error:
            if error.errno not in _NO_LINK:
                # A parent directory is not accessible.
                return MISSING
        place = _below(found, self._real(str(self.root)))
        return f"{link} {place}" if place != self.name(path) else ""

    def _real(self, directory: str) -> str:
        known = self.seen.real_directories
        if directory not in known:
            known[directory] = os.path.realpath(directory)
        return known[directory]


def shown(name: str) -> str:
    """Return the name of an input for messages, without the list of modules."""
    return name.partition("\n")[0]


def entries(directory: Path | str) -> list[str]:
    """Return the names in a directory, with a slash behind those of directories.

    Bytecode whose source exists is skipped. A missing directory has the entry `missing`.
    """
    try:
        found = list(os.scandir(directory))
    except OSError:
        return [MISSING]
    return sorted(
        f"{entry.name}/" if _is_directory(entry) else entry.name
        for entry in found
        if entry.name != BYTECODE and source_of(entry.path) == entry.path
    )


def _is_directory(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:
        # The target of a link is not accessible.
        return False


def digest(texts: Iterable[str]) -> str:
    """Return the digest of strings."""
    text = "\n".join(texts)
    # File names and variables may not be valid UTF-8.
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:_DIGITS]


def _below(path: str, root: str) -> str:
    if path == root:
        return HERE
    return path[len(root) + 1 :] if path.startswith(f"{root}{os.sep}") else path


def _distributions(directory: str) -> Iterator[str]:
    """Yield each distribution that is installed in a directory, with the digest of its RECORD.

    RECORD has a digest of every file of a distribution (Python packaging, "Recording installed
    projects"): the same version with other files differs, the same files installed again do not.
    """
    try:
        found = sorted(os.scandir(directory), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in found:
        if entry.name.endswith(_DISTRIBUTION):
            yield f"{entry.name} {_content(os.path.join(entry.path, 'RECORD'))}"
        elif entry.name.endswith(_PATHS) or entry.name.startswith(_EDITABLE):
            yield f"{entry.name} {_content(entry.path)}"


def _content(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()[:_DIGITS]
    except OSError:
        return MISSING
