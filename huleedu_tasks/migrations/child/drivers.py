"""The drivers for PostgreSQL that a service's code may connect with.

Loaded by its path in a child process, like `worker.py` beside it: the interpreter may be the
service's own, and older than ours.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

DRIVERS = ("asyncpg", "psycopg", "psycopg2", "pg8000")
# Drivers that read PGPASSWORD if no password is passed.
READING_PGPASSWORD = ("asyncpg", "psycopg", "psycopg2")


def replace_connect(driver: ModuleType, connect: Callable[..., Any]) -> None:
    """Replace every function by which a driver connects."""
    holders = [driver, *(getattr(driver, name, None) for name in ("Connection", "AsyncConnection"))]
    for holder in holders:
        for name in ("connect", "create_pool"):
            if hasattr(holder, name):
                setattr(holder, name, connect)
