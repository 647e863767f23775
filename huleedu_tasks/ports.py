"""Which process listens on a port, and which ports are free."""

import contextlib
import hashlib
import random
import socket
from collections.abc import Collection
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

# Below the ephemeral ports of all systems, which any client might use in the meantime.
_PORTS = range(20000, 32768)


def is_free(port: int) -> bool:
    """Whether no process listens on a TCP port of this machine's loopback address."""
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):
            tried.bind(("127.0.0.1", port))
            return True
    return False


def free_port(*, but: Collection[int]) -> int:
    """Return a random free port.

    Args:
        but: Ports that are not returned.
    """
    while True:
        port = random.choice(_PORTS)
        if port not in but and is_free(port):
            return port


def derived_ports(origin: str, count: int, *, but: Collection[int]) -> list[int]:
    """Return free ports that follow from a string, so that they are the same on another try.

    Args:
        origin: The string.
        count: How many ports.
        but: Ports that are not returned.
    """
    first = int.from_bytes(hashlib.sha256(origin.encode()).digest()[:8]) % len(_PORTS)
    candidates = (*_PORTS[first:], *_PORTS[:first])
    return list(islice((p for p in candidates if p not in but and is_free(p)), count))


def holder(port: int) -> str:
    """Describe the process that listens on a TCP port of this machine.

    Returns:
        Its pid, its name and, for a PostgreSQL server, its data directory; "a process that this
        account may not inspect" if the system does not tell.
    """
    import psutil

    unknown = "a process that this account may not inspect"
    try:
        connections = psutil.net_connections(kind="tcp")
    except psutil.Error:
        return unknown
    for connection in connections:
        address = connection.laddr
        if connection.status == psutil.CONN_LISTEN and address and address.port == port:
            if connection.pid is None:
                return unknown
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(connection.pid)
                return f"pid {connection.pid} ({process.name()}){_data_directory(process)}"
    return unknown


def _data_directory(process: "psutil.Process") -> str:
    """Return a PostgreSQL server's data directory as a clause; empty for any other process."""
    arguments = process.cmdline()
    if "postgres" not in process.name() or "-D" not in arguments[:-1]:
        return ""
    return f", with its data in {arguments[arguments.index('-D') + 1]}"
