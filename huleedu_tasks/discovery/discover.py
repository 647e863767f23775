"""Builds a registry from the Alembic directories, their sources and the compose files.

A child process without network runs each service's `env.py` to observe which variables it uses. A
field that cannot be determined becomes a question to the user, or a `FIXME:` value that every other
command rejects.
"""

import asyncio
import copy
import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from huleedu_tasks.compose.configuration import Composition, read_configuration
from huleedu_tasks.compose.database_service import Container
from huleedu_tasks.compose.docker_compose import Compose
from huleedu_tasks.compose.file_choice import compose_files, read_composition
from huleedu_tasks.config.registry import (
    SHARE,
    Registry,
    add_ports,
    findings_in,
    parse_registry,
    read_text,
    registry_of,
)
from huleedu_tasks.config.settings import Settings
from huleedu_tasks.discovery.applications import container_facts
from huleedu_tasks.discovery.own_names import named_after
from huleedu_tasks.discovery.proposals import Decisions, Survey
from huleedu_tasks.discovery.questions import TAG, Question
from huleedu_tasks.discovery.registry_entries import (
    CONVENTION,
    Basis,
    Document,
    Entry,
    entries,
    require_readable,
    service_of,
)
from huleedu_tasks.discovery.registry_text import registry_text
from huleedu_tasks.discovery.service_facts import Reading
from huleedu_tasks.discovery.shared_histories import report_unordered, state_sharing
from huleedu_tasks.discovery.sources import read_directory, read_sources
from huleedu_tasks.errors import ConfigurationError, ExitCode, Finding
from huleedu_tasks.migrations.directories import ServiceDirectory, find_directories
from huleedu_tasks.probe.observed_variables import Observed, loaded_by, observe
from huleedu_tasks.report import Discovery, Fact
from huleedu_tasks.repository import is_in_repository, repository_files, shown

COMMAND = "services.discover"
NOT_OVERWRITTEN = "{path} differs and was not changed; pass `--overwrite` to replace it."
NOT_DETECTED = (
    "Not detected, state it yourself: the order of seeds (seed_after), seeds outside "
    "database/seed-scripts, extensions, and additional variables of a service (environment)."
)
SEPARATE = (
    "give each a separate version table (version_table or version_table_schema in env.py) and "
    'state "shared_database": true for each, or give each a separate database'
)
SETTLE = "Answer the questions above in that file first."
NEXT = (
    "Next: `invoke services.list` shows the complete registry, `invoke services.check` verifies it."
)
_OF_SERVICE = re.compile(r"services\[(?P<index>\d+)\]\.?(?P<field>.*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Everything that was read, before the user decides anything.

    Attributes:
        path: The path of the registry, whether the file exists or not.
        compose_files: The compose files that the registry must state; empty if Compose finds them.
        existing: The document of the existing registry; `None` if the file does not exist.
        text: The content of the existing registry; empty string if the file does not exist.
        remarks: Sentences about what was read, for the user.
    """

    path: Path
    survey: Survey
    composition: Composition
    compose_files: tuple[str, ...]
    existing: Document | None
    text: str
    remarks: tuple[str, ...]

    def questions(self, decisions: Decisions) -> list[tuple[Entry, Question]]:
        """Return the open questions with their entries, in the order of the registry."""
        return [
            (entry, question)
            for entry in self.entries(decisions)
            for question in entry.proposal.questions
            if question.field in entry.markers
        ]

    def entries(self, decisions: Decisions) -> list[Entry]:
        """Return the registry's entries for the services that were found."""
        made = entries(self.survey.propose(decisions), self._services, self.basis)
        return state_sharing(made, self.basis)

    def _with_published_ports(self, document: Document) -> Document:
        """Return the registry with the ports that its entries leave to the compose files."""
        complete = copy.deepcopy(document)
        servers = self.survey.servers.items()
        published = {name: server.port for name, server in servers if server.port}
        add_ports(complete, lambda *_: published)
        return complete

    def result(self, decisions: Decisions) -> Discovery:
        """Return the registry and its difference from the existing one; write nothing."""
        made = self.entries(decisions)
        document = self._document(made)
        text = registry_text(document, self.text)
        complete = self._with_published_ports(document)
        unsettled = (*_unsettled(made), *_contradictions(complete, self.path.parent))
        same = document == self.existing
        shown_text = "" if same else self._difference(text) if self.text else text
        return Discovery(
            command=COMMAND,
            path=str(self.path),
            written=False,
            document=document,
            fields=tuple(row for entry in made for row in _rows(entry, self._stated(entry))),
            unsettled=unsettled,
            remarks=(*self.remarks, *self._remarks(made)),
            shown=shown_text,
            closing=(self._unchanged(unsettled),) if same else (),
            exit_code=ExitCode.FAILED if unsettled else ExitCode.DONE,
        )

    @property
    def basis(self) -> Basis:
        """The directory and the naming convention that complete the entries."""
        return Basis.of(self.path.parent, self._heading)

    @property
    def _heading(self) -> Document:
        """The fields of the registry other than `services`."""
        if self.existing is not None:
            return {name: value for name, value in self.existing.items() if name != "services"}
        return named_after(self.survey, self.path.parent)

    @property
    def _services(self) -> list[Document]:
        return list((self.existing or {}).get("services") or [])

    def _stated(self, entry: Entry) -> Document:
        return next((service for service in self._services if service["name"] == entry.name), {})

    def _document(self, made: Sequence[Entry]) -> Document:
        document = self._heading
        if self.compose_files and "compose_files" not in document:
            document["compose_files"] = list(self.compose_files)
        by_name = {entry.name: entry.document for entry in made}
        # An entry without a directory is kept: discovery may have missed the directory.
        kept = [by_name.get(str(service["name"]), service) for service in self._services]
        names = {str(service["name"]) for service in self._services}
        services = [*kept, *(entry.document for entry in made if entry.name not in names)]
        return {**document, "services": services}

    def _difference(self, text: str) -> str:
        name = self.path.name
        lines = difflib.unified_diff(
            self.text.splitlines(), text.splitlines(), name, f"{name}, discovered", lineterm=""
        )
        return "\n".join(lines)

    def _unchanged(self, unsettled: Sequence[object]) -> str:
        if unsettled:
            return f"{COMMAND}: {self.path} was not changed. {SETTLE}"
        return f"{COMMAND}: {self.path} is up to date."

    def _remarks(self, made: Sequence[Entry]) -> Iterator[str]:
        for entry in made:
            yield from entry.differing
            seen = self.survey.observed.get(entry.proposal.key)
            if seen and seen.failure:
                yield (
                    f"{entry.name}: env.py did not show which variables it uses "
                    f"({seen.failure}); they were read from its source files."
                )
        yield from report_unordered(made, self.basis)
        found = {entry.name for entry in made}
        for name in (str(service["name"]) for service in self._services):
            if name not in found:
                yield f"{name}: no directory with migrations was found; the entry was kept."
        used = {entry.document.get("compose_service") for entry in made}
        used |= {p.proposal.server.name for p in made if p.proposal.server}
        asked = {c.value for e in made for q in e.proposal.questions for c in q.choices}
        for name, server in self.survey.servers.items():
            if name not in used | asked:
                database = f" ({server.database})" if server.database else ""
                yield f"The PostgreSQL server {name}{database} was not assigned to a service."


def require_repository(directory: Path) -> None:
    """Verify that a directory is inside a repository.

    Raises:
        ConfigurationError: If it is not.
    """
    if not is_in_repository(directory):
        raise ConfigurationError(
            f"{directory} is not in a repository: neither it nor a parent directory has .git, and "
            "it has no file that marks a root, such as pyproject.toml or compose.yaml.",
            code="not-a-repository",
            hint="Change to the root of the repository. If it has no .git, run `git init`.",
        )


async def look(root: Path, path: Path, settings: Settings) -> Found:
    """Read all files, and run each service's `env.py` to observe which variables it uses.

    Args:
        root: The directory of the whole monorepo.
        path: The path of the registry, whether the file exists or not.
        settings: The environment of the compose files and of the services.

    Raises:
        ConfigurationError: As `read`.
    """
    found = await read(root, path, settings.compose_environment())
    return replace(
        found, survey=replace(found.survey, observed=await _observe_services(found, settings))
    )


async def _observe_services(found: Found, settings: Settings) -> dict[Path, Observed]:
    slots = asyncio.Semaphore(settings.jobs)

    async def one(entry: Entry) -> Observed:
        service = service_of(entry, found.basis)
        loaded = loaded_by(service, settings)
        async with slots:
            return await observe(
                service, entry.proposal.reading.sources.reads, settings.process, loaded
            )

    made = found.entries(Decisions())
    seen = await asyncio.gather(*(one(entry) for entry in made))
    return {entry.proposal.key: observed for entry, observed in zip(made, seen, strict=True)}


async def read(root: Path, path: Path, environment: Mapping[str, str]) -> Found:
    """Read all files; run no code of the monorepo.

    Args:
        root: The directory of the whole monorepo.
        path: The path of the registry, whether the file exists or not.
        environment: The variables for interpolation in the compose files.

    Raises:
        ConfigurationError: If no service is found, or the registry or a compose file in it cannot
            be read.
    """
    repository_files.cache_clear()
    remarks: list[str] = []
    text = _text_of(path)
    existing = _parse(path, text) if text else None
    not_taken: list[Finding] = []
    directories = find_directories(root, not_taken)
    if not directories:
        raise _no_service(root, not_taken)
    remarks += [f"{finding.place} {finding.problem}." for finding in not_taken]
    stated = [path.parent / file for file in (existing or {}).get("compose_files", ())]
    composition = await read_composition(root, stated, environment)
    servers = composition.databases
    applications = [
        *_applications(composition),
        *await _other_applications(root, composition, environment, remarks),
    ]
    facts = container_facts(applications, servers, directories, root)
    readings = tuple(
        Reading(
            directory=directory,
            sources=read_sources(directory, root, directories),
            containers=facts[directory.key],
        )
        for directory in directories
    )
    return Found(
        path=path,
        survey=Survey(
            root=root,
            readings=readings,
            servers=servers,
            stated_ports=_stated_ports(existing or {}),
        ),
        composition=composition,
        compose_files=_files_to_state(path.parent, composition, environment),
        existing=existing,
        text=text,
        remarks=(
            *dict.fromkeys((*composition.remarks, *remarks)),
            *dict.fromkeys(text for reading in readings for text in reading.sources.problems),
            *_lookalikes(directories, root),
        ),
    )


async def discovered(root: Path, path: Path, settings: Settings) -> Registry:
    """Return the registry that `services.discover` would write; write nothing.

    Args:
        root: The directory of the whole monorepo.
        path: The path that the registry would have.
        settings: The environment of the compose files and of the services.

    Raises:
        ConfigurationError: If no service is found, or a question is open.
    """
    result = (await look(root, path, settings)).result(Decisions())
    if result.unsettled:
        raise ConfigurationError(
            f"{path.name} was not found in {path.parent}, and discovery could not settle every "
            "field.",
            code="registry-missing",
            findings=[
                Finding(place=f"{row['service']}: {row['field']}", problem=str(row["question"]))
                for row in result.unsettled
            ],
            hint="Run `invoke services.discover`: it asks these questions and writes the file.",
        )
    return registry_of(result.document, path)


def write_registry(found: Discovery, path: Path) -> Discovery:
    """Write the registry.

    Raises:
        ConfigurationError: If it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        text = registry_text(found.document, _text_of(path))
        path.write_text(text, encoding="utf-8", newline="")
    except OSError as error:
        raise ConfigurationError(
            f"{path} could not be written: {error.strerror}",
            code="registry-unwritable",
            hint="Correct the directory's owner and permissions.",
        ) from error
    tagged = f"{SETTLE} " if found.exit_code else ""
    closing = (f"{COMMAND}: wrote {path}.", NOT_DETECTED, f"{tagged}{NEXT}")
    return replace(found, written=True, closing=closing)


def brief(found: Discovery) -> Discovery:
    """Return the result without the details that the user has already seen."""
    return replace(found, fields=(), unsettled=(), remarks=(), shown="")


def without_writing(found: Discovery, why: str, *, refused: bool) -> Discovery:
    """Return the result of a run that wrote nothing.

    Args:
        why: The reason, for the user.
        refused: Whether the exit code is that of a refusal.
    """
    code = ExitCode.REFUSED if refused else found.exit_code
    return replace(found, exit_code=code, closing=(f"{COMMAND}: {why}", NOT_DETECTED))


def _no_service(root: Path, not_taken: Sequence[Finding]) -> ConfigurationError:
    reason = "it has no Alembic configuration"
    if not_taken:
        reason = f"none of its Alembic configurations ({len(not_taken)}) is usable"
    return ConfigurationError(
        f"No service was found in {root}: {reason}.",
        code="no-service-found",
        findings=not_taken,
        hint="Set script_location to a directory with an env.py, in an alembic.ini or under "
        "[tool.alembic] in a pyproject.toml.",
    )


def _contradictions(document: Document, root: Path) -> Iterator[Mapping[str, Fact]]:
    """Report contradictions between fields whose values were all found."""
    sharing: dict[str, list[str]] = {}
    for finding in findings_in(document, root):
        place = _OF_SERVICE.fullmatch(finding.place)
        service = document["services"][int(place["index"])] if place else {}
        name = str(service.get("name", ""))
        if place and place["field"] == "database" and SHARE in finding.problem:
            first, other = re.findall(r"'([^']*)'", finding.problem)[:2]
            sharing.setdefault(first, [other]).append(name)
        elif TAG not in finding.problem:
            yield {
                "service": name,
                "field": place["field"] if place else finding.place,
                "question": finding.problem,
                "choices": [],
            }
    for database, names in sharing.items():
        yield {
            "service": ", ".join(dict.fromkeys(names)),
            "field": "database",
            "question": f"have the same database {database!r}; {SEPARATE}",
            "choices": [],
        }


def _text_of(path: Path) -> str:
    return read_text(path) if path.exists() else ""


def _parse(path: Path, text: str) -> Document:
    document, twice = parse_registry(path, text)
    if not isinstance(document, dict):
        raise ConfigurationError(
            f"{path} is not a valid registry: it must be a JSON object.",
            code="registry-invalid",
            hint="Move the file away; `invoke services.discover` writes a new one.",
        )
    require_readable(document, path, twice)
    return document


def _stated_ports(document: Document) -> frozenset[int]:
    stated = [entry.get("port") for entry in document.get("services") or ()]
    return frozenset(port for port in stated if isinstance(port, int))


def _applications(composition: Composition) -> list[Container]:
    return [container for container in composition.containers.values() if not container.is_postgres]


async def _other_applications(
    root: Path, composition: Composition, environment: Mapping[str, str], remarks: list[str]
) -> list[Container]:
    """Read the application containers of the other compose files, which may use these servers."""
    found: list[Container] = []
    for file in compose_files(root):
        if file in composition.files:
            continue
        with suppress(ConfigurationError):
            other = await read_configuration(root, [file], environment, by_compose=False)
            found += _applications(other)
            remarks += other.remarks if other.unread else ()
    return found


def _files_to_state(
    directory: Path, composition: Composition, environment: Mapping[str, str]
) -> tuple[str, ...]:
    """Return the compose files that Compose does not load by default; empty if it loads them."""
    usual = Compose(root=directory, files=(), environment=environment).first_file
    if not composition.databases or (usual and usual in composition.files[:1]):
        return ()
    return tuple(Path(os.path.relpath(file, directory)).as_posix() for file in composition.files)


def _lookalikes(directories: Sequence[ServiceDirectory], root: Path) -> Iterator[str]:
    """Report sibling directories of the services that name a database URL without migrations."""
    homes = {directory.home for directory in directories}
    parents = {home.parent for home in homes if home != root}
    files = repository_files(root)
    beside = {
        p.joinpath(f.relative_to(p).parts[0]) for f in files for p in parents if p in f.parents
    }
    for path in sorted(beside - homes):
        is_around = any(path in home.parents for home in homes)
        if path.is_dir() and not is_around and (named := read_directory(path, root).variables):
            yield (
                f"{shown(path, root)} was left out: it has no Alembic migrations. Its sources "
                f"name a database URL ({named[0].place})."
            )


def _rows(entry: Entry, stated: Document) -> Iterator[Mapping[str, Fact]]:
    """Return the fields of an entry that the existing registry does not state.

    Args:
        stated: The existing entry; empty if there is none.
    """
    for field, value in entry.document.items():
        if stated.get(field) == value:
            continue
        if field in entry.evidence or field in ("name", "port"):
            evidence = entry.evidence.get(field, "already in the registry")
            shown_value: Any = " ".join(value) if isinstance(value, list) else value
            if isinstance(value, dict):
                shown_value = " ".join(f"{name}={part}" for name, part in value.items())
            yield {
                "service": entry.name,
                "field": field,
                "value": shown_value,
                "evidence": evidence or CONVENTION,
            }


def _unsettled(made: Sequence[Entry]) -> Iterator[Mapping[str, Fact]]:
    for entry in made:
        questions = {question.field: question for question in entry.proposal.questions}
        for field, marker in entry.markers.items():
            choices = questions[field].choices if field in questions else ()
            # The port of a server that several services share is one question.
            sharing = [other.name for other in made if other.markers.get(field) == marker]
            if field == "port" and sharing[0] != entry.name:
                continue
            yield {
                "service": ", ".join(sharing) if field == "port" else entry.name,
                "field": field,
                "question": marker.removeprefix(TAG).strip(),
                "choices": [choice.label for choice in choices],
            }
