"""The composition root: settings, registry, provider and state folder, wired once and lazily."""

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from huleedu_tasks.config.registry import Registry, Service, find_registry, load_registry
from huleedu_tasks.config.secret import Redactor
from huleedu_tasks.config.settings import Settings
from huleedu_tasks.config.urls import ResolvedUrl, resolve_all
from huleedu_tasks.errors import ConfigurationError, HuleEduError
from huleedu_tasks.servers import Provider, choose
from huleedu_tasks.state import state_folder


class App:
    """Everything one command works with.

    Args:
        start: The folder the search for the registry starts in.
        dry_run: Whether nothing may be changed.

    """

    def __init__(self, *, start: Path, dry_run: bool = False) -> None:
        self.start = start
        self.dry_run = dry_run

    @cached_property
    def registry_path(self) -> Path:
        """Where the registry lies; its folder is the root of the monorepo."""
        return find_registry(self.start, os.environ.get("HULEEDU_REGISTRY", ""))

    @cached_property
    def registry(self) -> Registry:
        """All services."""
        return load_registry(self.registry_path)

    @cached_property
    def settings(self) -> Settings:
        """All settings."""
        return Settings.load(self.registry_path.parent)

    @cached_property
    def provider(self) -> Provider:
        """Where the development servers come from."""
        names = {name for service in self.registry.services for name in service.extensions}
        return choose(self.settings, self.state, sorted(names))

    @cached_property
    def state(self) -> Path:
        """The folder everything is written to that is not the developer's own."""
        return state_folder(self.registry_path.parent, self.settings.state_directory)

    def services(self, names: Sequence[str] | None) -> tuple[Service, ...]:
        """Return the selected services, or all."""
        return self.registry.select(names or ())

    def urls(self, services: tuple[Service, ...]) -> dict[str, ResolvedUrl]:
        """Return the URLs of services by name."""
        return resolve_all(services, self.settings)

    def jobs(self, stated: str) -> int:
        """Return how many services are worked on at once.

        Raises:
            ConfigurationError: If `--jobs` is no positive number.

        """
        if not stated:
            return self.settings.jobs
        if not stated.isdecimal() or int(stated) < 1:
            raise ConfigurationError(
                f"--jobs takes a whole number of at least 1, not {stated!r}.",
                hint="Leave it out to use every processor.",
            )
        return int(stated)

    def redact(self, text: str) -> str:
        """Mask every password this run knows of."""
        return self._redactor(text)

    @cached_property
    def _redactor(self) -> Redactor:
        secrets = []
        try:
            secrets += self.settings.secrets()
            for service in self.registry.services:
                secrets += [resolve_all((service,), self.settings)[service.name].url.password]
        except HuleEduError:
            # What cannot be resolved holds no password that was used.
            pass
        return Redactor(secrets)
