"""Code of a service in the probe connects to no server, reveals no secret and is terminated."""

import socket
from collections.abc import Iterator

import psutil
import pytest

from tests.support.monorepo import ENV_PY, Monorepo, Ran, is_dead, new_monorepo, wait_until

SECRET = "Tr0ub4dor-and-3"
# Connections that a service may open before it uses SQLAlchemy.
REACHING_OUT = """\
import asyncio
import os
import socket

import asyncpg
import psycopg
import psycopg2
from dotenv import find_dotenv, load_dotenv
from sqlalchemy import create_engine

load_dotenv(find_dotenv())
PORT = {port}
URL = os.environ.get("APP_DB_URL") or "postgresql://reader@127.0.0.1:{port}/real"


def tried(connect):
    try:
        connect()
    except Exception as error:
        print(type(error).__name__, error)


tried(lambda: psycopg.connect(URL))
tried(lambda: psycopg2.connect(URL))
tried(lambda: asyncio.run(asyncpg.connect(URL)))
tried(lambda: socket.create_connection(("127.0.0.1", PORT)))
engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(URL))
tried(engine.connect)
"""
TELLING_CONFIG = """\
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_file=".env", extra="forbid")

    DATABASE_URL: str


settings = Settings()
"""
SLEEPING = """\
import os
import time
from pathlib import Path

Path(os.environ["PIDS"]).joinpath(str(os.getpid())).touch()
time.sleep(600)
"""


@pytest.fixture
def monorepo() -> Iterator[Monorepo]:
    with new_monorepo(["alpha"]) as monorepo:
        yield monorepo


def test_no_attempt_of_the_code_reaches_a_server(monorepo: Monorepo) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        port = listener.getsockname()[1]
        env_py = REACHING_OUT.format(port=port) + ENV_PY
        monorepo.write("services/alpha_service/alembic/env.py", env_py)
        login = f"reader:{SECRET}"
        text = monorepo.read(".env") + f"APP_DB_URL=postgresql://{login}@127.0.0.1:{port}/real\n"
        monorepo.write(".env", text)
        ran = monorepo.invoke("services.check", "--json")
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert ran.json["services"][0]["env.py"] == "follows", ran.out
    assert SECRET not in ran.out + ran.err


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_the_secrets_of_a_service_are_not_shown(monorepo: Monorepo, flags: tuple[str, ...]) -> None:
    monorepo.write("services/alpha_service/config.py", TELLING_CONFIG)
    env_py = ENV_PY.replace("import database_url", "import settings").replace(
        "database_url()", "settings.DATABASE_URL"
    )
    monorepo.write("services/alpha_service/alembic/env.py", env_py)
    monorepo.write("services/alpha_service/.env", f"SMTP_PASSWORD={SECRET}\n")
    ran: Ran = monorepo.invoke("services.check", *flags)
    assert "Extra inputs are not permitted" in ran.out
    assert SECRET not in ran.out + ran.err


def test_no_child_process_continues_after_the_command_was_killed(monorepo: Monorepo) -> None:
    pids = monorepo.path("pids")
    pids.mkdir()
    monorepo.write("services/alpha_service/alembic/env.py", SLEEPING)
    command = monorepo.start("services.check", env={"PIDS": str(pids)})
    wait_until(lambda: any(pids.iterdir()))
    asked = [psutil.Process(int(path.name)) for path in pids.iterdir()]
    command.kill()
    command.communicate()
    wait_until(lambda: all(is_dead(process) for process in asked))
