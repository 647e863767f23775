"""A description of the machine, and the versions of the programs."""

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil

from benchmarks.containers import said_by

LIBRARIES = {"Alembic": "alembic", "SQLAlchemy": "sqlalchemy", "asyncpg": "asyncpg"}
COMMIT = ("git", "describe", "--always", "--dirty")


def machine(directory: Path) -> dict[str, str]:
    """Return the machine and the versions, each with its label.

    Args:
        directory: Where the state of the embedded servers lies.
    """
    docker = ("docker", "version", "--format", "{{.Server.Version}}")
    storage = ("docker", "info", "--format", "{{.Driver}}")
    return {
        "processor": f"{_processor()}, {_cores()} cores",
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "system": f"{platform.system()} {platform.release()}",
        "state directory": _filesystem(directory),
        **load("load at the start"),
        "huleedu-tasks": f"{version('huleedu-tasks')} ({said_by(*COMMIT) or 'no commit'})",
        "Python": platform.python_version(),
        **{label: version(name) for label, name in LIBRARIES.items()},
        "Docker": f"{said_by(*docker) or 'none'} {said_by(*storage)}".strip(),
        "Compose": said_by("docker", "compose", "version", "--short") or "none",
    }


def load(label: str) -> dict[str, str]:
    """Return the load average of the last minute, with its label."""
    return {label: f"{os.getloadavg()[0]:.2f}"}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def _filesystem(directory: Path) -> str:
    """Return the type of a directory's file system."""
    partitions = {Path(p.mountpoint): p for p in psutil.disk_partitions(all=True)}
    found = next(
        (partitions[path] for path in (directory, *directory.parents) if path in partitions), None
    )
    return f"{found.fstype}, mounted at {found.mountpoint}" if found else "unknown"
