"""`env.py` reports where it would connect, and its driver checks the URL's parameters."""

import asyncio
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import aclosing
from pathlib import Path

import pytest

from huleedu_tasks.config.settings import Settings
from huleedu_tasks.config.urls import resolve
from huleedu_tasks.migrations.forkserver import WarmWorkers
from huleedu_tasks.prod.env_py_check import following_problems
from huleedu_tasks.report import Level, Problem
from tests.support.layouts import Layout
from tests.support.monorepo import clean_environment
from tests.support.values import service

VARIABLE = "ORDERS_SERVICE_DATABASE_URL"
SECRET = "se/cr@t %20"
AT = "app:se%2Fcr%40t%20%2520@db.invalid:6000/orders"
MIGRATE = """
with engine.connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
"""
START = "import os\nfrom alembic import context\nfrom sqlalchemy import create_engine\n"
SYNCHRONOUS = f'{START}engine = create_engine(os.environ["{VARIABLE}"]){MIGRATE}'
ASYNCHRONOUS = f"""\
import asyncio
import os

from alembic import context
from sqlalchemy.ext.asyncio import create_async_engine


async def main():
    async with create_async_engine(os.environ["{VARIABLE}"]).connect() as connection:
        await connection.run_sync(print)


asyncio.run(main())
"""
ASYNCPG, PSYCOPG, PSYCOPG2, PG8000 = (
    f"postgresql+{driver}" for driver in ("asyncpg", "psycopg", "psycopg2", "pg8000")
)


def ask(
    directory: Path, env_py: str, url: str, variables: Mapping[str, str] | None = None
) -> tuple[Problem, ...]:
    """Return what is found about an `env.py` that is given a URL."""
    directory = Layout(files={"alembic/env.py": env_py}).write(directory / "orders_service")
    asked = service("orders", directory=directory)
    process = {
        **clean_environment(),
        "HULEEDU_ENVIRONMENT": "production",
        VARIABLE: url,
        **(variables or {}),
    }
    settings = Settings(root=directory, process=process, file={}, lines={})

    async def main() -> tuple[Problem, ...]:
        async with aclosing(WarmWorkers(settings.tool_environment())) as workers:
            return await following_problems(asked, resolve(asked, settings), settings, workers)

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("scheme", "query"),
    [
        (ASYNCPG, ""),
        (ASYNCPG, "?ssl=require"),
        (ASYNCPG, "?prepared_statement_cache_size=0&target_session_attrs=any"),
        (PSYCOPG, "?sslmode=require&channel_binding=require&options=-c%20statement_timeout=5"),
        (PSYCOPG2, "?sslmode=verify-full&application_name=x"),
        (PG8000, "?application_name=x"),
    ],
)
def test_a_url_that_the_driver_accepts_is_not_a_finding(
    tmp_path: Path, scheme: str, query: str
) -> None:
    env_py = ASYNCHRONOUS if scheme == ASYNCPG else SYNCHRONOUS
    assert ask(tmp_path, env_py, f"{scheme}://{AT}{query}") == ()


@pytest.mark.parametrize(
    ("scheme", "parameter"),
    [
        (ASYNCPG, "sslmode=require"),
        (ASYNCPG, "channel_binding=require"),
        (ASYNCPG, "application_name=x"),
        (ASYNCPG, "options=-c%20x"),
        (ASYNCPG, "ssl=sometimes"),
        (PSYCOPG, "ssl=require"),
        (PSYCOPG, "sslmode=sometimes"),
        (PSYCOPG2, "ssl=true"),
        (PSYCOPG2, "sslmode=on"),
        (PG8000, "sslmode=require"),
    ],
)
def test_a_parameter_that_the_driver_refuses_is_found(
    tmp_path: Path, scheme: str, parameter: str
) -> None:
    env_py = ASYNCHRONOUS if scheme == ASYNCPG else SYNCHRONOUS
    (found,) = ask(tmp_path, env_py, f"{scheme}://{AT}?{parameter}")
    assert (found.level, found.code) == (Level.ERROR, "url-parameter-refused")
    assert parameter.partition("=")[0] in found.cause or "sometimes" in found.cause
    assert VARIABLE in found.remedy
    assert "cr%40t" not in str(found)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql+asynpcg", "postgresql+pygresqlx"])
def test_a_scheme_that_sqlalchemy_does_not_know_is_found(tmp_path: Path, scheme: str) -> None:
    (found,) = ask(tmp_path, SYNCHRONOUS, f"{scheme}://{AT}")
    assert found.code == "url-driver-unknown"
    assert VARIABLE in found.remedy


def test_an_env_py_that_corrects_the_scheme_is_not_a_finding(tmp_path: Path) -> None:
    repaired = f'os.environ["{VARIABLE}"].replace("postgres://", "postgresql+psycopg://")'
    env_py = f"{START}engine = create_engine({repaired}){MIGRATE}"
    assert ask(tmp_path, env_py, f"postgres://{AT}") == ()


WAYS = {
    "an engine": f'{START}engine = create_engine(os.environ["OTHER_URL"]){MIGRATE}',
    "psycopg2 alone": 'import os, psycopg2\npsycopg2.connect(os.environ["OTHER_URL"])',
    "psycopg with a string of parts": (
        'import os, psycopg\nos.environ["OTHER_URL"]\n'
        'psycopg.Connection.connect("host=elsewhere.invalid port=5432 dbname=other user=app")'
    ),
    "asyncpg alone": (
        'import asyncio, os, asyncpg\nos.environ["OTHER_URL"]\n'
        'asyncio.run(asyncpg.connect(host="elsewhere.invalid", database="other", user="app"))'
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_an_env_py_that_reads_another_variable_is_found_with_its_name(
    tmp_path: Path, way: str
) -> None:
    other = {"OTHER_URL": "postgresql://app:x@elsewhere.invalid:5432/other"}
    (found,) = ask(tmp_path, WAYS[way], f"{PSYCOPG}://{AT}", other)
    assert (found.level, found.code) == (Level.ERROR, "target-mismatch")
    assert "other on elsewhere.invalid:5432" in found.cause
    assert "orders on db.invalid:6000" in found.cause
    assert "OTHER_URL" in found.remedy


def test_an_env_py_that_fails_is_found_with_its_error_and_without_the_password(
    tmp_path: Path,
) -> None:
    env_py = f'import os\nraise RuntimeError("no: " + os.environ["{VARIABLE}"])'
    (found,) = ask(tmp_path, env_py, f"{PSYCOPG}://{AT}")
    assert (found.level, found.code) == (Level.ERROR, "env-py-failed")
    assert "RuntimeError" in found.cause
    assert "cr%40t" not in found.cause


def test_an_env_py_that_never_connects_is_found(tmp_path: Path) -> None:
    (found,) = ask(tmp_path, "value = 1", f"{PSYCOPG}://{AT}")
    assert found.code == "env-py-failed"


@pytest.fixture
def listener() -> Iterator[tuple[int, list[object]]]:
    """Return a port, and the connections to it."""
    heard: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def listen() -> None:
            while True:
                try:
                    connection, address = server.accept()
                except OSError:
                    return
                heard.append(address)
                connection.close()

        threading.Thread(target=listen, daemon=True).start()
        yield server.getsockname()[1], heard
        server.shutdown(socket.SHUT_RDWR)


def test_other_connections_of_env_py_are_refused_with_a_warning(
    tmp_path: Path, listener: tuple[int, list[object]]
) -> None:
    port, heard = listener
    env_py = f'import socket\nsocket.create_connection(("127.0.0.1", {port}))'
    (found,) = ask(tmp_path, env_py, f"{PSYCOPG}://{AT}")
    assert (found.level, found.code) == (Level.WARNING, "env-py-not-asked")
    assert str(port) in found.cause
    assert heard == []


@pytest.mark.parametrize("scheme", [ASYNCPG, PSYCOPG, PSYCOPG2, PG8000])
def test_no_driver_connects_during_the_check(
    tmp_path: Path, scheme: str, listener: tuple[int, list[object]]
) -> None:
    port, heard = listener
    env_py = ASYNCHRONOUS if scheme == ASYNCPG else SYNCHRONOUS
    assert ask(tmp_path, env_py, f"{scheme}://app:x@127.0.0.1:{port}/orders") == ()
    assert heard == []
