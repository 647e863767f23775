"""The login that a developer's `.env` needs: that of the compose files, or a generated one."""

from collections.abc import Mapping
from dataclasses import dataclass

from huleedu_tasks.compose.file_choice import read_composition
from huleedu_tasks.compose.yaml_files import Unread
from huleedu_tasks.config.registry import Registry
from huleedu_tasks.config.settings import Settings
from huleedu_tasks.env.init import new_password, stated_in_example


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """The variables of the development login that are not set yet.

    Attributes:
        values: Their values, users first.
        passwords: The names of the variables that are passwords.
        is_generated: Whether a password was generated.
        unread: The parts of the compose files that may state a login and were not read.
    """

    values: Mapping[str, str]
    passwords: frozenset[str]
    is_generated: bool
    unread: tuple[Unread, ...]

    @property
    def shown(self) -> str:
        """The variables as NAME=value, with `***` for each password."""
        pairs = self.values.items()
        return ", ".join(
            f"{name}={'***' if name in self.passwords else value}" for name, value in pairs
        )


async def missing_login(registry: Registry, settings: Settings) -> Login:
    """Return the login variables that are not set.

    A service with an override variable needs none. User and password come from its compose
    service; if compose services differ, from the first. A password that no compose service states
    is generated.

    Raises:
        ConfigurationError: If a compose file that the registry names cannot be read.
    """
    environment = settings.compose_environment()
    composition = await read_composition(registry.root, registry.compose_files, environment)
    example = stated_in_example(registry.root)
    users: dict[str, str] = {}
    passwords: dict[str, str] = {}
    is_generated = False
    unread: dict[Unread, None] = {}
    for service in registry.services:
        if settings.get(service.url_variable):
            continue
        unread |= dict.fromkeys(composition.unread_of(service.compose_service))
        container = composition.containers.get(service.compose_service)
        user, password = container.login if container else ("", "")
        name = settings.own_name(service.user_variable)
        if not settings.get(service.user_variable):
            usual = f"{settings.prefix.lower()}_user"
            users.setdefault(name, user or example.get(name, "") or usual)
        name = settings.own_name(service.password_variable)
        if not settings.get(service.password_variable) and name not in passwords:
            is_generated = is_generated or not password
            passwords[name] = password or new_password()
    return Login(
        values=users | passwords,
        passwords=frozenset(passwords),
        is_generated=is_generated,
        unread=tuple(unread),
    )
