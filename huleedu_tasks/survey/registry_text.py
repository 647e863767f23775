"""A registry as text, written as people do, and whether it would be accepted."""

import json
from collections.abc import Mapping
from typing import Any

from huleedu_tasks.config.registry import REGISTRY_FILE, load_registry
from huleedu_tasks.errors import ConfigurationError, Finding
from huleedu_tasks.process import scratch_folder

# A longer entry has a line for each field.
LINE = 100


def registry_text(document: Mapping[str, Any]) -> str:
    """Return the text of a registry; an entry that fits stands in one line."""
    lines = [
        f"  {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)},"
        for key, value in document.items()
        if key != "services"
    ]
    services = ",\n".join(_entry_text(entry) for entry in document["services"])
    return "\n".join(["{", *lines, f'  "services": [\n{services}\n  ]', "}", ""])


def _entry_text(entry: Mapping[str, Any]) -> str:
    pairs = [f"{json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}" for k, v in entry.items()]
    line = f"    {{ {', '.join(pairs)} }}"
    if len(line) <= LINE:
        return line
    inner = ",\n".join(f"      {pair}" for pair in pairs)
    return f"    {{\n{inner}\n    }}"


def contradictions(document: Mapping[str, Any]) -> tuple[Finding, ...]:
    """Return what would have every command refuse a registry."""
    with scratch_folder() as folder:
        path = folder / REGISTRY_FILE
        path.write_text(registry_text(document), encoding="utf-8")
        try:
            load_registry(path)
        except ConfigurationError as error:
            return error.findings
    return ()
