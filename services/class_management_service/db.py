"""The connections of the service: one engine, and a session for each request."""

import logging
from collections.abc import AsyncIterator
from typing import Annotated, TypedDict

import asyncpg
from fastapi import Depends, HTTPException, Request, status
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

# Seconds: for a new connection, for a free one of the pool, and for one statement.
CONNECT_TIMEOUT = 5
POOL_TIMEOUT = 5
STATEMENT_TIMEOUT = 10

# Without a connection asyncpg's own errors are raised; with one, SQLAlchemy wraps them.
_ERRORS = (OSError, PoolTimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, DBAPIError)

logger = logging.getLogger("uvicorn.error")


class State(TypedDict):
    """What the application holds from its start to its end; requests have it in `state`."""

    engine: AsyncEngine


def new_engine(url: str) -> AsyncEngine:
    """Return an engine whose pool survives a reset and a migration of its database.

    A reset ends every connection: the ping finds out before a request uses one. A migration may
    change the type of a column: a statement prepared before would then fail, so none is kept.
    """
    return create_async_engine(
        url,
        pool_pre_ping=True,
        pool_timeout=POOL_TIMEOUT,
        connect_args={
            "timeout": CONNECT_TIMEOUT,
            "command_timeout": STATEMENT_TIMEOUT,
            "prepared_statement_cache_size": 0,
        },
    )


async def _session(request: Request) -> AsyncIterator[AsyncSession]:
    """Provide a session that the request commits itself; what it did not commit is rolled back.

    Raises:
        IntegrityError: If a constraint of the database refuses the request.
        HTTPException: With status 503 if the database is not available, or not migrated.
    """
    try:
        async with AsyncSession(request.state.engine, expire_on_commit=False) as session:
            yield session
    except IntegrityError:
        raise
    except _ERRORS as error:
        logger.warning("The database is not available: %s", error)
        raise HTTPException(
            status.HTTP_503_SERVICE_UNAVAILABLE,
            "The database is not available. Try again.",
            {"Retry-After": "1"},
        ) from error


Session = Annotated[AsyncSession, Depends(_session)]
