"""Who listens on a port."""

import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil


def holder(port: int) -> str:
    """Say which process listens on a port, as far as the system tells us."""
    import psutil

    unknown = "a process the system does not let us see"
    try:
        connections = psutil.net_connections(kind="tcp")
    except psutil.Error:
        return unknown
    for found in connections:
        if found.status == psutil.CONN_LISTEN and found.laddr and found.laddr.port == port:
            if found.pid is None:
                return unknown
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(found.pid)
                return f"pid {found.pid} ({process.name()}){_data_of(process)}"
    return unknown


def _data_of(process: "psutil.Process") -> str:
    """Say where a PostgreSQL server has its data; empty for any other process."""
    words = process.cmdline()
    if "postgres" not in process.name() or "-D" not in words[:-1]:
        return ""
    return f", with its data in {words[words.index('-D') + 1]}"
