"""The declaration of a service in a compose file: normalised, and merged with another.

Compose has a short and a long syntax for most keys; here each has one form, with absolute paths.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """The declaration of a service, from one or more files.

    Attributes:
        environment: Its variables; None for one that is taken from Compose's own environment.
        ports: Pairs of the port on the host (None if Compose chooses it) and in the container.
        build_folder: The directory that the paths of its build are relative to; None if it is not
            built.
        mounts: The source of each mount, by its path in the container.
        file: The compose file; None if it is not known.
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

    def under(self, upper: "Declaration") -> "Declaration":
        """Return this declaration merged with one that takes precedence."""
        stated = {name: getattr(upper, name) for name in _PLAIN}
        replacing = {name: value for name, value in stated.items() if value is not None}
        merged = {
            name: merge(getattr(self, name), getattr(upper, name))
            for name, merge in _MERGED.items()
        }
        return replace(self, **replacing, **merged)

    @property
    def context(self) -> Path | None:
        """The directory that its image is built from; None if it is not built, or from a URL."""
        stated = self.build_context or "."
        if self.build_folder is None or _REMOTE.match(stated):
            return None
        return _path(stated, self.build_folder)

    @property
    def built_by(self) -> Path | None:
        """The path of the Dockerfile; None if there is no `context`."""
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


def declaration(service: Mapping[str, Any], directory: Path, file: Path | None) -> Declaration:
    """Return the normalised declaration of a service.

    Args:
        service: The mapping in the compose file, after interpolation.
        directory: The directory that its paths are relative to.
        file: The compose file; None if it is not known.
    """
    build = service.get("build")
    built = build if isinstance(build, Mapping) else {"context": build}
    return Declaration(
        image=_optional(service.get("image")),
        environment=_environment(service.get("environment")),
        env_files=tuple(_env_file(item, directory) for item in _listed(service.get("env_file"))),
        ports=tuple(
            dict.fromkeys(p for item in _listed(service.get("ports")) for p in _ports(item))
        ),
        mounts=dict(
            _mount(item, directory)
            for item in _listed(service.get("volumes"))
            if _is_persistent(item)
        ),
        container_name=_optional(service.get("container_name")),
        build_folder=None if build is None else directory,
        build_context=_optional(built.get("context")),
        dockerfile=_optional(built.get("dockerfile")),
        working_dir=_optional(service.get("working_dir")),
        command=_command(service.get("command")),
        depends_on=_names(service.get("depends_on")),
        file=file,
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
    pairs = (str(item).partition("=") for item in _listed(stated))
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
    # Compose chooses the host port, of a range or any free one, when it starts the container.
    return tuple((None, port) for port in targets)


def _range(ports: str) -> list[int]:
    first, _, last = ports.partition("-")
    if not all(_PORT_NUMBER.fullmatch(port) for port in (first, last or first)):
        return []
    return list(range(int(first), int(last or first) + 1))


def _is_persistent(stated: Any) -> bool:
    return not isinstance(stated, Mapping) or stated.get("type") in (None, "bind", "volume")


def _mount(stated: Any, directory: Path) -> tuple[str, str]:
    """Return the path in the container, and the source of the mount."""
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


def _path(stated: str, directory: Path) -> Path:
    return Path(os.path.normpath(directory / Path(stated).expanduser()))
