"""Files of the state directory with answers that would take long to find out again."""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from huleedu_tasks.errors import ServerError
from huleedu_tasks.state_dir import make_directory, make_state_directory

DIRECTORY = "alembic"
_ONLY_THE_OWNER = 0o600


def read_cache(state: Path | None, name: str) -> dict[str, Any]:
    """Return a cached document; an empty one if it is missing or unreadable.

    Args:
        state: The state directory; None for no cache.
        name: The name of the file.
    """
    with suppress(OSError, ValueError):
        document = json.loads((state / DIRECTORY / name).read_bytes()) if state else {}
        if isinstance(document, dict):
            return document
    return {}


def write_cache(state: Path | None, name: str, document: dict[str, Any]) -> None:
    """Write a cached document. If that is not possible, the next command finds it out again.

    Args:
        state: The state directory; None for no cache.
        name: The name of the file.
        document: What `read_cache` returns later.
    """
    if state is None:
        return
    with suppress(OSError, ServerError):
        make_state_directory(state)
        path = make_directory(state / DIRECTORY) / name
        partial = path.with_name(f"{name}.{os.getpid()}")
        partial.touch(_ONLY_THE_OWNER)
        partial.write_text(json.dumps(document), encoding="utf-8")
        partial.rename(path)
