"""The embedded servers of test runs, beside those of development.

They have free ports, so that the tests of two checkouts, whose registries state the same ports, run
at the same time. The last run that ends stops them.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from huleedu_tasks.config.registry import Service
from huleedu_tasks.ports import free_port, is_free
from huleedu_tasks.servers.embedded import EmbeddedServers
from huleedu_tasks.servers.protocol import EMBEDDED_DIRECTORY
from huleedu_tasks.state_dir import exclusive, make_directory, unwritable
from huleedu_tasks.testing.file_locks import SharedLock

_PORTS = "ports.json"
_PORTS_LOCK = "ports.lock"
_LOCK = "servers.lock"


class OwnServers:
    """The embedded servers of all test runs of a checkout.

    Args:
        directory: The directory of the test runs.
        provider: The provider of the development servers.
        services: All services of the registry.
    """

    def __init__(
        self, directory: Path, provider: EmbeddedServers, services: Sequence[Service]
    ) -> None:
        self.provider = replace(provider, directory=directory / EMBEDDED_DIRECTORY)
        self._directory = directory
        self._services = services
        self._lock = SharedLock(directory / _LOCK)

    def begin(self) -> tuple[Service, ...]:
        """Hold the servers, and return the services with the ports of their servers.

        A server keeps its port, which is an input of its templates, as long as that is free.

        Raises:
            ServerError: If a file cannot be written.
        """
        try:
            make_directory(self._directory)
            self._lock.acquire()
            with exclusive(self._directory / _PORTS_LOCK):
                ports = self._ports()
        except OSError as error:
            raise unwritable(self._directory, error) from error
        return tuple(replace(s, port=ports[s.compose_service]) for s in self._services)

    async def end(self, used: Sequence[Service]) -> None:
        """Release the servers, and stop them if no other test run uses them.

        Args:
            used: The services, as `begin` has returned them.
        """
        with exclusive(self._directory / _PORTS_LOCK):
            is_last = self._lock.leave()
        if is_last:
            servers = {service.compose_service: service for service in used}
            await asyncio.gather(*map(self.provider.stop, servers.values()))
            self._lock.release()

    def _ports(self) -> Mapping[str, int]:
        path = self._directory / _PORTS
        known: dict[str, int] = json.loads(path.read_text()) if path.exists() else {}
        ports = {
            service.compose_service: known[service.compose_service]
            for service in self._services
            if self._is_usable(service, known.get(service.compose_service))
        }
        for service in self._services:
            if service.compose_service not in ports:
                ports[service.compose_service] = free_port(but=ports.values())
        if ports != known:
            path.write_text(json.dumps(ports))
        return ports

    def _is_usable(self, service: Service, port: int | None) -> bool:
        """Whether a port is free, or is the one that the service's server has."""
        if port is None:
            return False
        return is_free(port) or self.provider.has_its_port(replace(service, port=port))
