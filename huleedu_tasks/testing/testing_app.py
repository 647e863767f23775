"""The registry and the settings of a test run.

The environment is `testing`. The URL of each service is that of its source: a database of its own
beside the service's, which is built as `db.reset` builds a database.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from huleedu_tasks.app import App
from huleedu_tasks.config.registry import Registry, Service
from huleedu_tasks.config.settings import Environment, ProviderName, Settings
from huleedu_tasks.config.urls import DatabaseUrl, ResolvedUrl, resolve_each
from huleedu_tasks.guard import require_disposable_environment, require_own_address
from huleedu_tasks.testing.runs import own_name

# What pytest and its plugins set for a process is no input of a database.
_OF_PYTEST = ("PYTEST_", "COV_CORE_")


class TestingApp(App):
    """An `App` whose databases are the sources of a test run.

    Args:
        start: The directory where the search for the registry starts.
        token: The token of the run.
        seeded: Whether the sources are seeded.
    """

    def __init__(self, *, start: Path, token: str, seeded: bool) -> None:
        super().__init__(start=start)
        self.token = token
        self.seeded = seeded

    @cached_property
    def registry(self) -> Registry:
        """The registry; without seeds if the sources are not seeded."""
        registry = super().registry
        if self.seeded:
            return registry
        services = tuple(replace(service, seeds=()) for service in registry.services)
        return replace(registry, services=services)

    @cached_property
    def settings(self) -> Settings:
        """The settings of the environment `testing`, with the URL of each source.

        Raises:
            ConfigurationError: If a setting is not valid.
            Refused: In staging and production.
        """
        settings = self._testing
        urls = {
            service.url_variable: self._source_of(resolved[service.name].url).reveal()
            for service in self.registry.services
            if service.name in (resolved := self._resolved)
        }
        return replace(settings, process={**settings.process, **urls})

    def source(self, service: Service) -> DatabaseUrl:
        """Return the URL of a service's source.

        Raises:
            ConfigurationError: If the URL of the service cannot be resolved.
            Refused: If it points to another server than the provider's.
        """
        require_own_address(service, self._resolved[service.name], self.provider)
        return self.urls((service,))[service.name].url

    @cached_property
    def _testing(self) -> Settings:
        settings = Settings.load(self.registry_path.parent, prefix=self.prefix)
        require_disposable_environment(settings, "The pytest plugin")
        process = {
            name: value
            for name, value in settings.process.items()
            if not name.startswith(_OF_PYTEST)
        }
        process[settings.own_name("HULEEDU_ENVIRONMENT")] = str(Environment.TESTING)
        return replace(settings, process=process)

    @cached_property
    def _resolved(self) -> Mapping[str, ResolvedUrl]:
        """The URLs of the services themselves, as far as they can be resolved."""
        return resolve_each(self.registry.services, self._testing)[0]

    def _source_of(self, url: DatabaseUrl) -> DatabaseUrl:
        kind = "seeded" if self.seeded else "head"
        # Other checkouts may use the same server, and no template of them.
        is_shared = self._testing.provider is ProviderName.EXISTING
        parts = [self.token, kind] if is_shared else [kind]
        return replace(url, database=own_name(*parts, database=url.database))
