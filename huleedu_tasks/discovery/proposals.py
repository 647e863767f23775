"""Proposes the fields of each service's entry, with evidence, and asks about the rest."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

from huleedu_tasks.compose.database_service import Container
from huleedu_tasks.config.urls import POSTGRES_PORT
from huleedu_tasks.discovery.matching import (
    Candidate,
    all_best,
    candidates,
    single_best,
)
from huleedu_tasks.discovery.questions import (
    Known,
    Question,
    which_at_all,
    which_database,
    which_of,
    which_port,
)
from huleedu_tasks.discovery.server_databases import (
    database_sightings,
    databases_stated,
    find_database,
)
from huleedu_tasks.discovery.service_facts import Reading
from huleedu_tasks.discovery.sources import Sighting, local_ports_of
from huleedu_tasks.discovery.url_variable import find_variable, own_variables
from huleedu_tasks.migrations.directories import ENV_PY
from huleedu_tasks.probe.observed_variables import Observed
from huleedu_tasks.repository import shown

# Evidence for what running env.py has shown.
SEEN = "env.py was executed: it uses {}"
# No free port is proposed above it.
LAST_PORT = 65_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """The proposed entry of a service.

    Attributes:
        facts: The known fields, including those that convention gives.
        questions: One for each field that could not be determined.
        server: The container of its database server; `None` if it is not known.
    """

    reading: Reading
    facts: Mapping[str, Known]
    questions: tuple[Question, ...] = ()
    server: Container | None = None

    @property
    def key(self) -> Path:
        """The key of the service's directory, which identifies the service."""
        return self.reading.directory.key


@dataclass(frozen=True, slots=True, kw_only=True)
class Decisions:
    """The answers of the user.

    Attributes:
        values: The chosen value, by the key of the service's directory and the field.
        left_out: The keys of directories that get no entry.
    """

    values: Mapping[tuple[Path, str], str] = field(default_factory=dict)
    left_out: frozenset[Path] = frozenset()

    def get(self, reading: Reading, name: str) -> str:
        """Return the chosen value of a field; empty string if the user has not chosen one."""
        return self.values.get((reading.directory.key, name), "")

    def with_choice(self, path: Path, name: str, value: str) -> "Decisions":
        """Return these decisions with one more chosen value."""
        return replace(self, values={**self.values, (path, name): value})

    def leaving_out(self, path: Path) -> "Decisions":
        """Return these decisions without an entry for a directory."""
        return replace(self, left_out=self.left_out | {path})


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """Everything that was read of a repository.

    Attributes:
        readings: What was read of each service.
        servers: The PostgreSQL servers of the compose files, by name, in the order of the files.
        stated_ports: The ports in the existing registry.
        observed: What each service's `env.py` uses, by the directory's key; a service whose
            `env.py` was not run has no item.
    """

    root: Path
    readings: tuple[Reading, ...]
    servers: Mapping[str, Container]
    stated_ports: frozenset[int] = frozenset()
    observed: Mapping[Path, Observed] = field(default_factory=dict)

    def propose(self, decisions: Decisions) -> list[Proposal]:
        """Return a proposal for each service, in the order of the servers."""
        readings = [r for r in self.readings if r.directory.key not in decisions.left_out]
        likely = candidates(readings, self.servers, self.root)
        chosen = {
            reading.directory.key: self._choose(reading, likely[reading.directory.key], decisions)
            for reading in readings
        }
        users = Counter(candidate.server.name for candidate in chosen.values() if candidate)
        variables = own_variables(readings) | self._seen_variables()
        free_ports = self._free_ports(decisions)
        asked_ports = _AskedPorts(free_ports, chosen, decisions)
        proposals = []
        for reading in readings:
            path = reading.directory.key
            match = chosen[path]
            facts, questions = dict(self._plain_facts(reading)), []
            parts = [
                self._server(match, reading, asked_ports)
                if match
                else self._no_server(reading, likely[path], users, free_ports, decisions),
                self._database(reading, match, users, decisions),
            ]
            for known, asked in parts:
                facts |= known
                questions += asked
            facts |= find_variable(reading, variables) | self._seen(reading)
            proposals.append(
                Proposal(
                    reading=reading,
                    facts=facts,
                    questions=tuple(questions),
                    server=match.server if match else None,
                )
            )
        order = list(self.servers)
        return sorted(
            proposals, key=lambda p: order.index(p.server.name) if p.server else len(order)
        )

    def _seen_variables(self) -> dict[Path, dict[str, str]]:
        """Return the variable that each `env.py` uses; an empty mapping if it uses none."""
        return {
            key: {seen.variable: SEEN.format(seen.variable)} if seen.variable else {}
            for key, seen in self.observed.items()
            if not seen.failure
        }

    def _seen(self, reading: Reading) -> dict[str, Known]:
        """Return the fields that running `env.py` has shown, other than its variable."""
        seen = self.observed.get(reading.directory.key)
        if seen is None:
            return {}
        facts = {}
        environment = dict(seen.parts)
        if seen.python_path:
            environment["PYTHONPATH"] = seen.python_path
        if environment:
            evidence = SEEN.format(", ".join(environment))
            facts["environment"] = Known(value=environment, evidence=evidence)
        if seen.scheme:
            used = seen.variable or "sqlalchemy.url"
            evidence = f"env.py was executed: it uses {used} with this driver"
            facts["url_scheme"] = Known(value=seen.scheme, evidence=evidence)
        return facts

    def _choose(
        self, reading: Reading, likely: Sequence[Candidate], decisions: Decisions
    ) -> Candidate | None:
        name = decisions.get(reading, "port")
        if name in self.servers:
            return Candidate(server=self.servers[name], points=0, reasons=("chosen by the user",))
        return single_best(likely)

    def _plain_facts(self, reading: Reading) -> Iterator[tuple[str, Known]]:
        directory = reading.directory
        place = shown(directory.config, self.root)
        yield "directory", Known(value=str(directory.path), evidence=place)
        yield "alembic_config", Known(value=str(directory.config), evidence=place)
        yield (
            "alembic_section",
            Known(value=directory.section, evidence=f"{place} [{directory.section}]"),
        )
        if directory.flask_app:
            evidence = f"{shown(directory.scripts / ENV_PY, self.root)} needs current_app"
            yield "flask_app", Known(value=directory.flask_app, evidence=evidence)
        if directory.engine:
            evidence = f"{place} databases = {directory.engine}"
            yield "alembic_engine", Known(value=directory.engine, evidence=evidence)
        schemes = [
            Sighting(value=database.scheme, place=database.place)
            for database in reading.containers.databases
            if database.scheme and database.is_main
        ]
        if scheme := reading.sources.scheme(schemes):
            yield "url_scheme", Known(value=scheme.value, evidence=scheme.place)
        if python := directory.python:
            yield "python", Known(value=python[0], evidence=shown(python[1], self.root))

    def _free_ports(self, decisions: Decisions) -> Iterator[int]:
        """Yield unused ports above every port that the repository uses."""
        ports = [server.port for server in self.servers.values() if server.port]
        local = [port.value for r in self.readings for port in local_ports_of(r.sources)]
        chosen = [int(text) for text in decisions.values.values() if text.isdecimal()]
        used = {POSTGRES_PORT, *ports, *local, *chosen, *self.stated_ports}
        first = max(port for port in used if port < LAST_PORT)
        return (port for port in count(first + 1) if port not in used)

    def _no_server(
        self,
        reading: Reading,
        likely: Sequence[Candidate],
        users: Mapping[str, int],
        free_ports: Iterator[int],
        decisions: Decisions,
    ) -> tuple[dict[str, Known], list[Question]]:
        if likely:
            return {}, [which_of([candidate.server for candidate in all_best(likely)], likely)]
        if own := _own_port(reading):
            return {"port": Known(value=own.value, evidence=own.place)}, []
        if chosen := decisions.get(reading, "port"):
            return {"port": Known(value=int(chosen), evidence="chosen by the user")}, []
        # Servers without a service come first.
        servers = sorted(self.servers.values(), key=lambda server: users.get(server.name, 0) > 0)
        return {}, [which_at_all(servers, next(free_ports))]

    def _server(
        self, match: Candidate, reading: Reading, ports: "_AskedPorts"
    ) -> tuple[dict[str, Known], list[Question]]:
        server = match.server
        facts = {
            "compose_service": Known(value=server.name, evidence="; ".join(match.reasons)),
        }
        if server.data_volume and not server.data_volume.startswith("/"):
            place = self._declared(server)
            facts["volume"] = Known(value=server.data_volume, evidence=place)
        if server.port:
            inside = next(inside for outside, inside in server.ports if outside == server.port)
            evidence = f'{self._declared(server)} "{server.port}:{inside}"'
            return facts | {"port": Known(value=server.port, evidence=evidence)}, []
        if own := _own_port(reading):
            return facts | {"port": Known(value=own.value, evidence=own.place)}, []
        if chosen := ports.chosen.get(server.name):
            return facts | {"port": Known(value=chosen, evidence="chosen by the user")}, []
        return facts, [which_port(server, ports.free(server.name))]

    def _declared(self, server: Container) -> str:
        file = shown(server.file, self.root) if server.file else "compose files"
        return f"{file}: {server.name}"

    def _database(
        self,
        reading: Reading,
        match: Candidate | None,
        users: Mapping[str, int],
        decisions: Decisions,
    ) -> tuple[dict[str, Known], list[Question]]:
        if chosen := decisions.get(reading, "database"):
            return {"database": Known(value=chosen, evidence="chosen by the user")}, []
        server = match.server if match else None
        shared = bool(server and users[server.name] > 1)
        if fact := find_database(reading, server, self.root, shared=shared):
            return {"database": Known(value=fact.value, evidence=fact.place)}, []
        named = database_sightings(reading.sources)
        made = databases_stated(server, self.root) if server else {}
        if not (named or made):
            # The tasks create a database with the name that convention gives.
            return {}, []
        return {}, [which_database(named or made)]


class _AskedPorts:
    """The ports of servers that publish none; services of one server share one question.

    Attributes:
        chosen: The ports that the user has chosen, by the server's name.
    """

    def __init__(
        self,
        free_ports: Iterator[int],
        matches: Mapping[Path, Candidate | None],
        decisions: Decisions,
    ) -> None:
        self.chosen = {
            match.server.name: int(value)
            for (path, field_name), value in decisions.values.items()
            if field_name == "port" and value.isdecimal() and (match := matches.get(path))
        }
        self._free_ports = free_ports
        self._proposed: dict[str, int] = {}

    def free(self, server: str) -> int:
        """Return the port to propose for a server, which is the same in every call."""
        if server not in self._proposed:
            self._proposed[server] = next(self._free_ports)
        return self._proposed[server]


def _own_port(reading: Reading) -> Sighting[int] | None:
    """Return the local port that the service's own files name; `None` if they name none."""
    return next((port for port in local_ports_of(reading.sources) if port.own), None)
