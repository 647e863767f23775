"""The databases of one worker of a test run."""

import asyncio
import os
import socket
from collections import Counter
from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from huleedu_tasks.app import App
from huleedu_tasks.config.placeholders import fill_in
from huleedu_tasks.config.registry import PLACEHOLDERS, Service
from huleedu_tasks.config.urls import DatabaseUrl
from huleedu_tasks.errors import HuleEduError
from huleedu_tasks.guard import require_disposable_environment
from huleedu_tasks.servers.embedded import EmbeddedServers
from huleedu_tasks.shared_databases import Sharing
from huleedu_tasks.testing.background import Background
from huleedu_tasks.testing.database import ServiceDatabase
from huleedu_tasks.testing.own_servers import OwnServers
from huleedu_tasks.testing.runs import Run, own_name
from huleedu_tasks.testing.servers import Server
from huleedu_tasks.testing.sources import Source, prepare
from huleedu_tasks.testing.testing_app import TestingApp
from huleedu_tasks.testing.totals import Totals, error_text

DIRECTORY = "testing"
_UNREQUESTED = "not_requested_by_this_test_"
# From the second use of a service on, its next database is copied while the test runs.
_MANY = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A service, and whether its database is seeded."""

    service: str
    seeded: bool = False

    def __str__(self) -> str:
        return f"{self.service}{' seeded' * self.seeded}"


class Session:
    """The databases of one worker, each copied from the source of its service.

    Args:
        start: The directory where the search for the registry starts.
        token: The token of the run.
        worker: The name that xdist has given the worker.
        fresh: Whether to build every source, even if its template is valid.
    """

    def __init__(self, *, start: Path, token: str, worker: str, fresh: bool) -> None:
        plain = App(start=start)
        require_disposable_environment(plain.settings, "The pytest plugin")
        directory = plain.state / DIRECTORY
        self._own = _own_servers(directory, plain)
        services = self._own.begin() if self._own else plain.registry.services
        self._apps = {
            seeded: TestingApp(
                plain=plain,
                token=token,
                seeded=seeded,
                services=services,
                servers=self._own.provider if self._own else None,
            )
            for seeded in (False, True)
        }
        for app in self._apps.values():
            # Read before a fixture changes the environment.
            _ = app.settings
        self._fresh = fresh
        self._run = Run(directory=directory, token=token, worker=worker)
        self._run.begin()
        checkout = f"{socket.gethostname()}:{plain.state}"
        self._tag = {"checkout": checkout, "worker": worker, "pid": str(os.getpid())}
        self._background = Background()
        self._sources: dict[str, Source] = {}
        self._servers: dict[str, Server] = {}
        self._spares: dict[Wanted, asyncio.Task[str]] = {}
        self._uses: Counter[Wanted] = Counter()
        self._numbers = 0
        self._works: set[asyncio.Task[None]] = set()
        self.totals = Totals()

    def names(self, stated: Sequence[str]) -> tuple[str, ...]:
        """Return the names of services; of all services if none is stated."""
        try:
            return tuple(service.name for service in self._apps[False].services(stated))
        except HuleEduError as error:
            pytest.fail(error_text(error), pytrace=False)

    def prepare(self, wanted: Iterable[tuple[str, bool]]) -> None:
        """Have the sources of services, which the first worker of the run builds together.

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
                    results |= self._prepared(missing, seeded=seeded)
            self._sources = {name: Source(**source) for name, source in results.items()}

    @contextmanager
    def database(self, name: str, *, seeded: bool) -> Iterator[ServiceDatabase]:
        """Yield a new database of a service, whose URL is in the service's variables."""
        (known,) = self.names([name])
        wanted = Wanted(service=known, seeded=seeded)
        template = self._template(wanted)
        created = self._background.run(self._take(wanted, template))
        self.totals.created += 1
        service = self._service(wanted)
        parts = replace(self._apps[seeded].source(service), database=created)
        database = ServiceDatabase(service=known, parts=parts)
        try:
            with pytest.MonkeyPatch.context() as environment:
                variables = dict(self._guards(parts))
                for member in (*self._sharing.with_service(service), service):
                    variables |= self._variables(member, replace(parts, scheme=member.url_scheme))
                for variable, value in variables.items():
                    environment.setenv(variable, value)
                yield database
        finally:
            database.close()
            self._later(self._server(wanted).drop(created))

    def leader(self, name: str) -> str:
        """Return the name of the first service that shares a service's database."""
        (known,) = self.names([name])
        (service,) = self._apps[False].services([known])
        return self._sharing.leader(service).name

    def close(self) -> None:
        """Drop what is left, and end."""
        try:
            self._background.run(self._end())
        finally:
            self._background.close()

    @cached_property
    def _sharing(self) -> Sharing:
        app = self._apps[False]
        return Sharing.of(app.registry, app.registry.services, app.settings)

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

    def _prepared(self, names: set[str], *, seeded: bool) -> dict[str, dict[str, object]]:
        app = self._apps[seeded]
        found = self._background.run(prepare(app, names, fresh=self._fresh, tag=self._tag))
        sources = {Wanted(service=name, seeded=seeded): found[name] for name in found}
        for server in {self._server(one) for one, source in sources.items() if source.template}:
            self._later(server.drop_all(self._is_left_over))
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

    async def _take(self, wanted: Wanted, template: str) -> str:
        """Return the name of a new database, and begin to copy the next one."""
        spare = self._spares.pop(wanted, None)
        name = await (spare or self._copy(wanted, template))
        self._uses[wanted] += 1
        if self._uses[wanted] >= _MANY:
            self._spares[wanted] = asyncio.create_task(self._copy(wanted, template))
        return name

    async def _copy(self, wanted: Wanted, template: str) -> str:
        self._numbers += 1
        parts = (self._run.token, self._run.worker, str(self._numbers))
        name = own_name(*parts, database=self._service(wanted).database)
        await self._server(wanted).copy(template, name)
        return name

    def _server(self, wanted: Wanted) -> Server:
        """Return the server of a service, with one connection for all services on it."""
        app, service = self._apps[wanted.seeded], self._service(wanted)
        address = app.source(service).address
        if address not in self._servers:
            self._servers[address] = Server(app, service, self._tag)
        return self._servers[address]

    def _variables(self, service: Service, url: DatabaseUrl) -> Mapping[str, str]:
        """Return the variables from which a service's code reads its URL, or parts of it."""
        settings = self._apps[False].settings
        names = ("HULEEDU_ENVIRONMENT", settings.own_name("HULEEDU_ENVIRONMENT"))
        environment = str(settings.environment)
        parts = {
            name: value
            for name, value in service.environment.items()
            if any(f"{{{placeholder}}}" in value for placeholder in PLACEHOLDERS)
        }
        return {
            **dict.fromkeys(names, environment),
            service.alembic_url_variable: url.reveal(),
            service.url_variable: url.reveal(),
            **fill_in(parts, environment, url),
        }

    def _guards(self, url: DatabaseUrl) -> Mapping[str, str]:
        """Return the URLs of services without a database in this test, for those not set.

        They name a database that does not exist: without them, code under test would use the
        developer's own.
        """
        return {
            service.url_variable: replace(
                url, scheme=service.url_scheme, database=f"{_UNREQUESTED}{service.name}"
            ).reveal()
            for service in self._apps[False].registry.services
            if service.url_variable not in os.environ
        }

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        """Do work in the background; a failure is reported when the run ends."""

        async def begin() -> None:
            task = asyncio.create_task(self._noted(work))
            self._works.add(task)
            task.add_done_callback(self._works.discard)

        self._background.run(begin())

    async def _noted(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except HuleEduError as error:
            self.totals.problems.append(str(error))

    def _is_left_over(self, token: str, checkout: str) -> bool:
        return self._run.has_ended(token, is_ours=checkout == self._tag["checkout"])

    async def _end(self) -> None:
        for wanted, task in self._spares.items():
            # One that failed is dropped below, or by the next run.
            with suppress(Exception):
                await self._server(wanted).drop(await task)
        await asyncio.gather(*self._works)
        if is_last := self._run.leave():
            for server in self._servers.values():
                await self._noted(server.drop_all(lambda token, _: token == self._run.token))
        for server in self._servers.values():
            await server.aclose()
        if is_last:
            self._run.end()
        self._run.forget_ended()
        if self._own:
            await self._noted(self._own.end(self._apps[False].registry.services))


def _own_servers(directory: Path, plain: App) -> OwnServers | None:
    """Return the servers of test runs; None if they use those of development."""
    provider = plain.provider
    if not isinstance(provider, EmbeddedServers):
        return None
    return OwnServers(directory, provider, plain.registry.services)
