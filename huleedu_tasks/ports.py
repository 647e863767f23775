"""Which process listens on a port."""

import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil


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
