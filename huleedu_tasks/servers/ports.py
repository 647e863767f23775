"""Who listens on a port."""

import contextlib


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
                return f"pid {found.pid} ({psutil.Process(found.pid).name()})"
    return unknown
