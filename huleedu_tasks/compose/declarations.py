"""One service of a compose file as it is declared: brought into one form, and put over another.

Compose lets almost everything be written in two ways; here each has one, and paths are absolute.
"""

import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

_PORT = re.compile(
    r"(?:(?P<host>\[[^\]]*\]|\d+(?:\.\d+)+):)?(?:(?P<published>[\d-]*):)?(?P<target>[\d-]+)(?:/\w+)?"
)
_PORT_NUMBER = re.compile(r"[0-9]{1,5}")
_REMOTE = re.compile(r"\w+://|git@|github\.com/")
Ports = tuple[tuple[int | None, int], ...]


@dataclass(frozen=True, slots=True)
class Override:
    """What stands behind `!override`, or nothing for `!reset`: it replaces and is not merged."""

    value: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """What one or more files say of a service.

    Attributes:
        environment: None for a variable that is handed on from outside.
        build_folder: Where a relative path of its build starts; None if it is not built.
        mounts: The source of each path in the container.
        replaced: Fields that replace those of the declaration below.
    """

    image: str | None = None
    environment: Mapping[str, str | None] = field(default_factory=dict)
    env_files: tuple[Path, ...] = ()
    ports: Ports = ()
    mounts: Mapping[str, str] = field(default_factory=dict)
    container_name: str | None = None
    build_folder: Path | None = None
    build_context: str | None = None
    dockerfile: str | None = None
    working_dir: str | None = None
    command: str | None = None
    depends_on: tuple[str, ...] = ()
    file: Path | None = None
    replaced: frozenset[str] = frozenset()

    def under(self, upper: "Declaration") -> "Declaration":
        """Return this declaration with another one put over it."""
        stated = {
            name: getattr(upper, name)
            for name in _PLAIN
            if getattr(upper, name) is not None or name in upper.replaced
        }
        for name, merge in _MERGED.items():
            own, its = getattr(self, name), getattr(upper, name)
            stated[name] = its if name in upper.replaced else merge(own, its)
        return replace(self, **stated, file=self.file or upper.file)

    @property
    def context(self) -> Path | None:
        """The directory its image is built from; None for one that is not, or from elsewhere."""
        stated = self.build_context or "."
        if self.build_folder is None or _REMOTE.match(stated):
            return None
        return _path(stated, self.build_folder)

    @property
    def built_by(self) -> Path | None:
        """The Dockerfile."""
        return self.context and _path(self.dockerfile or "Dockerfile", self.context)


_PLAIN = (
    "image",
    "container_name",
    "build_folder",
    "build_context",
    "dockerfile",
    "working_dir",
    "command",
)
_MERGED: Mapping[str, Callable[[Any, Any], Any]] = {
    "environment": lambda below, above: {**below, **above},
    "env_files": lambda below, above: (*below, *above),
    "ports": lambda below, above: tuple(dict.fromkeys((*below, *above))),
    "mounts": lambda below, above: {**below, **above},
    "depends_on": lambda below, above: tuple(dict.fromkeys((*below, *above))),
}
_FIELDS_OF_KEY: Mapping[str, tuple[str, ...]] = {
    "env_file": ("env_files",),
    "volumes": ("mounts",),
    "build": ("build_folder", "build_context", "dockerfile"),
}


def declaration(service: Mapping[str, Any], directory: Path, file: Path | None) -> Declaration:
    """Bring a service into one form.

    Args:
        service: The service as the file has it, variables replaced.
        directory: Where its relative paths start.
        file: Where it is declared.
    """
    replaced = {key for key, value in service.items() if isinstance(value, Override)}
    plain = {k: v.value if isinstance(v, Override) else v for k, v in service.items()}
    build = plain.get("build")
    built = build if isinstance(build, Mapping) else {"context": build}
    return Declaration(
        image=_optional(plain.get("image")),
        environment=_environment(plain.get("environment")),
        env_files=tuple(_env_file(each, directory) for each in _listed(plain.get("env_file"))),
        ports=tuple(dict.fromkeys(p for each in _listed(plain.get("ports")) for p in _ports(each))),
        mounts=dict(
            _mount(each, directory) for each in _listed(plain.get("volumes")) if _lasts(each)
        ),
        container_name=_optional(plain.get("container_name")),
        build_folder=None if build is None else directory,
        build_context=_optional(built.get("context")),
        dockerfile=_optional(built.get("dockerfile")),
        working_dir=_optional(plain.get("working_dir")),
        command=_command(plain.get("command")),
        depends_on=_names(plain.get("depends_on")),
        file=file,
        replaced=frozenset(name for key in replaced for name in _FIELDS_OF_KEY.get(key, (key,))),
    )


def _optional(value: Any) -> str | None:
    return None if value is None else str(value)


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _listed(value: Any) -> Sequence[Any]:
    if value is None:
        return ()
    return value if isinstance(value, list) else (value,)


def _names(stated: Any) -> tuple[str, ...]:
    return tuple(map(str, stated if isinstance(stated, Mapping) else _listed(stated)))


def _environment(stated: Any) -> dict[str, str | None]:
    if isinstance(stated, Mapping):
        return {str(name): None if v is None else str(v) for name, v in stated.items()}
    pairs = (str(each).partition("=") for each in _listed(stated))
    return {name: value if equals else None for name, equals, value in pairs}


def _env_file(stated: Any, directory: Path) -> Path:
    path = _text(stated.get("path")) if isinstance(stated, Mapping) else str(stated)
    return _path(path, directory)


def _ports(stated: Any) -> Ports:
    if isinstance(stated, Mapping):
        published, target = _text(stated.get("published")), _text(stated.get("target"))
    elif found := _PORT.fullmatch(str(stated)):
        published, target = found["published"] or "", found["target"]
    else:
        return ()
    targets = _range(target)
    outside = _range(published)
    if len(targets) == len(outside):
        return tuple(zip(outside, targets, strict=True))
    # One of a range, or whatever is free: nobody knows which before it runs.
    return tuple((None, each) for each in targets)


def _range(text: str) -> list[int]:
    first, _, last = text.partition("-")
    if not all(_PORT_NUMBER.fullmatch(each) for each in (first, last or first)):
        return []
    return list(range(int(first), int(last or first) + 1))


def _lasts(stated: Any) -> bool:
    return not isinstance(stated, Mapping) or stated.get("type") in (None, "bind", "volume")


def _mount(stated: Any, directory: Path) -> tuple[str, str]:
    """Return the path in the container, and what lies there."""
    if isinstance(stated, Mapping):
        source, target = _text(stated.get("source")), _text(stated.get("target"))
        is_path = stated.get("type") == "bind"
    else:
        first, colon, rest = str(stated).partition(":")
        source, target = (first, rest.partition(":")[0]) if colon else ("", first)
        is_path = source.startswith((".", "/", "~"))
    return target.rstrip("/") or "/", str(_path(source, directory)) if is_path else source


def _command(stated: Any) -> str | None:
    if stated is None:
        return None
    if isinstance(stated, list):
        return " ".join(map(str, stated))
    try:
        return " ".join(shlex.split(str(stated)))
    except ValueError:
        return str(stated)


def _path(text: str, directory: Path) -> Path:
    return Path(os.path.normpath(directory / Path(text).expanduser()))
