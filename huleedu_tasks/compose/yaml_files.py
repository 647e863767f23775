"""Reads compose files without Compose: merges, extends, includes and interpolates them.

Used if Docker's command line is not installed, and to find the file that declares a service, which
Compose does not print.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huleedu_tasks.compose.declarations import Declaration, Override, declaration
from huleedu_tasks.config.dotenv import ENV_FILE, assignments
from huleedu_tasks.config.interpolation import Interpolation
from huleedu_tasks.errors import ConfigurationError
from huleedu_tasks.repository import text_of

if TYPE_CHECKING:
    import yaml

# A document that expands to more values by its aliases is an accident or an attack.
MOST_VALUES = 100_000
Declarations = dict[str, Declaration]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadFiles:
    """The content of compose files.

    Attributes:
        services: The declarations, by the name of the service.
        missing: The names of required variables that are not set.
        composed: Whether a file includes another, or a service extends another.
    """

    services: Declarations
    missing: frozenset[str] = frozenset()
    composed: bool = False


def read_files(files: Sequence[Path], variables: Mapping[str, str]) -> ReadFiles:
    """Read compose files; each takes precedence over the one before it.

    Args:
        files: At least one; paths in them are relative to the first one's directory.
        variables: The variables to interpolate; they take precedence over `.env`.

    Raises:
        ConfigurationError: If one cannot be read.
    """
    directory = files[0].parent
    reader = _Reader()
    services = reader.project(
        files, directory, {**env_file(directory / ENV_FILE, variables), **variables}
    )
    return ReadFiles(services=services, missing=frozenset(reader.missing), composed=reader.composed)


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


@dataclass(slots=True)
class _Reader:
    """Reads the files of one project, and collects the required variables that are not set."""

    missing: set[str] = field(default_factory=set)
    composed: bool = False

    def project(
        self,
        files: Sequence[Path],
        directory: Path,
        variables: Mapping[str, str],
        above: frozenset[Path] = frozenset(),
    ) -> Declarations:
        services: Declarations = {}
        for file in files:
            document = self._document(file, variables)
            inside = above | {file.resolve()}
            for included, where, inner in self._includes(document, file.parent, variables):
                _require_no_cycle(included, inside, file)
                services |= self.project(included, where, inner, inside)
            for name in _services(document):
                own = self._extend(document, name, directory, file, variables)
                services[name] = services[name].under(own) if name in services else own
        return {
            name: self._fill_in_variables(stated, variables) for name, stated in services.items()
        }

    def _document(self, file: Path, variables: Mapping[str, str]) -> dict[str, Any]:
        interpolation = Interpolation(variables=variables)
        document: dict[str, Any] = {}
        try:
            for part in _load(file):
                document |= _mapping(_interpolated(part, interpolation))
        except RecursionError:
            raise _unusable(file, "is nested too deeply") from None
        self.missing |= interpolation.required.keys()
        return document

    def _includes(
        self, document: Mapping[str, Any], directory: Path, variables: Mapping[str, str]
    ) -> Iterator[tuple[list[Path], Path, Mapping[str, str]]]:
        includes = document.get("include") or []
        for include in includes if isinstance(includes, list) else [includes]:
            stated = include if isinstance(include, Mapping) else {"path": include}
            files = [directory / path for path in _strings(stated.get("path"))]
            if not files:
                continue
            self.composed = True
            where = directory / str(stated.get("project_directory") or files[0].parent)
            env_files = [directory / p for p in _strings(stated.get("env_file"))] or [
                where / ENV_FILE
            ]
            inner: dict[str, str] = {}
            for path in env_files:
                inner |= env_file(path, {**inner, **variables})
            yield files, where, {**inner, **variables}

    def _extend(
        self,
        document: Mapping[str, Any],
        name: str,
        directory: Path,
        file: Path,
        variables: Mapping[str, str],
        below: frozenset[tuple[Path, str]] = frozenset(),
    ) -> Declaration:
        stated = _services(document)[name]
        below = below | {(file.resolve(), name)}
        own = declaration(stated, directory, file)
        extends = stated.get("extends")
        if not extends:
            return own
        self.composed = True
        base = extends if isinstance(extends, Mapping) else {"service": extends}
        if base.get("file"):
            file = directory / str(base["file"])
            directory = file.parent
            document = self._document(file, variables)
        other = str(base.get("service"))
        if other not in _services(document):
            return own
        if (file.resolve(), other) in below:
            raise _unusable(file, f"has the service {other!r} extend itself")
        extended = self._extend(document, other, directory, file, variables, below)
        return replace(extended.under(own), file=own.file)

    def _fill_in_variables(self, service: Declaration, variables: Mapping[str, str]) -> Declaration:
        """Return a declaration with the variables of its `env_file` and of the environment."""
        from_files: dict[str, str | None] = {}
        for path in service.env_files:
            from_files |= env_file(path, variables)
        stated = {
            name: variables.get(name) if value is None else value
            for name, value in service.environment.items()
        }
        return replace(service, environment=from_files | stated, env_files=())


def _load(file: Path) -> list[Any]:
    """Return the documents of a YAML file.

    Raises:
        ConfigurationError: If it cannot be read or parsed, with the place of the error.
    """
    import yaml

    try:
        return list(yaml.load_all(file.read_text(encoding="utf-8-sig"), Loader=_loader(file)))
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


def _loader(file: Path) -> "type[yaml.SafeLoader]":
    """Return the class that loads a file: strings as Compose reads them, and Compose's tags."""
    import yaml

    class Loader(yaml.SafeLoader):
        """Reads scalars as strings, as Compose does: neither 22:22 nor `on` is converted."""

        def construct_document(self, node: yaml.Node) -> Any:
            if _values(node, {}) > MOST_VALUES:
                raise _unusable(file, f"expands to more than {MOST_VALUES:,} values by its aliases")
            return super().construct_document(node)

        yaml_implicit_resolvers = {  # noqa: RUF012  # as its base class has it
            first: [
                (tag, pattern) for tag, pattern in resolvers if tag.endswith((":null", ":merge"))
            ]
            for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

    def override(loader: yaml.SafeLoader, node: yaml.Node) -> Override:
        if node.tag == "!reset":
            return Override(None)
        if isinstance(node, yaml.MappingNode):
            return Override(loader.construct_mapping(node, deep=True))
        if isinstance(node, yaml.SequenceNode):
            return Override(loader.construct_sequence(node, deep=True))
        return Override(
            loader.construct_scalar(node) if isinstance(node, yaml.ScalarNode) else None
        )

    for tag in ("!reset", "!override"):
        Loader.add_constructor(tag, override)
    return Loader


def _values(node: Any, known: dict[int, float]) -> float:
    """Return the number of values in a document with expanded aliases; `inf` for a cycle."""
    if id(node) not in known:
        # Stays for a node that contains itself: the recursion finds this value.
        known[id(node)] = math.inf
        items = node.value if isinstance(node.value, list) else ()
        parts = [part for item in items for part in (item if isinstance(item, tuple) else [item])]
        known[id(node)] = 1 + sum(_values(part, known) for part in parts)
    return known[id(node)]


def _require_no_cycle(included: Sequence[Path], inside: frozenset[Path], file: Path) -> None:
    for path in included:
        if path.resolve() in inside:
            raise _unusable(file, f"includes {path.name}, which includes it")


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
    if isinstance(value, Override):
        return Override(_interpolated(value.value, interpolation))
    if isinstance(value, list):
        return [_interpolated(item, interpolation) for item in value]
    if isinstance(value, dict):
        return {key: _interpolated(item, interpolation) for key, item in value.items()}
    return value


def _services(document: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    services = _mapping(document.get("services"))
    return {str(name): _mapping(service) for name, service in services.items()}


def _mapping(value: Any) -> dict[str, Any]:
    plain = value.value if isinstance(value, Override) else value
    return plain if isinstance(plain, dict) else {}


def _strings(value: Any) -> list[str]:
    if value is None:
        return []
    return [str(item) for item in value] if isinstance(value, list) else [str(value)]
