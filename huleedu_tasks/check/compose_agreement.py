"""Compares the registry with the compose files."""

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches

from huleedu_tasks.check.agreement import action_required, handled
from huleedu_tasks.compose.configuration import INSTALL, Composition
from huleedu_tasks.compose.database_service import Container
from huleedu_tasks.compose.file_choice import default_files
from huleedu_tasks.compose.yaml_files import Unread
from huleedu_tasks.config.registry import Registry, Service
from huleedu_tasks.report import Level, Problem
from huleedu_tasks.repository import shown

WITHOUT = "HULEEDU_PROVIDER=embedded does not need it."


def compose_differences(
    service: Service, composition: Composition, *, user: str
) -> Iterator[Problem]:
    """Compare a service's registry entry with its container.

    Args:
        user: The user that the tasks log in as; empty string if HULEEDU_DB_USER is not set.
    """
    if unread := composition.unread_of(service.compose_service):
        yield _not_read(service, unread)
        return
    if not composition.containers:
        return
    container = composition.containers.get(service.compose_service)
    if container is None:
        yield _missing(service, composition)
        return
    yield from _ports(service, container)
    if user and container.user and container.user != user:
        yield action_required(
            f"the compose service {container.name!r} creates the user {container.user!r}, but the "
            f"tasks log in as {user!r}",
            "Use HULEEDU_DB_USER for both: POSTGRES_USER: ${HULEEDU_DB_USER}.",
        )
    yield from _data(service, container)
    if container.container_name:
        yield handled(
            "its compose service has a fixed 'container_name', so that only one checkout can run "
            "at a time",
            "Delete 'container_name'; Compose names the container after project and service.",
        )


def unregistered_servers(
    registry: Registry, composition: Composition, environment: Mapping[str, str]
) -> Iterator[Problem]:
    """Report servers that the registry does not use, and compose files that it must state."""
    if not composition.containers and not composition.unread:
        yield handled(
            "no compose file with a service was found",
            "No action needed for HULEEDU_PROVIDER=embedded or existing.",
            Level.INFO,
        )
        return
    usual = default_files(registry.root, environment)
    if not registry.compose_files and list(composition.files) != usual:
        files = ", ".join(f'"{shown(file, registry.root)}"' for file in composition.files)
        yield action_required(
            "the databases are in compose files that Compose does not load by default",
            f'State them in the registry: "compose_files": [{files}]. {WITHOUT}',
        )
    used = {service.compose_service for service in registry.services}
    for name in composition.databases:
        if name not in used:
            yield handled(
                f"the compose service {name!r} is a PostgreSQL server that no service uses",
                "No action needed, unless a service uses it: state it as 'compose_service'.",
                Level.INFO,
            )


def _not_read(service: Service, unread: Sequence[Unread]) -> Problem:
    parts = "; ".join(map(str, unread))
    return Problem(
        level=Level.WARNING,
        cause=f"the compose service {service.compose_service!r} was not compared: only Compose "
        f"reads {parts}",
        remedy=f"{INSTALL} {WITHOUT}",
        code="compose-not-read",
    )


def _missing(service: Service, composition: Composition) -> Problem:
    names: Sequence[str] = list(composition.databases)
    close = get_close_matches(service.compose_service, names, n=1) or names
    there = f" (found: {', '.join(close)})" if close else ", or add one"
    return action_required(
        f"the compose files have no service {service.compose_service!r}",
        f"State the right one as 'compose_service'{there}. {WITHOUT}",
    )


def _ports(service: Service, container: Container) -> Iterator[Problem]:
    if container.port is None and container.ports:
        yield handled(
            f"the port of the compose service {container.name!r} is not known: a variable in it "
            "is not set",
            "Set the variable, for example in .env.",
        )
    elif container.port is None:
        yield action_required(
            f"the compose service {container.name!r} does not publish the port of PostgreSQL",
            f'Publish it: ports: ["127.0.0.1:{service.port}:5432"]. {WITHOUT}',
        )
    elif container.port != service.port:
        yield action_required(
            f"the compose service {container.name!r} publishes port {container.port}, the registry "
            f"states {service.port}",
            "Correct one of them.",
        )


def _data(service: Service, container: Container) -> Iterator[Problem]:
    volume = container.data_volume
    if not volume:
        yield handled(
            f"the compose service {container.name!r} has no volume: its data is deleted with "
            "the container",
            f'Add one: volumes: ["{service.volume}:/var/lib/postgresql/data"].',
        )
    elif volume.startswith(("/", ".", "~")):
        yield handled(
            "the data of its compose service is in a directory, not in a volume",
            "`db.reset --volumes` does not remove a directory; a plain `db.reset` needs no volume.",
            Level.INFO,
        )
    elif volume != service.volume:
        yield handled(
            f"the compose service {container.name!r} has the volume {volume!r}, the registry "
            f"states {service.volume!r}",
            f'State "volume": "{volume}".',
        )
