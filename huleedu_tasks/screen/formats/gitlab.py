"""The code quality report of GitLab."""

import json

from huleedu_tasks.report import Level
from huleedu_tasks.screen.formats.contents import Contents

_SEVERITIES = {Level.ERROR: "major", Level.WARNING: "minor", Level.INFO: "info"}


def render_gitlab(contents: Contents) -> str:
    """Return a list with an object for each finding; GitLab demands a file and a line."""
    found = [
        {
            "description": f"{item.text} {item.remedy}".strip(),
            "check_name": item.code,
            "fingerprint": item.fingerprint,
            "severity": _SEVERITIES[item.level],
            "location": {
                "path": item.path or contents.fallback,
                "lines": {"begin": item.line or 1},
            },
        }
        for item in contents.items
    ]
    return json.dumps(found, indent=2) + "\n"
