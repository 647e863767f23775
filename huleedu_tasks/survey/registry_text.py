"""A registry as text, written as people do."""

import json
from collections.abc import Mapping
from typing import Any

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
