"""The variants of `env.py`."""

from tests.support.strangers.configs import LOAD_ENV_FILE, exported, prefix_and_field
from tests.support.strangers.switches import Config, Driver, Paths, Stranger

ENV_PY = """\
{first}from logging.config import fileConfig

from alembic import context
{engine_import}
from sqlalchemy import pool
{settings_import}
config = context.config
{logging}
target_metadata = None
{url}

def run_migrations_offline() -> None:
    context.configure(url=url, target_metadata=target_metadata, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()


def do_run_migrations(connection) -> None:
    context.configure(connection=connection, target_metadata=target_metadata{options})
    with context.begin_transaction():
        context.run_migrations()

{online}

if context.is_offline_mode():
    run_migrations_offline()
else:
    {run}
"""
SYNC = """
def run_migrations_online() -> None:
    engine = {engine}
    with engine.connect() as connection:
        do_run_migrations(connection)
    engine.dispose()
"""
ASYNC = """
async def run_migrations_online() -> None:
    engine = {engine}
    async with engine.connect() as connection:
        await connection.run_sync(do_run_migrations)
    await engine.dispose()
"""
HEAVY = """\
import ctypes
import decimal
import email.mime.multipart
import http.client
import multiprocessing
import sqlite3
import unittest
import xml.etree.ElementTree

"""
OWN_PATH = """\
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

"""
# Hides asyncpg, which the service's own image does not have.
WITHOUT_ASYNCPG = """\
import sys

sys.modules["asyncpg"] = None

"""
# A module that only the service's own virtual environment has.
OWN_LIBRARY = "strangers_own_library"

LOGGING = """
if config.config_file_name is not None:
    fileConfig(config.config_file_name)
"""
# By whether the engine is asynchronous, and whether it is built from the configuration.
ENGINES = {
    (False, False): "create_engine",
    (False, True): "engine_from_config",
    (True, False): "create_async_engine",
    (True, True): "async_engine_from_config",
}


def text(service: Stranger) -> str:
    """Return its `env.py`."""
    is_async = service.driver.is_async
    engine = ENGINES[is_async, service.interpolates]
    arguments = "url"
    if service.interpolates:
        arguments = 'config.get_section(config.config_ini_section), prefix="sqlalchemy."'
    online = (ASYNC if is_async else SYNC).format(
        engine=f"{engine}({arguments}, poolclass=pool.NullPool)"
    )
    return ENV_PY.format(
        first=_first_lines(service),
        engine_import=f"from sqlalchemy{'.ext.asyncio' if is_async else ''} import {engine}",
        settings_import=_settings_import(service),
        logging=LOGGING if service.logs else "",
        url=_url_lines(service),
        options=", transaction_per_migration=True" if service.transaction_each else "",
        online=online,
        run="asyncio.run(run_migrations_online())" if is_async else "run_migrations_online()",
    )


def _first_lines(service: Stranger) -> str:
    parts = {
        WITHOUT_ASYNCPG: service.driver is not Driver.REGULAR,
        f"import {OWN_LIBRARY}\n": service.has_own_interpreter,
        HEAVY: service.is_heavy,
        OWN_PATH: service.paths is Paths.OWN,
        LOAD_ENV_FILE: service.loads_env_file and service.config is Config.NONE,
        "import os\n": service.config is Config.NONE,
        "import asyncio\n": service.driver.is_async,
    }
    return "".join(text for text, is_wanted in parts.items() if is_wanted)


def _settings_import(service: Stranger) -> str:
    if service.config is Config.NONE:
        return ""
    module = {
        Paths.ROOT: f"{service.directory.replace('/', '.')}.config",
        Paths.SOURCES: f"{service.name}.config",
    }.get(service.paths, "config")
    return f"\nfrom {module} import {exported(service)}\n"


def _url_lines(service: Stranger) -> str:
    _, field = prefix_and_field(service)
    url = {
        Config.REGULAR: "settings.DATABASE_URL",
        Config.MODULE: "DATABASE_URL",
        Config.PYDANTIC_ALIAS: "str(settings.database_url)",
        Config.PYDANTIC_PREFIX: f"settings.{field}",
        Config.NONE: f'os.environ["{service.url_variable}"]',
    }[service.config]
    lines = [f"url = {url}"]
    if service.translates:
        lines += [f'url = url.replace("+asyncpg", "+{service.driver.module}")']
    if service.interpolates:
        lines += ['config.set_main_option("sqlalchemy.url", url)']
    return "\n".join(lines)
