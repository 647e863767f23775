"""SARIF 2.1.0, for GitHub code scanning and editors."""

import json
from importlib.metadata import version
from urllib.parse import quote

from huleedu_tasks.report import Level
from huleedu_tasks.screen.formats.contents import Contents
from huleedu_tasks.screen.formats.items import Item

_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_LEVELS = {Level.ERROR: "error", Level.WARNING: "warning", Level.INFO: "note"}


def render_sarif(contents: Contents) -> str:
    """Return a log with one run, which has a rule for each code and a result for each finding."""
    first = {item.code: item for item in reversed(contents.items)}
    codes = list(dict.fromkeys(item.code for item in contents.items))
    driver = {
        "name": "huleedu-tasks",
        "version": version("huleedu-tasks"),
        "rules": [_rule(first[code]) for code in codes],
    }
    run = {
        "tool": {"driver": driver},
        # Keeps the results of two commands apart.
        "automationDetails": {"id": f"{contents.command}/"},
        "columnKind": "unicodeCodePoints",
        "results": [
            _result(item, contents.fallback) | {"ruleIndex": codes.index(item.code)}
            for item in contents.items
        ],
    }
    document = {"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}
    return json.dumps(document, indent=2) + "\n"


def _rule(item: Item) -> dict[str, object]:
    """Return what GitHub demands of the rule of a finding, of which it is the most severe one."""
    name = item.code.replace("-", " ").capitalize()
    return {
        "id": item.code,
        "shortDescription": {"text": name},
        "fullDescription": {"text": f"{name}."},
        "help": {"text": item.remedy or item.cause},
        "defaultConfiguration": {"level": _LEVELS[item.level]},
    }


def _result(item: Item, fallback: str) -> dict[str, object]:
    # GitHub shows no result without a file.
    place = {
        "artifactLocation": {"uri": quote(item.path or fallback), "uriBaseId": "%SRCROOT%"},
        "region": {"startLine": item.line or 1},
    }
    services = [{"name": service, "kind": "module"} for service in item.services]
    location = {"physicalLocation": place, **({"logicalLocations": services} if services else {})}
    message = "\n".join(filter(None, (item.text, item.statement, item.remedy)))
    return {
        "ruleId": item.code,
        "level": _LEVELS[item.level],
        "message": {"text": message},
        "locations": [location],
        "partialFingerprints": {"finding/v1": item.fingerprint},
    }
