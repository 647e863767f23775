"""The ports of each instance, in a file that holds them while its servers are stopped.

The leases of all instances of a repository lie side by side, and are changed under one lock. Thus
two worktrees that start at the same moment cannot get the same port.
"""

import json
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from huleedu_tasks.config import worktree
from huleedu_tasks.config.registry import Registry
from huleedu_tasks.errors import ServerError
from huleedu_tasks.instances.instance import INSTANCES_DIRECTORY, LEASE_FILE, Instance
from huleedu_tasks.ports import derived_ports
from huleedu_tasks.state_dir import exclusive, make_directory, make_state_directory, unwritable

_LOCK = "leases.lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """An instance as its lease states it, which may have lost its checkout.

    Attributes:
        directory: Its state directory.
        checkout: The directory of the registry that it belongs to.
        git_directory: As of `Instance`; an empty string if there is none.
        project: The name of its compose project.
        ports: The port of each server, by its compose service.
        created: When it was created, in seconds since the epoch.
    """

    directory: Path
    name: str
    checkout: str
    git_directory: str
    project: str
    ports: Mapping[str, int]
    created: float

    @property
    def has_checkout(self) -> bool:
        """Whether its checkout exists, or is a worktree that Git keeps.

        Both paths count: Git may move the worktree, and a user the repository.
        """
        if Path(self.checkout).is_dir():
            return True
        if not self.git_directory:
            return False
        own = Path(self.git_directory)
        # A repository that was moved has it elsewhere, usually beside the state directory.
        beside = (parent / ".git/worktrees" / own.name for parent in self.directory.parents)
        return any(map(worktree.exists, (own, *beside)))

    @property
    def place(self) -> str:
        """Its checkout; the worktree's directory if Git has moved it."""
        if self.git_directory and not Path(self.checkout).is_dir():
            return str(worktree.location(Path(self.git_directory)) or self.checkout)
        return self.checkout


def with_leased_ports(registry: Registry, instance: Instance, *, dry_run: bool) -> Registry:
    """Return a registry with the ports of an instance.

    Servers without a port get one, which is derived from the instance and free.

    Args:
        dry_run: Whether nothing is written.

    Raises:
        ServerError: If the lease cannot be read or written.
    """
    servers = list(dict.fromkeys(service.compose_service for service in registry.services))
    lease = _read(instance.directory)
    if lease is None or not lease.ports.keys() >= {*servers}:
        lease = _leased(registry, instance, servers, dry_run=dry_run)
    services = [
        replace(service, port=lease.ports[service.compose_service]) for service in registry.services
    ]
    return replace(registry, services=tuple(services))


def renew(registry: Registry, instance: Instance) -> Lease:
    """Give an instance other ports, which its servers use from their next start on.

    Args:
        registry: The registry, with its own ports.

    Raises:
        ServerError: If the lease cannot be read or written.
    """
    with lock(instance.home):
        found = _read(instance.directory) or _new(instance)
        servers = [service.compose_service for service in registry.services]
        taken = _taken(registry, instance)
        lease = replace(found, ports=_ports(instance, servers, {*taken, *found.ports.values()}))
        _write(lease)
    return lease


def leases(home: Path) -> list[Lease]:
    """Return the leases of all instances of a repository, oldest first.

    Args:
        home: The state directory of the main fleet.

    Raises:
        ServerError: If one cannot be read.
    """
    directories = (home / INSTANCES_DIRECTORY).glob(f"*/{LEASE_FILE}")
    found = (_read(path.parent) for path in directories)
    return sorted(filter(None, found), key=lambda lease: lease.created)


@contextmanager
def lock(home: Path) -> Iterator[None]:
    """Hold the lock of all leases of a repository for a `with` block.

    Args:
        home: The state directory of the main fleet.

    Raises:
        ServerError: If it cannot be written.
    """
    make_state_directory(home)
    directory = home / INSTANCES_DIRECTORY
    try:
        make_directory(directory)
        with exclusive(directory / _LOCK):
            yield
    except OSError as error:
        raise unwritable(directory, error) from error


def _leased(
    registry: Registry, instance: Instance, servers: Sequence[str], *, dry_run: bool
) -> Lease:
    if dry_run:
        return _extended(registry, instance, servers)
    with lock(instance.home):
        lease = _extended(registry, instance, servers)
        _write(lease)
    return lease


def _extended(registry: Registry, instance: Instance, servers: Sequence[str]) -> Lease:
    """Return the lease of an instance, with a port for each of its servers."""
    lease = _read(instance.directory) or _new(instance)
    missing = [server for server in servers if server not in lease.ports]
    taken = {*_taken(registry, instance), *lease.ports.values()}
    return replace(lease, ports={**lease.ports, **_ports(instance, missing, taken)})


def _new(instance: Instance) -> Lease:
    return Lease(
        directory=instance.directory,
        name=instance.name,
        checkout=str(instance.checkout),
        git_directory=str(instance.git_directory or ""),
        project=instance.project,
        ports={},
        created=time.time(),
    )


def _taken(registry: Registry, instance: Instance) -> set[int]:
    """Return the ports of the main fleet and of the other instances."""
    others = [lease for lease in leases(instance.home) if lease.directory != instance.directory]
    leased = {port for lease in others for port in lease.ports.values()}
    return leased | {service.port for service in registry.services}


def _ports(instance: Instance, servers: Sequence[str], taken: Collection[int]) -> dict[str, int]:
    names = list(dict.fromkeys(servers))
    origin = f"{instance.home} {instance.key}"
    return dict(zip(names, derived_ports(origin, len(names), but=taken), strict=True))


def _read(directory: Path) -> Lease | None:
    """Return the lease in a state directory; None if there is none."""
    path = directory / LEASE_FILE
    try:
        stated: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        ports = {str(name): int(port) for name, port in stated.pop("ports").items()}
        return Lease(directory=directory, ports=ports, **stated)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ServerError(
            f"The lease {path} could not be read: {error}",
            code="lease-unreadable",
            hint="Make it readable, or remove it: the next command in its checkout writes another.",
        ) from error


def _write(lease: Lease) -> None:
    stated = {key: value for key, value in asdict(lease).items() if key != "directory"}
    path = make_directory(lease.directory) / LEASE_FILE
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(stated, indent=2), encoding="utf-8")
    # A reader without the lock sees the old lease or the new one.
    partial.replace(path)
