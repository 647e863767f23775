"""Services and settings without any file."""

from pathlib import Path
from typing import Any

from huleedu_tasks.config.registry import Service
from huleedu_tasks.config.settings import Settings

ROOT = Path("/monorepo")


def service(name: str = "orders", **stated: Any) -> Service:
    """Return a service with defaults for the fields that are not passed."""
    directory = stated.get("directory", ROOT / f"services/{name}_service")
    conventional = {
        "name": name,
        "port": 5433,
        "directory": directory,
        "database": f"huleedu_{name}",
        "url_variable": f"{directory.name.upper()}_DATABASE_URL",
        "alembic_url_variable": stated.get(
            "url_variable", f"{directory.name.upper()}_DATABASE_URL"
        ),
        "url_scheme": "postgresql+asyncpg",
        "alembic_config": directory / "alembic.ini",
        "user_variable": "HULEEDU_DB_USER",
        "password_variable": "HULEEDU_DB_PASSWORD",
        "alembic_section": "alembic",
        "alembic_x_arguments": (),
        "alembic_engine": "",
        "flask_app": "",
        "python": (),
        "environment": {},
        "lock_timeout": None,
        "statement_timeout": None,
        "compose_service": f"{name}_db",
        "volume": f"{name}_db_data",
        "extensions": (),
        "seeds": (),
        "seed_after": (),
        "inputs": (),
        "shared_database": False,
        "migrate_after": (),
    }
    return Service(**{**conventional, **stated})


def settings(**variables: str) -> Settings:
    """Return settings that come from a process environment only."""
    return Settings(root=ROOT, process=variables, file={}, lines={})
