"""The databases of one worker of a test run."""

import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from huleedu_tasks.app import App
from huleedu_tasks.config.registry import Service
from huleedu_tasks.errors import HuleEduError
from huleedu_tasks.guard import require_disposable_environment
from huleedu_tasks.servers.embedded import EmbeddedServers
from huleedu_tasks.testing.background import Background
from huleedu_tasks.testing.copies import Copies
from huleedu_tasks.testing.database import ServiceDatabase
from huleedu_tasks.testing.failures import failure
from huleedu_tasks.testing.own_servers import OwnServers
from huleedu_tasks.testing.runs import Run
from huleedu_tasks.testing.servers import Server
from huleedu_tasks.testing.service_variables import variables_of, without_database
from huleedu_tasks.testing.source_databases import Source, prepare
from huleedu_tasks.testing.testing_app import TestingApp
from huleedu_tasks.testing.totals import Totals

DIRECTORY = "testing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A service, and whether its database is seeded."""

    service: str
    seeded: bool

    def __str__(self) -> str:
        return f"{self.service}{' seeded' * self.seeded}"


class Session:
    """The databases of one worker, each copied from the source of its service.

    Args:
        start: The directory where the search for the registry starts.
        token: The token of the run.
        worker: The name that xdist has given the worker.
        fresh: Whether to build every source, even if its template is valid.

    Raises:
        HuleEduError: If settings or registry are not valid, or the environment is refused.
    """

    def __init__(self, *, start: Path, token: str, worker: str, fresh: bool) -> None:
        plain = App(start=start)
        require_disposable_environment(plain.settings, "The pytest plugin")
        directory = plain.state / DIRECTORY
        self._fresh = fresh
        self._own = _own_servers(directory, plain)
        self._apps = _apps(plain, token, self._own)
        self._run = Run(directory=directory, token=token, worker=worker)
        self._run.begin()
        checkout = f"{socket.gethostname()}:{plain.state}"
        self._tag = {"checkout": checkout, "worker": worker, "pid": str(os.getpid())}
        self._background = Background()
        self._copies = Copies(self._run)
        self._sources: dict[str, Source] = {}
        self._servers: dict[str, Server] = {}
        self.totals = Totals()

    def names(self, stated: Sequence[str]) -> tuple[str, ...]:
        """Return the names of services; of all services if none is stated."""
        try:
            return tuple(service.name for service in self._apps[False].services(stated))
        except HuleEduError as error:
            raise failure(error) from None

    def leader(self, name: str) -> str:
        """Return the name of the first service that shares a service's database."""
        (known,) = self.names([name])
        (service,) = self._apps[False].services([known])
        return self._apps[False].sharing(service)[0].name

    def prepare(self, wanted: Iterable[tuple[str, bool]]) -> None:
        """Build the sources of services together, unless another worker of the run has done it.

        Args:
            wanted: Names of services, each with whether its database is seeded; unknown names are
                skipped.
        """
        known = [found for name, seeded in wanted if (found := self._known(name, seeded=seeded))]
        if all(str(one) in self._sources for one in known):
            return
        with self._run.results() as results:
            for seeded in (False, True):
                missing = {
                    one.service for one in known if one.seeded is seeded and str(one) not in results
                }
                if missing:
                    results |= self._prepare(missing, seeded=seeded)
            self._sources = {name: Source(**source) for name, source in results.items()}

    @contextmanager
    def database(self, name: str, *, seeded: bool) -> Iterator[ServiceDatabase]:
        """Yield a new database of a service, whose URL is in the service's variables."""
        (known,) = self.names([name])
        wanted = Wanted(service=known, seeded=seeded)
        template, service = self._template(wanted), self._service(wanted)
        server = self._server(wanted)
        created = self._create(server, template, service.database)
        url = replace(self._apps[seeded].source(service), database=created)
        database = ServiceDatabase(service=known, parts=url)
        try:
            with pytest.MonkeyPatch.context() as environment:
                for variable, value in self._variables(service, database).items():
                    environment.setenv(variable, value)
                yield database
        finally:
            database.close()
            self._background.run(self._copies.drop_later(server, created))

    def close(self) -> None:
        """Drop what is left, and end."""
        try:
            self._background.run(self._end())
        except HuleEduError as error:
            self.totals.problems.append(str(error))
        finally:
            self._background.close()
        self.totals.problems += self._copies.problems

    def _known(self, name: str, *, seeded: bool) -> Wanted | None:
        try:
            (service,) = self._apps[seeded].services([name])
        except HuleEduError:
            # The test that uses it reports the error.
            return None
        return Wanted(service=service.name, seeded=seeded)

    def _service(self, wanted: Wanted) -> Service:
        (service,) = self._apps[wanted.seeded].services([wanted.service])
        return service

    def _prepare(self, names: set[str], *, seeded: bool) -> dict[str, dict[str, object]]:
        app = self._apps[seeded]
        found = self._background.run(prepare(app, names, fresh=self._fresh, tag=self._tag))
        sources = {Wanted(service=name, seeded=seeded): found[name] for name in found}
        for server in {self._server(one) for one, source in sources.items() if source.template}:
            self._background.run(self._copies.drop_ended_later(server, self._tag["checkout"]))
        return {str(one): source.as_json() for one, source in sources.items()}

    def _template(self, wanted: Wanted) -> str:
        """Return the name of the source; its failure is reported by one test of the run."""
        self.prepare([(wanted.service, wanted.seeded)])
        source = self._sources[str(wanted)]
        if source.failure and self._run.is_first(str(wanted)):
            pytest.fail(source.failure, pytrace=False)
        if source.failure:
            pytest.skip(f"{wanted} has no database; the error of one test says why")
        self.totals.templates[str(wanted)] = source.how
        return source.template

    def _create(self, server: Server, template: str, database: str) -> str:
        try:
            name = self._background.run(self._copies.take(server, template, database))
        except HuleEduError as error:
            raise failure(error) from None
        self.totals.created += 1
        return name

    def _server(self, wanted: Wanted) -> Server:
        """Return the server of a service, with one connection for all services on it."""
        app, service = self._apps[wanted.seeded], self._service(wanted)
        address = app.source(service).address
        if address not in self._servers:
            self._servers[address] = Server(app, service, self._tag)
        return self._servers[address]

    def _variables(self, service: Service, database: ServiceDatabase) -> dict[str, str]:
        """Return the variables of a test with a database, for all services that share it."""
        app = self._apps[False]
        others = [s for s in app.registry.services if s.url_variable not in os.environ]
        variables = dict(without_database(others, database.parts))
        for member in (*app.sharing(service), service):
            url = replace(app.source(member), database=database.name)
            variables |= variables_of(member, url, app.settings)
        return variables

    async def _end(self) -> None:
        await self._copies.finish()
        if is_last := self._run.leave():
            for server in self._servers.values():
                await self._copies.drop_own(server)
        for server in self._servers.values():
            await server.aclose()
        if is_last:
            self._run.end()
        self._run.forget_ended()
        if self._own:
            await self._own.end(self._apps[False].registry.services)


def _own_servers(directory: Path, plain: App) -> OwnServers | None:
    """Return the servers of test runs; None if they use those of development."""
    provider = plain.provider
    if not isinstance(provider, EmbeddedServers):
        return None
    return OwnServers(directory, provider, plain.registry.services)


def _apps(plain: App, token: str, own: OwnServers | None) -> dict[bool, TestingApp]:
    """Return an `App` for sources without seeds and one for sources with seeds."""
    services = own.begin() if own else plain.registry.services
    servers = own.provider if own else None
    apps = {
        seeded: TestingApp(
            plain=plain, token=token, seeded=seeded, services=services, servers=servers
        )
        for seeded in (False, True)
    }
    for app in apps.values():
        # Read before a fixture changes the environment.
        _ = app.settings
    return apps
