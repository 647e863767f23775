"""Any password works end to end, and is never shown."""

import asyncio
import json
import stringprep
import threading
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from urllib.parse import quote

import asyncpg
import psutil
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from huleedu_tasks.config.registry import Service
from huleedu_tasks.config.settings import Settings
from huleedu_tasks.config.urls import DatabaseUrl, parse_url, resolve
from huleedu_tasks.postgres.connections import connection
from tests.support.db_runs import app_of, without_initdb
from tests.support.fork_server import fresh_interpreters
from tests.support.migrating import migrate
from tests.support.monorepo import USER, Monorepo, new_monorepo
from tests.support.postgres import connect

# A user who lets ConfigParser interpolate what is in the URL, and says so on the way.
CARELESS_ENV_PY = """\
import asyncio

from alembic import context
from sqlalchemy import text
from sqlalchemy.ext.asyncio import async_engine_from_config
from sqlalchemy.pool import NullPool

from config import database_url

config = context.config
config.set_main_option("sqlalchemy.url", database_url())
print("migrating", config.get_main_option("sqlalchemy.url"))


def migrate(connection):
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()


async def main():
    section = config.get_section(config.config_ini_section)
    engine = async_engine_from_config(section, poolclass=NullPool)
    async with engine.connect() as connection:
        await connection.run_sync(migrate)
        await connection.commit()
    await engine.dispose()


asyncio.run(main())
"""

# Characters with a meaning in URLs, shells, ConfigParser, `.env` files, SQL and SASLprep.
HOSTILE = (
    "p@ss#w%rd/1",
    "100%(here)s%%",
    "%2F%40%25%%2B",
    "plus+and space",
    " leading and trailing ",
    "\ttabs\tand\x0bothers\x0c",
    "$HOME ${HOME} $(id)",
    "`id` && exit; #",
    "'single' \"double\"",
    "back\\slash\\\\n\\'",
    "E'\\x41' -- /*",
    "$$;DROP ROLE x;$$",
    "a:b@c:1/d?e=f&g#h",
    "[::1]:5432/[x]",
    "{json: [\"y\"], 'z'}",
    "export X='a' #b",
    "åäö ÅÄÖ é ü ß",
    "пароль-密码-パスワード",
    "🔑🐘\u200d💾 emoji",
    "e\u0301 and \u00e9 and \ufb01",
    "no\u00a0break\u2003space",
    "soft\u00adhyphen\u200d",
    "line\nfeed\rreturn",
    "~`!@#$%^&*()_+-={}|[]\\:\";'<>?,./",
)


def is_prepared_alike(character: str) -> bool:
    """Whether PostgreSQL and asyncpg agree on what SASLprep makes of a character.

    PostgreSQL looks for prohibited and unassigned characters before the normalisation, asyncpg
    after it; and of U+200B one makes a space, the other nothing.
    """
    changes = unicodedata.normalize("NFKC", character) != character
    prohibited = stringprep.in_table_a1(character) or stringprep.in_table_c8(character)
    return character != "\u200b" and not (changes and prohibited)


# All a `.env` file in UTF-8 and an environment variable can carry: anything but NUL and surrogates.
ANY_PASSWORD = st.text(
    st.one_of(
        st.characters(min_codepoint=0x20, max_codepoint=0x7E),
        st.sampled_from(" %+#$'\"\\`@:/?&=\n\r\t"),
        st.characters(codec="utf-8", exclude_characters="\0").filter(is_prepared_alike),
    ),
    min_size=1,
    max_size=30,
)


@dataclass
class Vault:
    """A server whose user gets one password after the other, and who sets them."""

    monorepo: Monorepo
    services: tuple[Service, ...]
    loop: asyncio.Runner
    boss: asyncpg.Connection

    async def set_password(self, password: str) -> None:
        statement = await self.boss.fetchval(
            "SELECT format('ALTER ROLE %I PASSWORD %L', $1::text, $2::text)", USER, password
        )
        await self.boss.execute(statement)

    def settings(self, password: str) -> Settings:
        """Write the password into `.env` as a user would, and read it from there."""
        text = f"HULEEDU_DB_USER={USER}\nHULEEDU_DB_PASSWORD={quoted_for_env_file(password)}\n"
        self.monorepo.path(".env").write_bytes(text.encode())
        return Settings.load(self.monorepo.root)


@pytest.fixture(scope="module")
def vault() -> Iterator[Vault]:
    with new_monorepo(["alpha", "beta"]) as monorepo, asyncio.Runner() as loop:
        first, second = monorepo.services
        shared = {"port": first["port"], "compose_service": "alpha_db", "seeds": []}
        monorepo.register(first | shared, second | shared)
        monorepo.write("services/beta_service/alembic/env.py", CARELESS_ENV_PY)
        assert without_initdb(monorepo).invoke("db.up").code == 0
        maintenance = monorepo.url("alpha", database="postgres")
        admin = loop.run(connect(maintenance))
        loop.run(admin.execute("CREATE ROLE boss SUPERUSER LOGIN PASSWORD 'boss'"))
        loop.run(admin.close())
        port = monorepo.port("alpha")
        boss = loop.run(connect(f"postgresql://boss:boss@localhost:{port}/postgres"))
        services = app_of(monorepo).registry.services
        yield Vault(monorepo, services, loop, boss)
        boss.terminate()


def quoted_for_env_file(password: str) -> str:
    """Quote as python-dotenv's README says: literally in single quotes, escapes in double ones."""
    escaped = password.replace("\\", "\\\\")
    if {"\r", "\n"} & set(password):
        escaped = escaped.replace('"', '\\"').replace("\r", "\\r").replace("\n", "\\n")
        return f'"{escaped}"'
    return "'" + escaped.replace("'", "\\'") + "'"


@settings(
    max_examples=40,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(password=ANY_PASSWORD)
def test_any_password_logs_in(vault: Vault, password: str) -> None:
    url = resolve(vault.services[0], vault.settings(password)).url
    assert url.password.reveal() == password
    assert parse_url(url.reveal(), variable="X") == url
    vault.loop.run(vault.set_password(password))
    assert vault.loop.run(user_behind(url)) == USER


for hostile in HOSTILE:
    test_any_password_logs_in = example(password=hostile)(test_any_password_logs_in)


async def user_behind(url: DatabaseUrl) -> str:
    async with connection(url) as opened:
        return str(await opened.fetchval("SELECT current_user"))


@pytest.mark.combinations(password=HOSTILE, name=["alpha", "beta"])
def test_alembic_logs_in_with_any_password_and_any_env_py(
    vault: Vault, password: str, name: str
) -> None:
    read = vault.settings(password)
    vault.loop.run(vault.set_password(password))
    outputs = vault.loop.run(migrate_all(vault, read, name))
    assert not any(form in text for form in forms_of(password) for text in outputs)


def test_no_argument_of_a_process_contains_the_password(vault: Vault) -> None:
    password = HOSTILE[0]
    read = vault.settings(password)
    vault.loop.run(vault.set_password(password))
    with fresh_interpreters(), watched_arguments() as seen:
        vault.loop.run(migrate_all(vault, read))
    assert any("worker.py" in text for text in seen)
    assert not any(form in text for form in forms_of(password) for text in seen)


def forms_of(password: str) -> tuple[str, ...]:
    """Return a password as it is, in a URL, and as ConfigParser escapes it."""
    return password, quote(password, safe=""), quote(password), password.replace("%", "%%")


async def migrate_all(vault: Vault, read: Settings, *names: str) -> list[str]:
    """Migrate services, or all, from the beginning, at once; return what was printed."""
    services = [service for service in vault.services if not names or service.name in names]
    urls = [resolve(service, read).url for service in services]
    for url in urls:
        async with connection(url) as owner:
            await owner.execute("DROP TABLE IF EXISTS note, alembic_version")
    runs = [migrate(service, url, read) for service, url in zip(services, urls, strict=True)]
    migrated = await asyncio.gather(*runs)
    assert [done.after for done in migrated] == [("a1",)] * len(urls)
    return [done.output for done in migrated]


@contextmanager
def watched_arguments() -> Iterator[set[str]]:
    """Collect the argument lists of all this process' descendants while the block runs."""
    seen: set[str] = set()
    over = threading.Event()
    own = psutil.Process()

    def watch() -> None:
        while not over.wait(0.02):
            for child in own.children(recursive=True):
                with suppress(psutil.Error):
                    seen.add("\0".join(child.cmdline()))

    watching = threading.Thread(target=watch)
    watching.start()
    yield seen
    over.set()
    watching.join()


# An env.py that takes its URL apart, and lets the driver connect by the parts.
DRIVER_ENV_PY = """\
import os

from alembic import context
from sqlalchemy import URL, create_engine
from sqlalchemy.engine import make_url

url = make_url(os.environ["BETA_SERVICE_DATABASE_URL"])
config = context.config
config.set_main_option("sqlalchemy.url", url.render_as_string(hide_password=False))
os.environ.pop("PGPASSWORD", None)
parts = {"username": url.username, "password": url.password, "host": url.host, "port": url.port}
engine = create_engine(URL.create("postgresql+DRIVER", **parts, database=url.database))
with engine.connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
    print("migrated with", config.get_main_option("sqlalchemy.url"), repr(url.password))
"""


@pytest.mark.parametrize("driver", ["pg8000", "psycopg2", "psycopg"])
def test_each_driver_logs_in_by_the_url_alone(vault: Vault, driver: str) -> None:
    path = vault.monorepo.path("services/beta_service/alembic/env.py")
    unchanged = path.read_text()
    path.write_text(DRIVER_ENV_PY.replace("DRIVER", driver))
    for password in (HOSTILE[0], "two words, 'quotes' and $HOME + ü", HOSTILE[2]):
        read = vault.settings(password)
        vault.loop.run(vault.set_password(password))
        outputs = vault.loop.run(migrate_all(vault, read))
        assert "migrated with" in outputs[1]
        for form in (password, quote(password, safe="")):
            assert form not in outputs[1]
    path.write_text(unchanged)


FAILING_ENV_PY = """\
import os

from config import database_url

print("URL:", database_url())
print("PGPASSWORD:", os.environ["PGPASSWORD"], repr(os.environ["PGPASSWORD"]))
raise RuntimeError(f"no login with {os.environ['PGPASSWORD']!r}")
"""


@pytest.mark.parametrize(
    ("password", "options"),
    [(HOSTILE[0], []), (HOSTILE[8], ["--json"]), (HOSTILE[9], []), (HOSTILE[17], ["--json"])],
)
def test_no_command_shows_the_password_even_if_env_py_prints_it(
    vault: Vault, password: str, options: list[str]
) -> None:
    vault.settings(password)
    vault.loop.run(vault.set_password(password))
    path = vault.monorepo.path("services/alpha_service/alembic/env.py")
    unchanged = path.read_text()
    path.write_text(FAILING_ENV_PY)
    ran = vault.monorepo.invoke("db.reset", "--service", "alpha", *options)
    path.write_text(unchanged)
    assert ran.code == 1
    assert "URL:" in ran.out
    shown = ran.out + ran.err
    for form in (password, quote(password, safe=""), repr(password)[1:-1]):
        assert form not in shown
        assert json.dumps(form)[1:-1] not in shown
