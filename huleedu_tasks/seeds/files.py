"""The files of a service's seeds, and their fingerprint."""

import hashlib
from pathlib import Path

from huleedu_tasks.config.registry import Service


def fingerprint(service: Service) -> str:
    """Return the fingerprint of a service's seeds; empty string if it has none."""
    if not service.seeds:
        return ""
    digest = hashlib.sha256()
    for path in seed_files(service):
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:16]


def seed_files(service: Service) -> list[Path]:
    """Return a service's seeds, and the modules beside them that are not seeds themselves."""
    directories = {path.parent for path in service.seeds if path.suffix == ".py"}
    modules = {path for directory in directories for path in directory.glob("*.py")}
    shared = {path for path in modules if not path.name.startswith("seed_")}
    return [*service.seeds, *sorted(shared - set(service.seeds))]
