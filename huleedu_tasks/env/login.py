"""The login that a developer's `.env` needs: that of the compose files, or a generated one."""

from collections.abc import Mapping
from dataclasses import dataclass

from huleedu_tasks.compose.configuration import read_composition
from huleedu_tasks.config.registry import Registry
from huleedu_tasks.config.settings import Settings
from huleedu_tasks.env.env_file import new_password, stated_in_example


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """The variables of the development login that are not set yet.

    Attributes:
        values: Their values, users first.
        passwords: The names of those that are passwords.
        is_generated: Whether a password was generated.
    """

    values: Mapping[str, str]
    passwords: frozenset[str]
    is_generated: bool

    @property
    def shown(self) -> str:
        """The lines without the passwords."""
        pairs = self.values.items()
        return ", ".join(f"{n}={'***' if n in self.passwords else value}" for n, value in pairs)


async def missing_login(registry: Registry, settings: Settings) -> Login:
    """Return what the development login still needs.

    A service whose URL is stated needs none. What a compose service states as a value is taken
    from there; of services that differ in it, from the first.
    """
    environment = settings.child_environment()
    composition = await read_composition(registry.root, registry.compose_files, environment)
    example = stated_in_example(registry.root)
    users: dict[str, str] = {}
    passwords: dict[str, str] = {}
    is_generated = False
    for service in registry.services:
        if settings.get(service.url_variable):
            continue
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
        values=users | passwords, passwords=frozenset(passwords), is_generated=is_generated
    )
