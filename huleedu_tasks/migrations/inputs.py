"""What an answer of a service's own code depends on, so that it can be remembered until it changes.

An answer depends on the files that were read, the folders that were listed, the libraries that are
installed, and the environment variables that were read. It is remembered with a digest of each.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from huleedu_tasks.migrations.runner import Used
from huleedu_tasks.migrations.worker import is_installed

# Their values are not written down, in no form; nor does a version table depend on them.
_SECRET = re.compile(r"PASS|PWD|SECRET|TOKEN|KEY|CREDENTIAL|DSN|UR[IL]", re.IGNORECASE)
# What differs from one shell to the next, and is no input of anything.
_OF_A_SHELL = frozenset({"COLUMNS", "LINES", "OLDPWD", "PWD", "SHLVL", "TERM", "_"})
FILE, LISTING, TIME, VARIABLE = "file", "listing", "time", "variable"
_MISSING = "missing"
Digests = Mapping[str, str]


def digests_of(used: Used, environment: Mapping[str, str]) -> Digests:
    """Return everything that was used, each with a digest of what it is now."""
    return {name: _digest_of(name, environment) for name in sorted(_names(used, environment))}


def is_unchanged(digests: Digests, environment: Mapping[str, str]) -> bool:
    """Whether everything is what it was when the digests were made."""
    return all(_digest_of(name, environment) == digest for name, digest in digests.items())


def _names(used: Used, environment: Mapping[str, str]) -> Iterator[str]:
    yield from (f"{FILE} {path}" for path in used.files if not is_installed(path))
    for folder in used.folders:
        # A library that is installed or removed changes its folder's own time.
        yield f"{TIME if is_installed(folder) else LISTING} {folder}"
    variables = {*used.variables, *(environment if used.all_variables else ())}
    for name in variables - _OF_A_SHELL:
        if not _SECRET.search(name):
            yield f"{VARIABLE} {name}"


def _digest_of(name: str, environment: Mapping[str, str]) -> str:
    kind, _, rest = name.partition(" ")
    if kind == VARIABLE:
        return _hash(environment.get(rest, _MISSING).encode(errors="surrogateescape"))
    path = Path(rest)
    try:
        if kind == LISTING:
            names = sorted(each.name for each in path.iterdir() if each.name != "__pycache__")
            return _hash("\n".join(names).encode(errors="surrogateescape"))
        return str(path.stat().st_mtime_ns) if kind == TIME else _hash(path.read_bytes())
    except OSError:
        return _MISSING


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
