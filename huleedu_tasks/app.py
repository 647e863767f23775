"""The composition root: creates settings, registry, provider and state directory on first use."""

import asyncio
import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huleedu_tasks.config.registry import (
    REGISTRY_FILE,
    URL_SCHEME,
    Registry,
    Service,
    find_registry,
    load_registry,
    stated_prefix,
)
from huleedu_tasks.config.secret import Redactor, Secret
from huleedu_tasks.config.setting_types import NO_INSTANCE
from huleedu_tasks.config.settings import PREFIX, Settings
from huleedu_tasks.config.urls import (
    ResolvedUrl,
    resolve,
    resolve_all,
    resolve_direct,
    resolve_each,
)
from huleedu_tasks.config.worktree import linked_worktree
from huleedu_tasks.errors import ConfigurationError, HuleEduError
from huleedu_tasks.instances.instance import (
    INSTANCE_SETTING,
    Instance,
    find_instance,
    ignored_because,
)
from huleedu_tasks.repository import repository_root
from huleedu_tasks.state_dir import state_directory

if TYPE_CHECKING:
    from huleedu_tasks.db.development import Development
    from huleedu_tasks.servers.protocol import Provider

# The settings without which a command works on other databases.
CHOOSES_DATABASES = (Settings.environment.name, INSTANCE_SETTING)
# The name of a setting in a message. HULEEDU_REGISTRY is never renamed.
_SETTING = re.compile(rf"\b{PREFIX}_(?!REGISTRY\b)[A-Z][A-Z0-9_]*")


class App:
    """The objects that a command works with.

    Args:
        start: The directory where the search for the registry starts.
        dry_run: Whether the command must not change anything.
    """

    def __init__(self, *, start: Path, dry_run: bool = False) -> None:
        self.start = start
        self.dry_run = dry_run

    @cached_property
    def registry_path(self) -> Path:
        """The path of the registry; its directory is the root of the monorepo.

        In a repository without a registry: the path where `services.discover` writes it.

        Raises:
            ConfigurationError: If it is not found, and this is not a repository.
        """
        explicit = Settings.registry_path()
        root = repository_root(self.start)
        try:
            found = find_registry(self.start, explicit)
        except ConfigurationError:
            if explicit or root is None:
                raise
            return root / REGISTRY_FILE
        worktree = linked_worktree(self.start)
        if explicit or worktree is None or found.is_relative_to(worktree.root):
            return found
        # The registry of the main worktree around it is that of other databases.
        return worktree.root / REGISTRY_FILE

    @cached_property
    def registry_place(self) -> Path:
        """The path of the registry, or the path where `services.discover` writes it."""
        if explicit := Settings.registry_path():
            return (self.start / Path(explicit).expanduser()).resolve()
        root = repository_root(self.start)
        with suppress(ConfigurationError):
            # A registry above the repository belongs to another repository.
            if root is None or self.registry_path.is_relative_to(root):
                return self.registry_path
        return (root or self.start) / REGISTRY_FILE

    @cached_property
    def repository(self) -> Path:
        """The root directory of the repository."""
        return repository_root(self.start) or (
            self.start if Settings.registry_path() else self.registry_place.parent
        )

    @cached_property
    def registry(self) -> Registry:
        """The registry, with the ports of the instance if there is one.

        Raises:
            HuleEduError: If the registry has errors, or no port can be leased.
        """
        stated = self.stated_registry
        if self.instance is None:
            return stated
        from huleedu_tasks.instances.leases import with_leased_ports

        return with_leased_ports(stated, self.instance, dry_run=self.dry_run)

    @cached_property
    def stated_registry(self) -> Registry:
        """The registry as its file states it; if there is no file, the result of discovery."""
        if self.registry_path.is_file():
            return load_registry(self.registry_path, self._published_ports)
        return self.discovered_registry()

    def _published_ports(self, files: Sequence[str], servers: Collection[str]) -> Mapping[str, int]:
        from huleedu_tasks.compose.published_ports import published_ports

        root = self.registry_path.parent
        environment = Settings.read(root, prefix=self.prefix).compose_environment()
        return published_ports(root, files, servers, environment)

    def discovered_registry(self) -> Registry:
        """Return the registry that `services.discover` would write.

        Raises:
            ConfigurationError: If discovery finds no service, or has open questions.
        """
        from huleedu_tasks.discovery.discover import discovered

        path = self.registry_path
        return asyncio.run(discovered(self.repository, path, Settings.read(path.parent)))

    @cached_property
    def prefix(self) -> str:
        """The prefix of the names of all settings."""
        if self.registry_path.is_file():
            return stated_prefix(self.registry_path)
        return self.stated_registry.prefix

    def own_words(self, text: str) -> str:
        """Return a message with the names of settings as they are set in this repository."""
        with suppress(ConfigurationError):
            if self._knows_registry and self.prefix != PREFIX:
                settings = self.unchecked_settings
                return _SETTING.sub(lambda found: settings.spelled(found[0]), text)
        return text

    def assignments(self, collection: str) -> str:
        """Return what a shell needs before a shown command, so that it runs in this environment.

        Args:
            collection: The first part of the command's name. Only commands of `prod` are for
                staging and production, and they for nothing else.

        Returns:
            The settings of the process environment that choose the databases, each followed by a
            space; an empty string if the command runs here without them.
        """
        # Without a registry, or with an unknown environment, no command uses a database.
        with suppress(ConfigurationError):
            if self._shown_settings.environment.is_disposable != (collection == "prod"):
                return self._assignments
        return ""

    @cached_property
    def _assignments(self) -> str:
        stated = self._shown_settings.stated_for_process(CHOOSES_DATABASES)
        return "".join(f"{name}={shlex.quote(value)} " for name, value in stated.items())

    @property
    def _shown_settings(self) -> Settings:
        """The settings, read without starting a discovery."""
        if self._knows_registry:
            return self.unchecked_settings
        return Settings.read(self.registry_place.parent)

    @cached_property
    def settings(self) -> Settings:
        """The settings, checked.

        Raises:
            ConfigurationError: If one is not valid.
        """
        return Settings.load(self.registry_path.parent, prefix=self.prefix)

    @cached_property
    def unchecked_settings(self) -> Settings:
        """The settings, not checked, for a command that reports their errors with others."""
        return Settings.read(self.registry_path.parent, prefix=self.prefix)

    @cached_property
    def provider(self) -> "Provider":
        """The source of development servers."""
        from huleedu_tasks.servers.choose import choose

        return choose(self.settings, self.registry, self.state, self.instance)

    @cached_property
    def instance(self) -> Instance | None:
        """The instance that this checkout has; None if it uses the main fleet.

        Raises:
            ConfigurationError: If a setting is not valid.
        """
        from huleedu_tasks.servers.choose import has_servers

        # In staging and production, the settings may be checked later, with other findings.
        if not self.unchecked_settings.environment.is_disposable:
            return None
        is_left = self.checkout_state != self.main_state and has_servers(self.checkout_state)
        earlier = self.checkout_state if is_left else None
        return find_instance(self.settings, self.main_state, earlier=earlier)

    @property
    def ignored_instance(self) -> str:
        """A sentence if HULEEDU_INSTANCE is set and has no effect; empty otherwise."""
        settings = self.unchecked_settings
        stated = settings.get(INSTANCE_SETTING)
        if stated in ("", NO_INSTANCE) or not (why := ignored_because(settings)):
            return ""
        return f"{INSTANCE_SETTING}={stated} is ignored: {why}."

    @property
    def state(self) -> Path:
        """The state directory, that of the instance if there is one."""
        return self.instance.directory if self.instance else self.checkout_state

    @cached_property
    def checkout_state(self) -> Path:
        """The state directory of this checkout without an instance."""
        return self._state_in(self.registry_path.parent)

    @cached_property
    def main_state(self) -> Path:
        """The state directory of the main fleet: that of the main worktree."""
        root = self.registry_path.parent
        worktree = linked_worktree(root)
        return self._state_in(worktree.in_main(root) if worktree else root)

    def _state_in(self, root: Path) -> Path:
        """Return the state directory for a checkout with the registry in a directory."""
        own = self.registry_path.parent
        stated = self.unchecked_settings.state_directory or self.stated_registry.state_directory
        if stated and stated.is_relative_to(own):
            stated = root / stated.relative_to(own)
        return state_directory(root, stated, prefix=self.prefix)

    def services(self, names: Sequence[str] | None) -> tuple[Service, ...]:
        """Return the named services, or all of them if none is named."""
        return self.registry.select(names or ())

    def services_here(self, names: Sequence[str] | None) -> tuple[Service, ...]:
        """Return the named services; if none is named, that of the working directory, or all."""
        here = [s for s in self.registry.services if self.start.is_relative_to(s.directory)]
        inside = [s for s in here if s.directory != self.registry.root]
        return tuple(inside) if not names and len(inside) == 1 else self.services(names)

    def development(self, services: Sequence[Service], **options: Any) -> "Development":
        """Return the flows over the development databases of services.

        Args:
            options: Further fields of `Development`.
        """
        from huleedu_tasks.db.development import Development

        return Development(
            settings=self.settings,
            provider=self.provider,
            registry=self.registry,
            services=tuple(services),
            state=self.state,
            instance=self.instance,
            **{"jobs": self.settings.jobs, **options},
        )

    def urls(self, services: tuple[Service, ...]) -> dict[str, ResolvedUrl]:
        """Return the URLs of services, by the services' names."""
        return resolve_all(services, self.settings)

    def redact(self, text: str) -> str:
        """Mask every known password in a string."""
        return self._redactor(text) if self._knows_registry else self._early_redactor(text)

    @cached_property
    def _early_redactor(self) -> Redactor:
        """Masks the passwords of the settings, before the registry is known."""
        with suppress(HuleEduError):
            return Redactor(Settings.read(self.registry_place.parent).secrets())
        return Redactor([])

    @property
    def _knows_registry(self) -> bool:
        """Whether the registry is loaded or a file; masking must not start a discovery."""
        with suppress(ConfigurationError):
            return "stated_registry" in self.__dict__ or self.registry_path.is_file()
        return True

    @cached_property
    def _redactor(self) -> Redactor:
        secrets: list[Secret] = []
        names = [str(self.start), URL_SCHEME]
        # A URL that cannot be resolved was not used.
        with suppress(HuleEduError):
            settings = self.unchecked_settings
            secrets += settings.secrets()
            names += settings.names()
            services = self.stated_registry.services
            names += [str(self.registry_path), *(n for s in services for n in s.names)]
            for one in (resolve, resolve_direct):
                resolved, _ = resolve_each(services, settings, one)
                secrets += [
                    s for resolved_url in resolved.values() for s in resolved_url.url.secrets
                ]
        return Redactor(secrets, names)
