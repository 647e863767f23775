"""Layouts of repositories, modelled on public ones without copying their code.

A layout is a function that writes files into an empty repository. It returns the fields that the
user must write into `services.json`, because discovery cannot detect them:
`{service: {field: value}}`.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.support.repositories import write

ByHand = Mapping[str, Mapping[str, Any]]
Layout = Callable[[Path, int], ByHand]

LOGIN = ("dev", "dev-pw")
INI = "[alembic]\nscript_location = %(here)s/alembic\nprepend_sys_path = .\npath_separator = os\n"
REVISION = """\
from alembic import op
import sqlalchemy as sa

revision = "{id}"
down_revision = None


def upgrade():
    op.create_table("{table}", sa.Column("id", sa.Integer, primary_key=True))


def downgrade():
    op.drop_table("{table}")
"""
ASYNC = """\
import asyncio
import os

from alembic import context
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

{before}


def work(connection):
    {first}
    context.configure(connection=connection{options})
    with context.begin_transaction():
        context.run_migrations()


async def main():
    engine = create_async_engine({url})
    async with engine.connect() as connection:
        await connection.run_sync(work)
        await connection.commit()
    await engine.dispose()


asyncio.run(main())
"""
SYNC = """\
import os

from alembic import context
from sqlalchemy import create_engine

{before}

with create_engine({url}).connect() as connection:
    context.configure(connection=connection{options})
    with context.begin_transaction():
        context.run_migrations()
"""
# A shortened version of the file that `alembic init` writes.
FROM_INI = """\
from alembic import context
from sqlalchemy import engine_from_config, pool

engine = engine_from_config(
    context.config.get_section(context.config.config_ini_section),
    prefix="sqlalchemy.",
    poolclass=pool.NullPool,
)
with engine.connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
"""
SETTINGS = """\
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    {fields}
    model_config = SettingsConfigDict(env_file="{env_file}", extra="ignore")


settings = Settings()
"""


def env_py(
    url: str, *, before: str = "", template: str = ASYNC, first: str = "pass", options: str = ""
) -> str:
    """Return an `env.py` that connects to a URL, which is a Python expression."""
    return template.format(url=url, before=before, first=first, options=options)


def history(directory: str, env: str, table: str = "thing", *, ini: str = INI) -> dict[str, str]:
    """Return the files of a history of one revision."""
    return {
        f"{directory}/alembic.ini": ini,
        f"{directory}/alembic/env.py": env,
        f"{directory}/alembic/versions/{table}_1.py": REVISION.format(id=f"{table}1", table=table),
    }


def compose(
    port: int | None, more: str = "", *, login: tuple[str, str] = LOGIN, database: str = "app"
) -> str:
    """Return a compose file with a server, and other services."""
    user, password = login
    published = f'    ports: ["127.0.0.1:{port}:5432"]\n' if port else ""
    return (
        "services:\n  db:\n    image: postgres:15\n    environment:\n"
        f"      POSTGRES_USER: {user}\n      POSTGRES_PASSWORD: {password}\n"
        f"      POSTGRES_DB: {database}\n{published}"
        "    volumes: [data:/var/lib/postgresql/data]\n"
        f"{more}volumes:\n  data:\n"
    )


def one_url(root: Path, port: int) -> ByHand:
    """One FastAPI service whose settings read DATABASE_URL from `.env`."""
    settings = SETTINGS.format(fields="DATABASE_URL: str", env_file=".env")
    env = env_py("settings.DATABASE_URL", before="from app.config import settings")
    write(root, history(".", env))
    write(root, {"app/__init__.py": "", "app/config.py": settings})
    write(root, {".env": f"DATABASE_URL=postgresql+asyncpg://dev:dev-pw@localhost:{port}/app\n"})
    write(root, {"docker-compose.yml": compose(port)})
    return {}


def url_for_containers(root: Path, port: int) -> ByHand:
    """One FastAPI service with a URL in `.env` whose host is the compose service."""
    one_url(root, port)
    write(root, {".env": "DATABASE_URL=postgresql+asyncpg://dev:dev-pw@db:5432/app\n"})
    return {}


def parts(root: Path, port: int) -> ByHand:
    """The most used FastAPI template: parts of the URL, a root `.env`, a directory `backend`."""
    fields = "\n    ".join(
        f"POSTGRES_{name}: {kind}"
        for name, kind in (
            ("SERVER", "str"),
            ("PORT", "int = 5432"),
            ("USER", "str"),
            ("PASSWORD", "str"),
            ("DB", "str"),
        )
    )
    settings = SETTINGS.format(fields=fields, env_file="../.env")
    url = (
        'f"postgresql+psycopg://{s.POSTGRES_USER}:{s.POSTGRES_PASSWORD}@{s.POSTGRES_SERVER}:'
        '{s.POSTGRES_PORT}/{s.POSTGRES_DB}"'
    )
    env = env_py(url, before="from app.core.config import settings as s", template=SYNC)
    write(root, history("backend", env))
    write(root, {f"backend/{name}/__init__.py": "" for name in ("app", "app/core")})
    write(root, {"backend/app/core/config.py": settings, "docker-compose.yml": compose(port)})
    lines = ("SERVER=localhost", "PORT=5432", "USER=dev", "PASSWORD=dev-pw", "DB=app")
    write(root, {".env": "".join(f"POSTGRES_{line}\n" for line in lines)})
    return {}


def shared_server(root: Path, port: int) -> ByHand:
    """Two services on one server, whose init script creates their databases."""
    for name in ("orders", "billing"):
        write(root, history(f"services/{name}", env_py(f'os.environ["{name.upper()}_DB_URL"]')))
    applications = "".join(
        f"  {name}:\n    build: ./services/{name}\n    environment:\n"
        f"      {name.upper()}_DB_URL: postgresql+asyncpg://dev:dev-pw@db/{name}\n"
        for name in ("orders", "billing")
    )
    write(root, {"docker-compose.yml": compose(port, applications, database="start")})
    write(root, {"init/01.sql": "CREATE DATABASE orders;\nCREATE DATABASE billing;\n"})
    return {}


def same_variable(root: Path, port: int) -> ByHand:
    """Two services that both read DATABASE_URL, on one server that publishes no port."""
    for name in ("users", "posts"):
        env = env_py('os.environ["DATABASE_URL"]')
        write(root, history(f"apps/{name}", env))
    applications = "".join(
        f"  {name}:\n    build: ./apps/{name}\n    environment:\n"
        f"      DATABASE_URL: postgresql+asyncpg://dev:dev-pw@db/{name}\n"
        for name in ("users", "posts")
    )
    write(root, {"compose.yaml": compose(None, applications)})
    return {name: {"port": port} for name in ("users", "posts")}


def sections(root: Path, port: int) -> ByHand:
    """One `alembic.ini` with a section for each of two databases."""
    lines = (f"[{name}]\nscript_location = %(here)s/db/{name}\n" for name in ("core", "audit"))
    write(root, {"backend/alembic.ini": "[DEFAULT]\npath_separator = os\n" + "\n".join(lines)})
    for name in ("core", "audit"):
        write(
            root,
            {
                f"backend/db/{name}/env.py": env_py(f'os.environ["{name.upper()}_URL"]'),
                f"backend/db/{name}/versions/a1.py": REVISION.format(id="a1", table=name),
            },
        )
    more = "".join(
        f"  {name}_app:\n    build: ./backend\n    environment:\n"
        f"      {name.upper()}_URL: postgresql+asyncpg://dev:dev-pw@db/{name}\n"
        for name in ("core", "audit")
    )
    write(root, {"compose.yaml": compose(port, more)})
    # The directory is the same, so that it does not identify the service of a container.
    return {
        name: {"port": port, "compose_service": "db", "database": name}
        for name in ("core", "audit")
    }


def x_argument(root: Path, port: int) -> ByHand:
    """An `env.py` that keeps its tables and its version table in the schema of `alembic -x`."""
    env = env_py(
        'os.environ["SHOP_DATABASE_URL"]',
        before='SCHEMA = context.get_x_argument(as_dictionary=True)["schema"]',
        first='connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))',
        options=", version_table_schema=SCHEMA",
    )
    write(root, history("shop", env))
    write(root, {"compose.yaml": compose(port, database="shop")})
    return {"shop": {"alembic_x_arguments": ["schema=shop"]}}


def workspace(root: Path, port: int) -> ByHand:
    """A src layout: the service's settings come from a package elsewhere in the repository."""
    env = env_py("database_url()", before="from common.database import database_url")
    write(root, history("services/ledger", env))
    shared = 'import os\n\n\ndef database_url():\n    return os.environ["LEDGER_DATABASE_URL"]\n'
    write(root, {"libs/common/src/common/__init__.py": ""})
    write(root, {"libs/common/src/common/database.py": shared})
    write(root, {"compose.yaml": compose(port, database="ledger")})
    return {}


def without_compose(root: Path, port: int) -> ByHand:
    """A service for Kubernetes: no compose file has a server."""
    write(root, history("catalog", env_py('os.environ["CATALOG_DATABASE_URL"]')))
    write(root, {"k8s/deployment.yaml": "kind: Deployment\n"})
    return {"catalog": {"port": port}}


def one_word(root: Path, port: int) -> ByHand:
    """The database, its user and the password are all called `postgres`."""
    env = env_py('os.environ["DATABASE_URL"]')
    write(root, history(".", env))
    url = f"postgresql+asyncpg://postgres:postgres@localhost:{port}/postgres"
    write(root, {".env": f"DATABASE_URL={url}\n"})
    login = ("postgres", "postgres")
    write(root, {"docker-compose.yml": compose(port, login=login, database="postgres")})
    return {}


def from_ini(root: Path, port: int) -> ByHand:
    """Only `alembic init`: the URL is in `alembic.ini`."""
    ini = f"{INI}sqlalchemy.url = postgresql+psycopg2://dev:dev-pw@localhost:{port}/app\n"
    write(root, history(".", FROM_INI, ini=ini))
    write(root, {"docker-compose.yml": compose(port)})
    return {}


def two_configurations(root: Path, port: int) -> ByHand:
    """Two configuration files in one directory, with separate script directories."""
    write(root, history("notes", env_py('os.environ["NOTES_DATABASE_URL"]'), "note"))
    write(root, {"notes/alembic_audit.ini": "[alembic]\nscript_location = %(here)s/audit\n"})
    write(
        root,
        {
            "notes/audit/env.py": env_py('os.environ["AUDIT_DATABASE_URL"]'),
            "notes/audit/versions/b1.py": REVISION.format(id="b1", table="entry"),
        },
    )
    applications = "".join(
        f"  {name}_app:\n    image: app\n    environment:\n"
        f"      {name.upper()}_DATABASE_URL: postgresql+asyncpg://dev:dev-pw@db/{name}\n"
        for name in ("notes", "audit")
    )
    write(root, {"compose.yaml": compose(port, applications)})
    return {
        name: {"port": port, "compose_service": "db", "database": name}
        for name in ("notes", "audit")
    }


def in_pyproject(root: Path, port: int) -> ByHand:
    """Alembic configured in `pyproject.toml`, in the root of the repository."""
    write(root, history(".", env_py('os.environ["NEWS_DATABASE_URL"]')))
    (root / "alembic.ini").unlink()
    toml = '[tool.alembic]\nscript_location = "%(here)s/alembic"\nprepend_sys_path = ["."]\n'
    write(root, {"pyproject.toml": toml, "compose.yaml": compose(port, database="news")})
    return {}


def same_package(root: Path, port: int) -> ByHand:
    """Services with a package `src`, which take parts of the URL from a library in the root.

    The containers get both directories as one; here each is a directory of PYTHONPATH.
    """
    fields = "\n    ".join(f"POSTGRES_{name}: str" for name in ("SERVER", "USER", "PASSWORD", "DB"))
    settings = SETTINGS.format(fields=f"{fields}\n    POSTGRES_PORT: int = 5432", env_file=".env")
    url = (
        'f"postgresql+asyncpg://{s.POSTGRES_USER}:{s.POSTGRES_PASSWORD}@{s.POSTGRES_SERVER}:'
        '{s.POSTGRES_PORT}/{s.POSTGRES_DB}"'
    )
    write(root, {f"libs/shared/{name}": "" for name in ("__init__.py",)})
    write(root, {"libs/shared/config.py": settings})
    for name in ("auth", "users"):
        before = "from src.models import OWNER\nfrom libs.shared.config import settings as s"
        before += f'\nassert OWNER == "{name}"'
        directory = f"services/{name}"
        write(root, history(directory, env_py(url, before=before), name))
        write(
            root,
            {f"{directory}/src/__init__.py": "", f"{directory}/src/models.py": f'OWNER = "{name}"'},
        )
        ini = "[alembic]\nscript_location = alembic\n"
        write(root, {f"{directory}/alembic.ini": ini})
    applications = "".join(
        f"  {name}:\n    build: ./services/{name}\n    env_file: .env\n    environment:\n"
        f"      POSTGRES_DB: {name}\n"
        for name in ("auth", "users")
    )
    write(root, {"compose.yaml": compose(port, applications, database="start")})
    lines = ("SERVER=db", "PORT=5432", "USER=dev", "PASSWORD=dev-pw", "DB=start")
    write(root, {".env": "".join(f"POSTGRES_{line}\n" for line in lines)})
    return {}


def uv_workspace(root: Path, port: int) -> ByHand:
    """Packages in src directories, a compose file that includes others, another for developers."""
    names = ("stock", "event")
    url = "postgresql+asyncpg://${DB_USER:-dev}:${DB_PASSWORD:-dev-pw}@db:5432/acme_"
    given = (
        'URL = os.environ.get("DATABASE_URL") or context.config.get_main_option("sqlalchemy.url")'
    )
    for name in names:
        before = f"from {name}.models import TABLE\nfrom shared.models import BASE\n{given}"
        directory = f"services/{name}"
        ini = "[alembic]\nscript_location = alembic\n"
        ini += f"sqlalchemy.url = postgresql+asyncpg://dev:dev-pw@db:5432/acme_{name}\n"
        write(root, history(directory, env_py("URL", before=before), name, ini=ini))
        write(root, {f"{directory}/src/{name}/__init__.py": ""})
        write(root, {f"{directory}/src/{name}/models.py": f'TABLE = "{name}"\n'})
        container = f"  {name}:\n    build: .\n    environment:\n      DATABASE_URL: {url}{name}\n"
        write(root, {f"{directory}/docker-compose.yml": f"services:\n{container}"})
    write(root, {"shared/src/shared/__init__.py": "", "shared/src/shared/models.py": "BASE = 1\n"})
    applications = "".join(
        f"  {name}:\n    build:\n      context: .\n      dockerfile: services/{name}/Dockerfile\n"
        f"    environment:\n      DATABASE_URL: {url}{name}\n"
        for name in names
    )
    included = "".join(f"  - services/{name}/docker-compose.yml\n" for name in names)
    write(
        root,
        {
            "pyproject.toml": '[tool.uv.workspace]\nmembers = ["services/*", "shared"]\n',
            "docker-compose.dev.yml": compose(port, applications, database="acme"),
            "docker-compose.yml": f"include:\n  - infra/docker-compose.yml\n{included}",
            "infra/docker-compose.yml": compose(None, database="acme"),
        },
    )
    # Only the file for developers publishes a port, and Compose loads another file by default.
    return {name: {"port": port} for name in names}


LAYOUTS: tuple[Layout, ...] = (
    one_url,
    parts,
    shared_server,
    workspace,
    url_for_containers,
    same_variable,
    sections,
    x_argument,
    without_compose,
    one_word,
    from_ini,
    two_configurations,
    in_pyproject,
    same_package,
    uv_workspace,
)
