"""Small monorepos for discovery, without Docker's command line."""

import asyncio
import re
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huleedu_tasks.discovery.discover import Found, read
from huleedu_tasks.discovery.proposals import Decisions
from huleedu_tasks.report import Discovery

INI = "[alembic]\nscript_location = alembic\n"
# What an asynchronous env.py imports, and nothing more.
ASYNC = "from sqlalchemy.ext.asyncio import create_async_engine\ncreate_async_engine(URL)\n"
SYNC = "from sqlalchemy import create_engine\ncreate_engine(URL)\n"


def write(root: Path, files: Mapping[str, str]) -> Path:
    """Write files into a directory."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")
    return root


def service(directory: str, config: str = "", *, env: str = ASYNC) -> dict[str, str]:
    """Return the files of a service whose settings are these."""
    return {
        f"{directory}/alembic.ini": INI,
        f"{directory}/alembic/env.py": env,
        **({f"{directory}/config.py": config} if config else {}),
    }


def server(name: str, port: int | None, database: str = "") -> str:
    """Return a PostgreSQL server of a compose file, with a volume of the usual name."""
    lines = [
        f"  {name}:",
        "    image: postgres:15",
        "    environment:",
        "      POSTGRES_PASSWORD: secret",
        *([f"      POSTGRES_DB: {database}"] if database else []),
        *([f'    ports: ["{port}:5432"]'] if port else []),
        f"    volumes: [{name}_data:/var/lib/postgresql/data]",
    ]
    return "\n".join(lines) + "\n"


def compose(*services: str) -> dict[str, str]:
    """Return a compose file of servers and applications."""
    text = "services:\n" + "".join(services)
    volumes = re.findall(r"\[([\w-]+_data):", text)
    return {"compose.yaml": text + "volumes:\n" + "".join(f"  {name}:\n" for name in volumes)}


def found(root: Path, registry: str = "services.json") -> Found:
    """Read the files of a monorepo as if Docker was not installed."""
    return asyncio.run(read(root, root / registry, {"PATH": ""}))


def discovered(root: Path, registry: str = "services.json") -> Discovery:
    """Return the registry that is discovered in a monorepo."""
    return found(root, registry).result(Decisions())


def entries(root: Path) -> dict[str, dict[str, Any]]:
    """Return the discovered entries by name."""
    services: Any = discovered(root).document["services"]
    return {entry["name"]: entry for entry in services}
