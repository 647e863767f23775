"""Writes a monorepo of strangers, and returns its correct and minimal registry."""

import json
import os
import sys
import sysconfig
import venv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.support.monorepo import USER, Monorepo, empty_monorepo, free_ports
from tests.support.strangers import compose_files, sources
from tests.support.strangers.combinations import thirteen
from tests.support.strangers.env_py import OWN_LIBRARY
from tests.support.strangers.switches import COMMANDS, Driver, Repository, Stranger

# Of the thirteen services that `python -m tests.support.strangers` writes.
FIRST_PORT = 55401
ALEMBIC = """\
import sys
from alembic.config import main
if __name__ == "__main__":
    sys.argv[0] = sys.argv[0].removesuffix(".exe")
    sys.exit(main())
"""
# The first lines that pip and uv write if a path is too long or contains a space.
LAUNCHER = """\
#!/bin/sh
'''exec' "{python}" "$0" "$@"
' '''
"""
# Variables of other applications in `.env`.
FOREIGN_SETTINGS = """\
SECRET_KEY='a$b"c{d}'
GREETING="it's a \\"quoted\\" greeting"
PRICE='$5'
"""


@dataclass(frozen=True, kw_only=True)
class Strangers:
    """A monorepo of strangers in a directory."""

    repository: Repository
    monorepo: Monorepo

    def url(self, service: Stranger, database: str = "") -> str:
        """Return the URL of a database on a service's server, for asyncpg."""
        login = f"{USER}:{quote(self.repository.password, safe='')}"
        name = database or service.database
        return f"postgresql://{login}@localhost:{self.repository.port(service)}/{name}"


@contextmanager
def strangers(repository: Repository) -> Iterator[Strangers]:
    """Write a monorepo with its correct registry; stop its servers and delete it at the end."""
    repository = replace(repository, ports=tuple(free_ports(len(repository.services))))
    with empty_monorepo(repository.folder) as monorepo:
        write(repository, monorepo.root)
        monorepo.write(repository.registry, json.dumps(registry(repository), indent=2))
        if repository.registry_is_elsewhere:
            monorepo.environment["HULEEDU_REGISTRY"] = repository.registry
            # The tasks read the `.env` in the directory of the registry.
            folder = Path(repository.registry).parent
            monorepo.write(f"{folder}/.env", monorepo.read(".env"))
        # `uv` is in the directory of the interpreter.
        tools = str(Path(sys.executable).parent)
        monorepo.environment["PATH"] = os.pathsep.join([tools, os.environ["PATH"]])
        yield Strangers(repository=repository, monorepo=monorepo)


def thirteen_strangers(root: Path) -> Repository:
    """Write the thirteen strangers into a new directory, without a registry and `tasks.py`."""
    root.mkdir(parents=True)
    services = thirteen().services
    repository = replace(thirteen(), ports=tuple(FIRST_PORT + n for n in range(len(services))))
    write(repository, root.resolve())
    return repository


def write(repository: Repository, root: Path) -> None:
    """Write all files of a monorepo except its registry and `tasks.py`."""
    _write(root, {".env": _env_file(repository), **compose_files.files(repository)})
    for service in repository.services:
        folder = root / service.directory
        _write(folder, sources.files(service, repository))
        if service.has_own_interpreter:
            _make_environment(folder / ".venv")


def registry(repository: Repository) -> dict[str, Any]:
    """Return the registry with only the fields that convention does not give."""
    up = "../" * repository.registry.count("/")
    files = compose_files.stated(repository)
    return {
        **({"compose_files": [up + file for file in files]} if files else {}),
        "services": [_entry(repository, service, up) for service in repository.services],
    }


def _entry(repository: Repository, service: Stranger, up: str) -> dict[str, Any]:
    server = repository.compose_service(service)
    facts = {
        "directory": up + service.directory,
        "database": service.database,
        "url_variable": service.url_variable,
        "url_scheme": service.url_scheme,
        "alembic_config": service.alembic_file,
        "compose_service": server,
        "volume": repository.volume(service),
    }
    conventional = {
        "directory": f"services/{service.name}_service",
        "database": f"huleedu_{service.name}",
        "url_variable": f"{service.directory_name.upper().replace('-', '_')}_DATABASE_URL",
        "url_scheme": Driver.REGULAR.scheme,
        "alembic_config": "alembic.ini",
        "compose_service": f"{service.name}_db",
        "volume": f"{server}_data",
    }
    stated = {name: fact for name, fact in facts.items() if fact != conventional[name]}
    identity = {"name": service.name, "port": repository.port(service)}
    return {**identity, **stated, **COMMANDS[service.interpreter]}


def _write(folder: Path, texts: Mapping[str, str]) -> None:
    for relative, text in texts.items():
        path = folder / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def _env_file(repository: Repository) -> str:
    password = repository.password.replace("'", "\\'")
    return f"HULEEDU_DB_USER={USER}\nHULEEDU_DB_PASSWORD='{password}'\n{FOREIGN_SETTINGS}"


def _make_environment(folder: Path) -> None:
    """Create a virtual environment with the libraries of this one, and one more."""
    venv.create(folder, symlinks=os.name != "nt")
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "libraries.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    (packages / f"{OWN_LIBRARY}.py").write_text("")
    python, script = folder / "bin/python", folder / "bin/alembic"
    script.write_text(_first_line(python) + ALEMBIC, encoding="utf-8")
    script.chmod(0o755)


def _first_line(python: Path) -> str:
    return LAUNCHER.format(python=python) if " " in str(python) else f"#!{python}\n"
