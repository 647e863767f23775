"""Services, settings and databases of production, without any file or server."""

from pathlib import Path
from typing import Any

from huleedu_tasks.config.registry import Service
from huleedu_tasks.config.settings import Settings
from huleedu_tasks.config.urls import resolve
from huleedu_tasks.migrations.alembic_history import AlembicHistories
from huleedu_tasks.migrations.revisions import History, Revision
from huleedu_tasks.prod.target import Target

ROOT = Path("/monorepo")
HEAD = Revision(id="a1", parents=(), depends_on=(), message="", path=Path("a1.py"))


def service(name: str = "orders", **stated: Any) -> Service:
    """Return a service with defaults for the fields that are not passed."""
    directory = stated.get("directory", ROOT / f"services/{name}_service")
    conventional = {
        "name": name,
        "port": 5433,
        "directory": directory,
        "database": f"huleedu_{name}",
        "testing_database": f"{stated.get('database', f'huleedu_{name}')}_test",
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
        "unmanaged": (),
    }
    return Service(**{**conventional, **stated})


def settings(**variables: str) -> Settings:
    """Return settings that come from a process environment only."""
    return Settings(root=ROOT, process=variables, file={}, lines={})


def target(name: str = "orders") -> Target:
    """Return a database of production at `db.example.com`, whose only revision is `HEAD`."""
    url = "postgresql+asyncpg://u:p@db.example.com/orders?ssl=verify-full"
    own = service(name)
    return Target(
        service=own,
        resolved=resolve(own, settings(**{own.url_variable: url})),
        environment="production",
        variables="HULEEDU_PROD_DB",
        open_allowed=False,
        history=History(revisions={HEAD.id: HEAD}),
        histories=AlembicHistories(settings=settings(), state=None),
    )
