"""Run a service's Alembic migrations: what its `env.py` would otherwise repeat."""

import asyncio
from logging.config import fileConfig
from typing import Any

from alembic import context
from sqlalchemy import Connection, MetaData
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from services.service_libs.database import DatabaseSettings


def run_migrations(target_metadata: MetaData, settings: DatabaseSettings) -> None:
    """Migrate the service's own database, or print the SQL for it in offline mode.

    The URL goes straight to the engine: `config.set_main_option` would take a percent sign in a
    password for ConfigParser's interpolation.
    """
    config_file = context.config.config_file_name
    if config_file is not None:
        fileConfig(config_file, disable_existing_loggers=False)
    if context.is_offline_mode():
        _run(
            target_metadata,
            url=settings.DATABASE_URL,
            literal_binds=True,
            dialect_opts={"paramstyle": "named"},
        )
    else:
        asyncio.run(_run_online(target_metadata, settings.DATABASE_URL))


async def _run_online(target_metadata: MetaData, url: str) -> None:
    engine = create_async_engine(url, poolclass=NullPool)
    try:
        async with engine.connect() as connection:
            await connection.run_sync(_run_on, target_metadata)
    finally:
        await engine.dispose()


def _run_on(connection: Connection, target_metadata: MetaData) -> None:
    _run(target_metadata, connection=connection)


def _run(target_metadata: MetaData, **target: Any) -> None:
    # One transaction per revision: a value added to an enum can be used only after a commit, and a
    # revision that fails leaves those before it applied and recorded.
    context.configure(
        target_metadata=target_metadata,
        compare_type=True,
        compare_server_default=True,
        transaction_per_migration=True,
        **target,
    )
    with context.begin_transaction():
        context.run_migrations()
