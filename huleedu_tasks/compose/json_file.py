"""JSON files of caches: a lost or damaged one is an empty cache."""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any


def read_document(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file; empty if the file has none or cannot be read."""
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def write_document(path: Path, document: Mapping[str, object]) -> None:
    """Write a JSON file atomically; if it cannot be written, nothing is stored."""
    partial = path.with_suffix(".partial")
    with suppress(OSError):
        partial.write_text(json.dumps(document), encoding="utf-8")
        partial.replace(path)
