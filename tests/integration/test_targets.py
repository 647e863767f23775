"""Alembic runs only on the verified database, however the service's code connects."""

import re
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest

from huleedu_tasks.errors import ExitCode, Refused
from tests.support.alembic_bench import Bench, Case, sql
from tests.support.monorepo import ENV_PY

NOTE = "CREATE TABLE note (id integer PRIMARY KEY, text text NOT NULL)"
PRODUCTION_TAG = 'huleedu-tasks {"environment": "production"}'
OUTER = ENV_PY.replace("engine.connect()", "engine.begin()").replace(
    "        await connection.commit()\n", ""
)
# Each opens its connection in a different way, to the database in DECOY_*.
SYNCHRONOUS = """\
import os
{imports}

from alembic import context
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

{connect}
with engine.connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
    connection.commit()
"""
PARTS = (
    'host=os.environ["DECOY_HOST"], port=int(os.environ["DECOY_PORT"]), '
    'user=os.environ["DECOY_USER"], password=os.environ["DECOY_PASSWORD"], '
    'dbname=os.environ["DECOY_NAME"]'
)
WAYS = {
    "an engine": ENV_PY.replace("database_url()", 'os.environ["DECOY_URL"]').replace(
        "import asyncio", "import asyncio\nimport os"
    ),
    "an engine with a transaction": OUTER.replace(
        "database_url()", 'os.environ["DECOY_URL"]'
    ).replace("import asyncio", "import asyncio\nimport os"),
    "psycopg 3": SYNCHRONOUS.format(
        imports="",
        connect='engine = create_engine(os.environ["DECOY_URL"].replace("asyncpg", "psycopg"), '
        "poolclass=NullPool)",
    ),
    "a function of its own that connects": SYNCHRONOUS.format(
        imports="import psycopg2",
        connect=f'engine = create_engine("postgresql+psycopg2://", poolclass=NullPool, '
        f"creator=lambda: psycopg2.connect({PARTS}))",
    ),
    "pg8000 with a function of its own": SYNCHRONOUS.format(
        imports="import pg8000.dbapi",
        connect=f'engine = create_engine("postgresql+pg8000://", poolclass=NullPool, '
        f"creator=lambda: pg8000.dbapi.connect({PARTS.replace('dbname', 'database')}))",
    ),
    "a connection that libpq's variables lead": SYNCHRONOUS.format(
        imports="import psycopg",
        connect="""\
for name in ("HOST", "PORT", "USER", "PASSWORD"):
    os.environ[f"PG{name}"] = os.environ[f"DECOY_{name}"]
os.environ["PGDATABASE"] = os.environ["DECOY_NAME"]
engine = create_engine("postgresql+psycopg://", poolclass=NullPool, creator=psycopg.connect)
""",
    ),
    "a .env that env.py loads": SYNCHRONOUS.format(
        imports="from dotenv import load_dotenv",
        connect="""\
load_dotenv(os.path.join(os.path.dirname(__file__), "decoy.env"), override=True)
engine = create_engine(os.environ["{variable}"].replace("asyncpg", "psycopg"))
""",
    ),
}
# Each opens another connection before it migrates its own database.
BESIDE = {
    "asyncpg": "connection = await asyncpg.connect(PLAIN)\n    await connection.close()",
    "a pool of asyncpg": (
        "pool = await asyncpg.create_pool(PLAIN, min_size=1)\n    await pool.close()"
    ),
    "psycopg 3": "psycopg.connect(PLAIN).close()",
    "an asynchronous psycopg 3": "await (await psycopg.AsyncConnection.connect(PLAIN)).close()",
    "psycopg 2 with rows that are dictionaries": (
        "psycopg2.connect(PLAIN, cursor_factory=psycopg2.extras.RealDictCursor).close()"
    ),
    "another engine": "async with create_async_engine(DECOY).connect():\n        pass",
    "a failure that is caught": (
        "try:\n        psycopg.connect(PLAIN).close()\n    except Exception:\n        pass"
    ),
    "any failure that is caught": (
        "try:\n        psycopg.connect(PLAIN).close()\n    except BaseException:\n        pass"
    ),
}
FIRST = """
import os
import psycopg2.extras

async def first():
    DECOY = os.environ["DECOY_URL"]
    PLAIN = DECOY.replace("+asyncpg", "")
    import asyncpg, psycopg
    {does}

asyncio.run(first())
"""


async def decoy_of(bench: Bench) -> tuple[Case, dict[str, str]]:
    """Create a database with the tag production, and the variables with its address."""
    decoy = await bench.case()
    await decoy.ask(f"COMMENT ON DATABASE {decoy.url.database} IS '{PRODUCTION_TAG}'")
    variables = {
        "DECOY_URL": decoy.url.reveal(),
        "DECOY_HOST": decoy.url.host,
        "DECOY_PORT": str(decoy.url.port),
        "DECOY_USER": decoy.url.user,
        "DECOY_PASSWORD": decoy.url.password.reveal(),
        "DECOY_NAME": decoy.url.database,
    }
    return decoy, variables


def with_variables(case: Case, variables: dict[str, str]) -> Case:
    """Return a case with further variables in its environment."""
    settings = replace(case.settings, process={**case.settings.process, **variables})
    return replace(case, settings=settings)


async def refused(case: Case, *decoys: Case) -> Refused:
    """Migrate, require that it is refused and that no table was created, and return the error."""
    with pytest.raises(Refused) as caught:
        await case.upgrade()
    for database in (*decoys, case):
        made = await database.ask("SELECT to_regclass('note'), to_regclass('alembic_version')")
        assert made == [(None, None)]
    assert caught.value.code == "target-mismatch"
    assert caught.value.exit_code is ExitCode.REFUSED
    return caught.value


@pytest.mark.parametrize("env_py", WAYS.values(), ids=WAYS)
async def test_no_revision_runs_on_a_different_database(bench: Bench, env_py: str) -> None:
    decoy, variables = await decoy_of(bench)
    case = with_variables(await bench.case(env_py, a1=sql(NOTE)), variables)
    ours = case.service.url_variable
    directory = case.service.directory / "alembic"
    (directory / "decoy.env").write_text(f"{ours}='{decoy.url.reveal()}'\n")
    (directory / "env.py").write_text(env_py.replace("{variable}", ours))
    error = await refused(case, decoy)
    address = rf"(localhost|127\.0\.0\.1):{decoy.url.port}"
    assert re.search(f"connected to {decoy.url.database} on {address}", error.message)
    assert "whose environment tag is production" in error.message
    assert f"not to {case.url.database} on {case.url.address}; nothing was run" in error.message


@pytest.mark.parametrize("does", BESIDE.values(), ids=BESIDE)
async def test_a_second_connection_to_a_different_database_is_refused(
    bench: Bench, does: str
) -> None:
    decoy, variables = await decoy_of(bench)
    env_py = ENV_PY.replace("asyncio.run(main())", FIRST.format(does=does) + "asyncio.run(main())")
    case = with_variables(await bench.case(env_py, a1=sql(NOTE)), variables)
    await refused(case, decoy)


@pytest.mark.parametrize("does", BESIDE.values(), ids=BESIDE)
async def test_a_second_connection_to_the_same_database_is_allowed(bench: Bench, does: str) -> None:
    env_py = ENV_PY.replace("asyncio.run(main())", FIRST.format(does=does) + "asyncio.run(main())")
    case = await bench.case(env_py, a1=sql(NOTE))
    case = with_variables(case, {"DECOY_URL": case.url.reveal()})
    assert (await case.upgrade()).after == ("a1",)


async def test_another_host_name_of_the_same_server_is_allowed(bench: Bench) -> None:
    env_py = ENV_PY.replace("database_url()", "database_url().replace('localhost', '127.0.0.1')")
    case = await bench.case(env_py, a1=sql(NOTE))
    assert (await case.upgrade()).after == ("a1",)


async def test_another_database_of_the_same_server_is_refused(bench: Bench) -> None:
    does = (
        'connection = await asyncpg.connect(PLAIN, database="postgres")\n'
        "    await connection.close()"
    )
    env_py = ENV_PY.replace("asyncio.run(main())", FIRST.format(does=does) + "asyncio.run(main())")
    case = await bench.case(env_py, a1=sql(NOTE))
    error = await refused(with_variables(case, {"DECOY_URL": case.url.reveal()}))
    assert "connected to postgres on" in error.message


async def test_a_second_database_of_an_env_py_is_refused_after_the_first_was_migrated(
    bench: Bench,
) -> None:
    decoy, _ = await decoy_of(bench)
    elsewhere = ENV_PY.replace("database_url()", f"'{decoy.url.reveal()}'")
    case = await bench.case(f"{ENV_PY}\n\n{elsewhere}", a1=sql(NOTE))
    with pytest.raises(Refused) as caught:
        await case.upgrade()
    assert caught.value.code == "target-mismatch"
    assert await decoy.ask("SELECT to_regclass('note')") == [(None,)]
    assert await case.revisions() == ["a1"]
    assert "nothing was run" not in caught.value.message


async def test_a_revision_that_connects_to_a_different_database_is_rolled_back(
    bench: Bench,
) -> None:
    decoy, variables = await decoy_of(bench)
    body = textwrap.dedent("""\
        import os, psycopg
        with psycopg.connect(os.environ["DECOY_URL"].replace("+asyncpg", "")) as elsewhere:
            elsewhere.execute("CREATE TABLE note (id integer)")
        """)
    case = await bench.case(a1=f"op.execute({NOTE!r})\n{body}")
    error = await refused(with_variables(case, variables), decoy)
    assert "nothing was run" not in error.message


async def test_no_sql_is_rendered_if_env_py_connects_to_a_different_database(bench: Bench) -> None:
    decoy, _ = await decoy_of(bench)
    case = await bench.case(
        ENV_PY.replace("database_url()", f"'{decoy.url.reveal()}'"), a1=sql(NOTE)
    )
    with pytest.raises(Refused) as caught:
        await case.render()
    assert caught.value.code == "target-mismatch"


# Hints.


async def test_the_hint_names_the_variable_that_env_py_read(bench: Bench) -> None:
    decoy, variables = await decoy_of(bench)
    case = await bench.case(WAYS["an engine"], a1=sql(NOTE))
    error = await refused(with_variables(case, variables), decoy)
    ours = case.service.url_variable
    assert f"env.py read DECOY_URL, not {ours}" in error.hint
    assert '"url_variable": "DECOY_URL"' in error.hint


async def test_the_hint_names_the_variable_of_a_settings_class(bench: Bench) -> None:
    decoy, variables = await decoy_of(bench)
    settings = textwrap.dedent("""\
        from pydantic_settings import BaseSettings

        class Settings(BaseSettings):
            decoy_url: str

        """)
    env_py = ENV_PY.replace("database_url()", "Settings().decoy_url")
    case = await bench.case(settings + env_py, a1=sql(NOTE))
    error = await refused(with_variables(case, variables), decoy)
    assert f"env.py read DECOY_URL, not {case.service.url_variable}" in error.hint


async def test_the_hint_names_variables_with_parts_of_the_url(bench: Bench) -> None:
    decoy, variables = await decoy_of(bench)
    del variables["DECOY_URL"]
    env_py = WAYS["a function of its own that connects"]
    error = await refused(with_variables(await bench.case(env_py, a1=sql(NOTE)), variables), decoy)
    for name in ("DECOY_HOST", "DECOY_PORT", "DECOY_NAME"):
        assert name in error.hint
    assert variables["DECOY_PASSWORD"] not in error.message + error.hint + error.output


async def test_the_hint_says_that_env_py_read_the_override_variable(
    bench: Bench,
) -> None:
    decoy, _ = await decoy_of(bench)
    moved = "database_url().replace('huleedu_service', 'moved_')"
    env_py = ENV_PY.replace("database_url()", moved)
    case = await bench.case(env_py, a1=sql(NOTE))
    number = re.sub(r"\D", "", case.url.database)
    await decoy.ask(f"CREATE DATABASE moved_{number}")
    error = await refused(case, decoy)
    assert f"read the correct URL in {case.service.url_variable}" in error.hint


# The env.py that Alembic generates.


def add_url(ini: Path, url: str) -> None:
    ini.write_text(f"{ini.read_text()}sqlalchemy.url = {url.replace('%', '%%')}\n")


@pytest.mark.parametrize(
    ("driver", "env_py"),
    [
        (
            "postgresql+psycopg2",
            """\
from alembic import context
from sqlalchemy import engine_from_config, pool

config = context.config
engine = engine_from_config(
    config.get_section(config.config_ini_section, {}),
    prefix="sqlalchemy.",
    poolclass=pool.NullPool,
)
with engine.connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
""",
        ),
        (
            "postgresql+asyncpg",
            ENV_PY.replace("database_url()", 'context.config.get_main_option("sqlalchemy.url")'),
        ),
    ],
    ids=["as `alembic init` has it", "by name"],
)
async def test_the_url_of_the_alembic_configuration_is_replaced(
    bench: Bench, driver: str, env_py: str
) -> None:
    decoy, _ = await decoy_of(bench)
    case = await bench.case(env_py, a1=sql(NOTE))
    _, _, place = decoy.url.reveal().partition("://")
    add_url(case.service.alembic_config, f"{driver}://{place}")
    assert (await case.upgrade()).after == ("a1",)
    assert await case.revisions() == ["a1"]
    assert await decoy.ask("SELECT to_regclass('note')") == [(None,)]
