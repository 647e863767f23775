"""Reading variable, port, name and driver of a database from a service's files."""

import textwrap
from pathlib import Path

import pytest

from huleedu_tasks.discovery.found_urls import see_url
from huleedu_tasks.discovery.sources import Sources, local_ports_of, read_sources
from huleedu_tasks.migrations.directories import find_directories
from huleedu_tasks.repository import repository_files
from tests.support.repositories import ASYNC, SYNC, service, write

PASSWORD = "hunter2"


def read(root: Path, config: str = "", *, env: str = ASYNC, **files: str) -> Sources:
    """Read the sources of one service."""
    write(root, service("orders", config, env=env) | {f"orders/{n}": t for n, t in files.items()})
    repository_files.cache_clear()
    (directory,) = find_directories(root, [])
    return read_sources(directory, root, [directory])


def variables(sources: Sources) -> list[str]:
    return [variable.value for variable in sources.variables]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ('URL = os.getenv("ORDERS_DATABASE_URL")', ["ORDERS_DATABASE_URL"]),
        ('DATABASE_URL = os.environ["ORDERS_DSN"]', ["ORDERS_DSN"]),
        ('DATABASE_URL = environ.get("ORDERS")', ["ORDERS"]),
        ('url = config("ORDERS_DB_URL", default="x")', ["ORDERS_DB_URL"]),
        ('url = env.str("SQLALCHEMY_DATABASE_URI")', ["SQLALCHEMY_DATABASE_URI"]),
        ('engine = create_engine(os.environ["ORDERS_CONNECTION"])', ["ORDERS_CONNECTION"]),
        ('x = os.getenv("SECRET_ONE", "postgresql://u:p@localhost:5441/orders")', ["SECRET_ONE"]),
        (
            'URL = os.getenv("A_DATABASE_URL") or os.getenv("DATABASE_URL")',
            ["A_DATABASE_URL", "DATABASE_URL"],
        ),
        ('def get_database_url():\n    return read_secret("ORDERS_URL")', ["ORDERS_URL"]),
        (
            'a = os.environ["REPLICA_DB_URL"]\nb = os.environ["DB_URL"]',
            ["DB_URL", "REPLICA_DB_URL"],
        ),
        ('SENTRY_DSN = os.getenv("SENTRY_DSN")', []),
        ('REDIS = os.getenv("REDIS_URL")\nUSERS = os.getenv("USERS_SERVICE_URL")', []),
        ('DATABASE_URL = build(os.environ["DB_USER"], os.environ["DB_PASSWORD"])', []),
        ("def broken(:", []),
    ],
)
def test_a_variable_is_found_however_it_is_read(
    tmp_path: Path, config: str, expected: list[str]
) -> None:
    assert variables(read(tmp_path, f"import os\n{config}\n")) == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("database_url: str", ["DATABASE_URL"]),
        ('model_config = Config(env_prefix="ORDERS_")\n    db_url: str', ["ORDERS_DB_URL"]),
        ('class Config:\n        env_prefix = "ord_"\n    db_dsn: str', ["ORD_DB_DSN"]),
        ('url: PostgresDsn = Field(validation_alias="ORDERS_DSN")', ["ORDERS_DSN"]),
        ('db_url: str = Field(alias="X")', ["X"]),
        ('db_url: str = Field("x", env="OLD_STYLE")', ["OLD_STYLE"]),
        (
            'db_url: str = Field(validation_alias=AliasChoices("FIRST", "SECOND"))',
            ["FIRST", "SECOND"],
        ),
        ("redis_url: str\n    debug: bool = False", []),
    ],
)
def test_a_field_of_pydantics_settings_is_a_variable(
    tmp_path: Path, body: str, expected: list[str]
) -> None:
    assert variables(read(tmp_path, f"class Settings(BaseSettings):\n    {body}\n")) == expected


@pytest.mark.parametrize(
    ("config", "port", "database"),
    [
        ('URL = "postgresql+asyncpg://u:p@localhost:5441/orders"', 5441, "orders"),
        ('URL = f"postgresql://{user}:{pw}@127.0.0.1:5441/orders?ssl=disable"', 5441, "orders"),
        ('P = 5441\nN = "orders"\nURL = f"postgresql://u@localhost:{P}/{N}"', 5441, "orders"),
        (
            'P = int(os.getenv("P", "5441"))\nURL = f"postgresql://u@localhost:{P}/orders"',
            5441,
            "orders",
        ),
        (
            'class S:\n    port: int = 5441\n    url = url(f"postgresql://u@localhost:{port}/orders")',
            5441,
            "orders",
        ),
        ('URL.create(drivername="postgresql", port=5441, database="orders")', 5441, "orders"),
        (
            'settings = DatabaseSettings(service="orders", database="orders", port=5441)',
            5441,
            "orders",
        ),
        ('DB = {"NAME": "orders", "PORT": 5441}', 5441, "orders"),
        ('DB_PORT = 5441\nDB_NAME = os.getenv("DB_NAME", "orders")', 5441, "orders"),
        (
            '"""Not postgresql://u@localhost:1/x."""\nDB_PORT = 5441\nDB_NAME = "orders"',
            5441,
            "orders",
        ),
        ('uvicorn.run(app, port=5441)\nDB_NAME = "orders"', None, "orders"),
    ],
)
def test_port_and_database_are_found_in_every_notation(
    tmp_path: Path, config: str, port: int | None, database: str
) -> None:
    sources = read(tmp_path, config)
    assert [port.value for port in local_ports_of(sources)][:1] == ([port] if port else [])
    named = [url.value.database for url in sources.urls if url.value.database]
    assert [*named, *(database.value for database in sources.databases)][:1] == [database]


@pytest.mark.parametrize(
    ("env", "config", "scheme"),
    [
        (ASYNC, "", None),
        (ASYNC, 'URL = "postgresql+asyncpg://u@h/d"', None),
        (ASYNC, 'URL = "postgresql+psycopg://u@h/d"', "postgresql+psycopg"),
        (ASYNC, 'URL = "postgresql://u@h/d"', None),
        (SYNC, 'URL = "postgresql+psycopg2://u@h/d"', "postgresql+psycopg2"),
        (SYNC, 'URL = "postgresql://u@h/d"', "postgresql"),
        (SYNC, "", "postgresql"),
        (SYNC + 'URL.replace("+asyncpg", "")\n', 'URL = "postgresql+asyncpg://u@h/d"', None),
        (SYNC + 'URL = make_url(URL).set(drivername="postgresql+psycopg")\n', "", None),
        ("AsyncEngine(engine_from_config(section))\n", "", None),
    ],
)
def test_a_driver_that_differs_from_convention_is_stated(
    tmp_path: Path, env: str, config: str, scheme: str | None
) -> None:
    found = read(tmp_path, config, env=env).scheme()
    assert (found.value if found else None) == scheme


def test_without_a_url_the_driver_is_taken_from_the_requirements(tmp_path: Path) -> None:
    sources = read(tmp_path, env=SYNC, **{"requirements.txt": "alembic\npsycopg2-binary==2.9\n"})
    found = sources.scheme()
    assert found
    assert found.value == "postgresql+psycopg2"
    assert found.place == "orders/requirements.txt requires psycopg2-binary"


def test_what_env_py_imports_is_read_and_a_shared_module_counts_less(tmp_path: Path) -> None:
    shared = 'import os\nDEFAULT = os.environ["SHARED_DATABASE_URL"]\n'
    write(tmp_path, {"libs/database/tools.py": shared, "libs/database/__init__.py": ""})
    own = 'import os\nURL = os.environ["ORDERS_DATABASE_URL"]\n'
    env = f"from libs.database import tools\nfrom storage.places import URL\n{ASYNC}"
    sources = read(tmp_path, env=env, **{"storage/places.py": own})
    assert variables(sources) == ["ORDERS_DATABASE_URL", "SHARED_DATABASE_URL"]
    assert [variable.own for variable in sources.variables] == [True, False]


def test_the_place_of_a_variable_is_its_file_line_and_how_it_is_read(tmp_path: Path) -> None:
    sources = read(tmp_path, f'import os\n\nDSN = os.getenv("ORDERS_DSN", "{PASSWORD}")\n')
    assert sources.variables[0].place == 'orders/config.py:3 os.getenv("ORDERS_DSN")'


@pytest.mark.parametrize(
    ("line", "quote"),
    [
        ('os.environ["ORDERS_DSN"]', 'os.environ["ORDERS_DSN"]'),
        ('self.settings.env.str("ORDERS_DSN")', 'self.settings.env.str("ORDERS_DSN")'),
        (
            f'dict(os.environ, X="postgresql://u:{PASSWORD}@h/db")["ORDERS_DSN"]',
            '...["ORDERS_DSN"]',
        ),
        ('{**dotenv_values(".env"), **os.environ}["ORDERS_DSN"]', '...["ORDERS_DSN"]'),
        (f'Vault("{PASSWORD}").read("ORDERS_DSN")', '...("ORDERS_DSN")'),
    ],
)
def test_only_a_dotted_name_is_quoted(tmp_path: Path, line: str, quote: str) -> None:
    sources = read(tmp_path, f"DATABASE_URL = {line}\n")
    assert sources.variables[0].place == f"orders/config.py:1 {quote}"
    assert PASSWORD not in repr(sources)


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ("X = " + " + ".join(["'a'"] * 3000), "is nested too deeply for the parser."),
        ("X = " + "(" * 5000 + ")" * 5000, "is"),
        ("def broken(:", "is not valid Python: line 1: invalid syntax."),
    ],
)
def test_an_unreadable_file_is_a_problem(tmp_path: Path, config: str, problem: str) -> None:
    (found,) = read(tmp_path, config).problems
    assert found.startswith(f"orders/config.py {problem}")


def test_an_integer_of_thousands_of_digits_is_not_a_port(tmp_path: Path) -> None:
    config = f"MODULUS = 0x{'f' * 5000}\nDB_PORT = 5441\nx[0x{'f' * 5000}]\n"
    sources = read(tmp_path, config)
    assert [port.value for port in local_ports_of(sources)] == [5441]
    assert not sources.problems


def test_no_warning_shows_a_line_of_the_file(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    read(tmp_path, f'URL = "postgresql://u:\\d{PASSWORD}@h/d"\n')
    assert not [str(warning.message) for warning in recwarn]


def test_variable_port_and_database_are_read_from_example_env_files(tmp_path: Path) -> None:
    line = f"ORDERS_DATABASE_URL=postgresql://u:{PASSWORD}@localhost:${{PORT:-5441}}/orders\n"
    sources = read(tmp_path, **{".env.example": f"# comment\n\n{line}"})
    assert variables(sources) == ["ORDERS_DATABASE_URL"]
    assert sources.variables[0].place == "orders/.env.example:3 ORDERS_DATABASE_URL"
    (seen,) = sources.urls
    assert (seen.value.port, seen.value.database) == (5441, "orders")


def test_only_variables_of_the_service_are_read_from_the_env_file_of_the_root(
    tmp_path: Path,
) -> None:
    lines = [f"{name.upper()}_URL=postgresql://u@localhost:5441/{name}\n" for name in "ab"]
    write(tmp_path, {"env.example": "".join(lines)})
    sources = read(tmp_path, 'import os\nDATABASE_URL = os.environ["A_URL"]\n')
    assert [url.value.database for url in sources.urls] == ["a"]


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://u:{PASSWORD}@h:5441/d",
        f"postgresql+psycopg2://u:p@{PASSWORD}/x@h:5441/d",
        f"postgresql://u:a#b?c/{PASSWORD}@h:5441/d?sslmode=require",
    ],
)
def test_the_password_of_a_url_is_discarded(tmp_path: Path, url: str) -> None:
    seen = see_url(url)
    assert seen
    assert (seen.host, seen.port, seen.database) == ("h", 5441, "d")
    config = f'import os\nURL = "{url}"\nX = os.getenv("ORDERS_DATABASE_URL", "{url}")\n'
    files = {".env": f"ORDERS_DATABASE_URL='{url}'\n"}
    assert PASSWORD not in repr(read(tmp_path, textwrap.dedent(config), **files))
