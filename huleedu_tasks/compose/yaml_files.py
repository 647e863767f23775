"""Reads compose files without Compose: merges them and interpolates variables.

`include`, `extends` and the tags `!reset` and `!override` are not read: only Compose knows their
rules. Each use of them is reported.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huleedu_tasks.compose.declarations import Declaration, declaration
from huleedu_tasks.config.dotenv import ENV_FILE, assignments
from huleedu_tasks.config.interpolation import Interpolation
from huleedu_tasks.errors import ConfigurationError
from huleedu_tasks.repository import text_of

if TYPE_CHECKING:
    import yaml

# A document that expands to more values by its aliases is an accident or an attack.
MOST_VALUES = 100_000
_TAGS = ("!reset", "!override")
INCLUDE = "include"
SERVICES = "services"
Declarations = dict[str, Declaration]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unread:
    """A part of a compose file that only Compose resolves.

    Attributes:
        service: The compose service; an empty string for `include`, which may declare any, and for
            a tag of `services`, which concerns all.
        key: The key in the service, the tag of the service, or `include`, or `services`; a tag
            follows its key after a colon.
    """

    file: Path
    service: str = ""
    key: str

    def __str__(self) -> str:
        service = f"service {self.service!r}, " if self.service else ""
        return f"{self.file.name}: {service}`{self.key}`"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadFiles:
    """The content of compose files.

    Attributes:
        services: The declarations, by the name of the service.
        missing: The names of required variables that are not set.
        unread: The parts that were not read.
    """

    services: Declarations
    missing: frozenset[str]
    unread: tuple[Unread, ...]


def read_files(files: Sequence[Path], variables: Mapping[str, str]) -> ReadFiles:
    """Read compose files; each takes precedence over the one before it.

    Args:
        files: At least one; paths in them are relative to the first one's directory.
        variables: The variables to interpolate; they take precedence over `.env`.

    Raises:
        ConfigurationError: If one cannot be read.
    """
    directory = files[0].parent
    variables = {**env_file(directory / ENV_FILE, variables), **variables}
    interpolation = Interpolation(variables=variables)
    services: Declarations = {}
    unread: list[Unread] = []
    for file in files:
        document = _document(file, interpolation, unread)
        for name, stated in _services(document).items():
            own = declaration(stated, directory, file)
            services[name] = services[name].under(own) if name in services else own
    return ReadFiles(
        services={name: _with_variables(own, variables) for name, own in services.items()},
        missing=frozenset(interpolation.required),
        unread=tuple(unread),
    )


def env_file(path: Path, outer: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of an `.env` file, interpolated.

    Args:
        path: The file; one that does not exist has no variables.
        outer: Variables that it may refer to, which take precedence over its own.
    """
    values: dict[str, str] = {}
    for assignment in assignments(text_of(path)):
        interpolate = Interpolation(variables={**values, **outer})
        value = assignment.value
        values[assignment.name] = value if assignment.is_literal else interpolate(value)
    return values


def _document(file: Path, interpolation: Interpolation, unread: list[Unread]) -> dict[str, Any]:
    """Return the content of a file, interpolated; parts that are not read are appended."""
    document: dict[str, Any] = {}
    try:
        for part in _load(file, unread):
            document |= _mapping(_interpolated(part, interpolation))
    except RecursionError:
        raise _unusable(file, "is nested too deeply") from None
    if document.get(INCLUDE):
        unread.append(Unread(file=file, key=INCLUDE))
    extending = [name for name, stated in _services(document).items() if stated.get("extends")]
    unread += [Unread(file=file, service=name, key="extends") for name in extending]
    return document


def _with_variables(service: Declaration, variables: Mapping[str, str]) -> Declaration:
    """Return a declaration with the variables of its `env_file` and of the environment."""
    from_files: dict[str, str | None] = {}
    for path in service.env_files:
        from_files |= env_file(path, variables)
    stated = {
        name: variables.get(name) if value is None else value
        for name, value in service.environment.items()
    }
    return replace(service, environment=from_files | stated, env_files=())


def _load(file: Path, unread: list[Unread]) -> list[Any]:
    """Return the documents of a YAML file; tagged values in them are None.

    Raises:
        ConfigurationError: If it cannot be read or parsed, with the place of the error.
    """
    import yaml

    try:
        return list(
            yaml.load_all(file.read_text(encoding="utf-8-sig"), Loader=_loader(file, unread))
        )
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigurationError(
            f"The compose file {file} could not be read: {reason}.",
            code="compose-file-unreadable",
            hint="Correct its name in 'compose_files' or COMPOSE_FILE, or its permissions.",
        ) from error
    except yaml.YAMLError as error:
        place = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or "it cannot be parsed"
        where = f" line {place.line + 1}:" if place else ""
        raise _unusable(file, f"is not valid YAML:{where} {problem}") from error
    except (ValueError, AttributeError):
        # A tag such as !!int before a value of another type.
        raise _unusable(file, "has a value that does not match its tag") from None


def _loader(file: Path, unread: list[Unread]) -> "type[yaml.SafeLoader]":
    """Return the class that loads a file with strings as Compose reads them."""
    import yaml

    class Loader(yaml.SafeLoader):
        """Reads scalars as strings, as Compose does: neither 22:22 nor `on` is converted."""

        def construct_document(self, node: yaml.Node) -> Any:
            if _values(node, {}) > MOST_VALUES:
                raise _unusable(file, f"expands to more than {MOST_VALUES:,} values by its aliases")
            for keys in _tagged(node):
                if keys[0] == SERVICES and len(keys) == 2:
                    unread.append(Unread(file=file, key=": ".join(keys)))
                elif keys[0] == SERVICES:
                    key = ": ".join(keys[2:])
                    unread.append(Unread(file=file, service=keys[1], key=key))
            return super().construct_document(node)

        yaml_implicit_resolvers = {  # noqa: RUF012  # as its base class has it
            first: [
                (tag, pattern) for tag, pattern in resolvers if tag.endswith((":null", ":merge"))
            ]
            for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

    for tag in _TAGS:
        Loader.add_constructor(tag, lambda *_: None)
    return Loader


def _tagged(node: Any, *keys: str) -> Iterator[tuple[str, ...]]:
    """Yield the keys above each value with a tag of Compose, and the tag."""
    if node.tag in _TAGS:
        yield (*keys, node.tag)
    for item in node.value if isinstance(node.value, list) else ():
        key, value = item if isinstance(item, tuple) else (None, item)
        yield from _tagged(value, *keys, *([str(key.value)] if key else []))


def _values(node: Any, known: dict[int, float]) -> float:
    """Return the number of values in a document with expanded aliases; `inf` for a cycle."""
    if id(node) not in known:
        # Stays for a node that contains itself: the recursion finds this value.
        known[id(node)] = math.inf
        items = node.value if isinstance(node.value, list) else ()
        parts = [part for item in items for part in (item if isinstance(item, tuple) else [item])]
        known[id(node)] = 1 + sum(_values(part, known) for part in parts)
    return known[id(node)]


def _unusable(file: Path, problem: str) -> ConfigurationError:
    return ConfigurationError(
        f"The compose file {file} {problem}.",
        code="compose-file-invalid",
        hint="Correct the file; `docker compose config` checks it.",
    )


def _interpolated(value: Any, interpolation: Interpolation) -> Any:
    """Interpolate all strings of a document, except its keys."""
    if isinstance(value, str):
        return interpolation(value)
    if isinstance(value, list):
        return [_interpolated(item, interpolation) for item in value]
    if isinstance(value, dict):
        return {key: _interpolated(item, interpolation) for key, item in value.items()}
    return value


def _services(document: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    services = _mapping(document.get(SERVICES))
    return {str(name): _mapping(service) for name, service in services.items()}


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
