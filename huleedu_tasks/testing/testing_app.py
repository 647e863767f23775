"""The registry, the settings and the servers of a test run.

The environment is `testing`. The URL of each service is that of its source: a database of its own
beside the service's, which is built as `db.reset` builds a database.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property

from huleedu_tasks.app import App
from huleedu_tasks.config.registry import Registry, Service
from huleedu_tasks.config.settings import Environment, ProviderName, Settings
from huleedu_tasks.config.urls import DatabaseUrl, resolve, resolve_each
from huleedu_tasks.guard import require_own_address
from huleedu_tasks.instances.instance import Instance
from huleedu_tasks.servers.embedded import EmbeddedServers
from huleedu_tasks.servers.protocol import Provider
from huleedu_tasks.shared_databases import shared_databases
from huleedu_tasks.testing.runs import own_name

# What pytest and its plugins set for a process is no input of a database.
_OF_PYTEST = ("PYTEST_", "COV_CORE_")


class TestingApp(App):
    """An `App` whose databases are the sources of a test run.

    Args:
        plain: The `App` of the developer's own databases.
        token: The token of the run.
        seeded: Whether the sources are seeded.
        services: The services, with the ports of the servers of test runs.
        servers: The embedded servers of test runs; None if development's are used.
    """

    def __init__(
        self,
        *,
        plain: App,
        token: str,
        seeded: bool,
        services: Sequence[Service],
        servers: EmbeddedServers | None,
    ) -> None:
        super().__init__(start=plain.start)
        self._plain = plain
        self._token = token
        self._seeded = seeded
        self._services = services
        self._servers = servers

    @cached_property
    def registry(self) -> Registry:
        """The registry: the sources are the databases of the environment; seeds only if wanted."""
        services = [
            replace(service, testing_database=self._sources[service.name].database)
            if service.name in self._sources
            else service
            for service in self._services
        ]
        if not self._seeded:
            services = [replace(service, seeds=()) for service in services]
        return replace(self._plain.registry, services=tuple(services))

    @property
    def stated_registry(self) -> Registry:
        """The same registry: the ports are those of the servers already."""
        return self.registry

    @property
    def instance(self) -> Instance | None:
        """The instance of the checkout."""
        return self._plain.instance

    @cached_property
    def settings(self) -> Settings:
        """The settings of the environment `testing`, with the URL of each source."""
        urls = {
            service.url_variable: self._sources[service.name].reveal()
            for service in self._services
            if service.name in self._sources
        }
        return replace(self._testing, process={**self._testing.process, **urls})

    @cached_property
    def provider(self) -> Provider:
        """The source of the servers."""
        return replace(self._servers, settings=self.settings) if self._servers else super().provider

    @property
    def starting(self) -> App:
        """The `App` that starts the servers: with the developer's own databases on theirs."""
        return self if self._servers else self._plain

    def source(self, service: Service) -> DatabaseUrl:
        """Return the URL of a service's source.

        Raises:
            ConfigurationError: If the URL of the service cannot be resolved.
            Refused: If it points to another server than the provider's.
        """
        (own,) = self._plain.registry.select([service.name])
        require_own_address(own, resolve(own, self._testing), self._plain.provider)
        return self.urls((service,))[service.name].url

    def sharing(self, service: Service) -> Sequence[Service]:
        """Return the services that share a service's database, including itself.

        Raises:
            ConfigurationError: If the URL of one of them cannot be resolved.
        """
        groups = shared_databases(self.registry, (service,), self.settings)
        return [member.service for group in groups for member in group] or [service]

    @cached_property
    def _testing(self) -> Settings:
        settings = self._plain.settings
        process = {
            name: value
            for name, value in settings.process.items()
            if not name.startswith(_OF_PYTEST)
        }
        process[settings.own_name("HULEEDU_ENVIRONMENT")] = str(Environment.TESTING)
        return replace(settings, process=process)

    @cached_property
    def _sources(self) -> Mapping[str, DatabaseUrl]:
        """The URL of each source, as far as the URL of its service can be resolved."""
        resolved, _ = resolve_each(self._plain.registry.services, self._testing)
        return {
            service.name: self._source_of(service, resolved[service.name].url)
            for service in self._services
            if service.name in resolved
        }

    def _source_of(self, service: Service, url: DatabaseUrl) -> DatabaseUrl:
        kind = "seeded" if self._seeded else "head"
        # Other checkouts may use the same server, and no templates are kept there.
        is_shared = self._testing.provider is ProviderName.EXISTING
        parts = [self._token, kind] if is_shared else [kind]
        if self._servers:
            url = replace(url, host="localhost", port=service.port)
        return replace(url, database=own_name(*parts, database=url.database))
