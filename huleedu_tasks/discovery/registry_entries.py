"""Converts proposals to entries of a registry, without the fields that convention gives."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huleedu_tasks.config.registry import Service, complete, database_convention
from huleedu_tasks.discovery.name_likeness import common_prefix, stem, words
from huleedu_tasks.discovery.proposals import Proposal
from huleedu_tasks.discovery.questions import TAG, Known, Value
from huleedu_tasks.discovery.service_facts import telling_name
from huleedu_tasks.errors import ConfigurationError, Finding
from huleedu_tasks.migrations.directories import TECHNICAL, ServiceDirectory
from huleedu_tasks.repository import is_directory

# In the order in which they are written; the convention of a field uses earlier ones.
FIELDS = (
    "port",
    "directory",
    "alembic_engine",
    "database",
    "url_variable",
    "alembic_url_variable",
    "url_scheme",
    "alembic_config",
    "alembic_section",
    "flask_app",
    "environment",
    "python",
    "compose_service",
    "volume",
)
CONVENTION = "convention"
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_SERVERS_WORDS = frozenset({"db", "database", "postgres", "postgresql", "pg"})
_ANY_PORT = 1
# Fields that hold a path, which may be written in several ways.
_PATHS = ("directory", "alembic_config")
Document = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Basis:
    """What a registry uses to complete its entries.

    Attributes:
        directory: The directory of the registry.
        convention: The pattern of a database's name, with `{name}` for the service's name.
    """

    directory: Path
    convention: str

    @classmethod
    def of(cls, directory: Path, document: Mapping[str, Any]) -> "Basis":
        """Return the basis of a registry, from its directory and its document."""
        return cls(directory=directory, convention=database_convention(document))


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One service of the registry.

    Attributes:
        document: The fields to write.
        evidence: For each field that discovery found, where it was found.
        differing: One sentence for each field that differs from what discovery found.
    """

    proposal: Proposal
    document: Document
    evidence: Mapping[str, str]
    differing: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name of the service."""
        return str(self.document["name"])

    @property
    def port(self) -> object:
        """The stated port, or else that of its compose service."""
        server = self.proposal.server
        return self.document.get("port", server.port if server else None)

    @property
    def markers(self) -> dict[str, str]:
        """The fields that hold a question instead of a value, each with its question."""
        return {
            name: value
            for name, value in self.document.items()
            if isinstance(value, str) and value.startswith(TAG)
        }


def entries(
    proposals: Sequence[Proposal], existing: Sequence[Mapping[str, Any]], basis: Basis
) -> list[Entry]:
    """Build the entries of a registry.

    Args:
        existing: The entries of the existing registry; the values that they state are kept.
        basis: The directory and the naming convention of the registry.
    """
    old = _existing(proposals, existing, basis)
    taken = {str(entry["name"]) for entry in existing}
    made = []
    namer = _Namer(proposals)
    for proposal in proposals:
        if entry := old.get(proposal.key):
            made.append(_add_missing(proposal, entry, basis))
            continue
        name, evidence = _shortest(proposal, namer.names(proposal), taken, basis)
        taken.add(name)
        made.append(_entry(proposal, name, evidence, basis))
    order = [str(entry["name"]) for entry in existing]
    made.sort(key=lambda entry: order.index(entry.name) if entry.name in order else len(order))
    return [_with_server(entry, made) for entry in made]


class _Namer:
    """Proposes names for the services."""

    def __init__(self, proposals: Sequence[Proposal]) -> None:
        directories = Counter(telling_name(p.reading.directory) for p in proposals)
        self._doubles = {name for name, count in directories.items() if count > 1}
        databases = [p.facts["database"].value for p in proposals if "database" in p.facts]
        self._prefix = common_prefix(map(str, databases))

    def names(self, proposal: Proposal) -> Iterator[tuple[str, str]]:
        """Return possible names, each with its source, the preferred name first."""
        directory = proposal.reading.directory
        if directory.engine:
            yield directory.engine, f"a name in {directory.config.name}'s databases"
            yield (
                "_".join([*words(directory.home.name), directory.engine]),
                "its directory and that name",
            )
            return
        telling = telling_name(directory)
        if telling not in self._doubles:
            yield "_".join(stem(telling)), "the directory's name"
            yield telling, "the directory's name"
        if "database" in proposal.facts:
            parts = words(str(proposal.facts["database"].value))
            if parts[:1] == [self._prefix]:
                parts = parts[1:]
            yield "_".join(parts), "the database's name"
        if proposal.server:
            yield "_".join(stem(proposal.server.name)), "the compose service's name"
            parts = [word for word in words(proposal.server.name) if word not in _SERVERS_WORDS]
            yield "_".join(parts), "the compose service's name"
        # Several histories may run from one directory, such as the root, with configurations in
        # separate directories.
        if _is_own_directory(directory.config.parent, directory):
            yield "_".join(stem(directory.config.parent.name)), "the directory of its configuration"
        # The name of a directory above the repository says nothing about the service.
        above = directory.home.parent.name if directory.home != directory.root else ""
        names = [*words(above), *words(directory.home.name)]
        yield "_".join(names), "the directory's name and its parent's"


def _is_own_directory(path: Path, directory: ServiceDirectory) -> bool:
    """Whether a configuration is in a subdirectory whose name describes the service."""
    return (
        path != directory.path
        and path.is_relative_to(directory.home)
        and path.name not in TECHNICAL
    )


def _shortest(
    proposal: Proposal, names: Iterator[tuple[str, str]], taken: set[str], basis: Basis
) -> tuple[str, str]:
    """Return the name that requires the fewest stated fields, and its source.

    If every name is taken or invalid, it is the directory's name with a number.
    """
    free = [(n, why) for n, why in names if _NAME.fullmatch(n) and n not in taken]
    if not free:
        base = "_".join(words(proposal.reading.directory.home.name)) or "service"
        name = next(f"{base}_{n}" for n in range(2, 10_000) if f"{base}_{n}" not in taken)
        return (name if _NAME.fullmatch(name) else f"service_{name}"), "the directory's name"
    return min(free, key=lambda pair: len(_entry(proposal, pair[0], pair[1], basis).document))


def _entry(proposal: Proposal, name: str, evidence: str, basis: Basis) -> Entry:
    document: Document = {"name": name}
    places = {"name": evidence}
    markers = {question.field: question.marker for question in proposal.questions}
    for field in FIELDS:
        if field in markers:
            document[field], places[field] = markers[field], "not settled"
            continue
        fact = proposal.facts.get(field)
        if fact and (field == "port" or not _agrees(document, field, fact, basis)):
            document[field], places[field] = _stated(document, field, fact, basis), fact.evidence
    return Entry(proposal=proposal, document=document, evidence=places)


def _add_missing(proposal: Proposal, existing: Mapping[str, Any], basis: Basis) -> Entry:
    """Add the missing fields to an existing entry, and keep the fields that it states.

    Only a `directory` that no longer exists is replaced: the service was moved. If the migrations
    run from any directory, the entry's own choice is kept. A port that the compose file gives is
    not added.
    """
    document = {key: value for key, value in existing.items() if not _is_tag(value)}
    places: dict[str, str] = {}
    differing: list[str] = []
    markers = {question.field: question.marker for question in proposal.questions}
    chosen = set[str]()
    if _runs_as_stated(proposal, document, basis):
        chosen |= {"directory", "alembic_config"}
    if "port" not in existing and _has_published_port(proposal, document, basis):
        chosen.add("port")
    for field in FIELDS:
        fact = None if field in chosen else proposal.facts.get(field)
        is_gone = field == "directory" and _is_gone(_service(document, basis))
        if field in markers and field not in document and field in ("port", *_SETTLING):
            document[field], places[field] = markers[field], "not settled"
        elif fact is None or (field == "python" and field not in document):
            # An existing entry without 'python' uses the interpreter of the tasks on purpose.
            continue
        elif field in document and not is_gone:
            if _agrees(document, field, fact, basis):
                places[field] = fact.evidence
            else:
                found = _stated(document, field, fact, basis)
                differing.append(
                    f"{document['name']}: {field!r} is {document[field]!r} in the registry and was "
                    f"kept; discovery found {found!r} ({fact.evidence})."
                )
        elif field == "port" or not _agrees(document, field, fact, basis):
            document[field], places[field] = _stated(document, field, fact, basis), fact.evidence
    return Entry(proposal=proposal, document=document, evidence=places, differing=tuple(differing))


# Fields that an existing entry must state if convention does not give them.
_SETTLING = ("database",)


def _with_server(entry: Entry, entries: Sequence[Entry]) -> Entry:
    """State the compose service of entries with the same port, which is then no error."""
    server = entry.proposal.server
    sharing = [other for other in entries if other is not entry and other.port == entry.port]
    if not server or not sharing or "compose_service" in entry.document:
        return entry
    fact = entry.proposal.facts["compose_service"]
    return Entry(
        proposal=entry.proposal,
        document={**entry.document, "compose_service": server.name},
        differing=entry.differing,
        evidence={**entry.evidence, "compose_service": fact.evidence},
    )


def require_readable(
    document: Mapping[str, Any], path: Path, twice: Sequence[Finding] = ()
) -> None:
    """Verify that the entries of an existing registry can be compared with what was found.

    Args:
        path: The path of the registry, for the message.
        twice: The duplicate keys, of which the parser keeps only one.

    Raises:
        ConfigurationError: If an entry is invalid; the message names all of these.
    """
    stated = document.get("services") or []
    services = stated if isinstance(stated, list) else []
    wrong = [] if services is stated else ["services"]
    wrong += [f"{finding.place or 'the registry'} ({finding.problem})" for finding in twice]
    names: set[str] = set()
    for index, entry in enumerate(services):
        if not _is_readable(entry, Basis.of(path.parent, document)):
            wrong.append(f"services[{index}]")
        elif entry["name"] in names:
            wrong.append(f"services[{index}] (duplicate name {entry['name']!r})")
        else:
            names.add(entry["name"])
    files = document.get("compose_files", [])
    if not isinstance(files, list) or not all(isinstance(file, str) for file in files):
        wrong.append("compose_files")
    if wrong:
        raise ConfigurationError(
            f"{path} has invalid entries: {', '.join(wrong)}.",
            code="registry-invalid",
            hint="Correct the errors that `invoke services.list` shows, or move the file away; "
            "`invoke services.discover` writes a new one.",
        )


def _is_readable(entry: object, basis: Basis) -> bool:
    try:
        return isinstance(entry, dict) and bool(_service(entry, basis).name.strip())
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
        return False


def _existing(
    proposals: Sequence[Proposal], existing: Sequence[Mapping[str, Any]], basis: Basis
) -> dict[Path, Mapping[str, Any]]:
    """Return the existing entry of each service, by the key of its directory.

    An entry matches by its Alembic configuration, then by its directory, then, if its directory no
    longer exists, by its name or database. An entry matches one service only.
    """
    found: dict[Path, Mapping[str, Any]] = {}
    free = [(entry, _service(entry, basis)) for entry in existing]
    for is_same in (_has_same_configuration, _has_same_directory, _was_moved):
        for proposal in proposals:
            if proposal.key in found:
                continue
            for position, (entry, service) in enumerate(free):
                if is_same(service, proposal):
                    found[proposal.key] = entry
                    del free[position]
                    break
    return found


def _has_same_configuration(service: Service, proposal: Proposal) -> bool:
    directory = proposal.reading.directory
    same_section = service.alembic_section == directory.section
    same_section = same_section and service.alembic_engine == directory.engine
    return same_section and _is_same(service.alembic_config, directory.config)


def _has_same_directory(service: Service, proposal: Proposal) -> bool:
    return _is_same(service.directory, proposal.reading.directory.path)


def _was_moved(service: Service, proposal: Proposal) -> bool:
    name = proposal.reading.directory.path.name
    is_alike = service.name in ("_".join(stem(name)), name) or _has_same_database(service, proposal)
    return _is_gone(service) and is_alike


def _has_same_database(service: Service, proposal: Proposal) -> bool:
    database = proposal.facts.get("database")
    same_server = proposal.server is not None and proposal.server.name == service.compose_service
    # Without a known database, any service of a shared server would match.
    return same_server and database is not None and database.value == service.database


def _is_gone(service: Service) -> bool:
    return not is_directory(service.directory)


def _runs_as_stated(proposal: Proposal, document: Mapping[str, Any], basis: Basis) -> bool:
    service = _service(document, basis)
    return (
        proposal.reading.directory.runs_anywhere
        and not _is_gone(service)
        and _has_same_configuration(service, proposal)
    )


def _has_published_port(proposal: Proposal, document: Mapping[str, Any], basis: Basis) -> bool:
    """Whether the compose service that an entry states or has by convention publishes a port."""
    server = proposal.server
    return (
        server is not None
        and bool(server.port)
        and _service(document, basis).compose_service == server.name
    )


def _agrees(document: Mapping[str, Any], field: str, fact: Known, basis: Basis) -> bool:
    """Whether an entry gives a field this value, as stated or by convention."""
    service = _service(document, basis)
    if field in _PATHS:
        return _is_same(getattr(service, field), Path(str(fact.value)))
    if field == "python":
        command = (fact.value,) if isinstance(fact.value, str) else fact.value
        return isinstance(command, Sequence) and service.python == tuple(command)
    if isinstance(fact.value, dict):
        return fact.value.items() <= service.environment.items()
    return bool(getattr(service, field) == fact.value)


def _stated(document: Mapping[str, Any], field: str, fact: Known, basis: Basis) -> Value:
    if field not in _PATHS:
        return fact.value
    start = basis.directory if field == "directory" else _service(document, basis).directory
    return Path(os.path.relpath(str(fact.value), start)).as_posix()


def service_of(entry: Entry, basis: Basis) -> Service:
    """Return the service of an entry; fields with an open question get their convention."""
    return _service(entry.document, basis)


def _service(document: Mapping[str, Any], basis: Basis) -> Service:
    """Complete an entry by convention, without the fields that hold a question."""
    plain = {key: value for key, value in document.items() if not _is_tag(value)}
    return complete(basis.directory, {"port": _ANY_PORT, **plain}, basis.convention)


def _is_tag(value: object) -> bool:
    return isinstance(value, str) and value.startswith(TAG)


def _is_same(one: Path, other: Path) -> bool:
    """Whether two paths resolve to the same path; neither needs to exist."""
    return os.path.realpath(one) == os.path.realpath(other)
