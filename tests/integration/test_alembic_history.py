"""Revisions and version tables are those of Alembic, whether they are parsed or asked for."""

import asyncio
import json
import os
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest

from huleedu_tasks.config.registry import Service
from huleedu_tasks.errors import HuleEduError, MigrationError, Refused, ServerError
from huleedu_tasks.migrations.alembic_config import NotUnderstood
from huleedu_tasks.migrations.alembic_history import AlembicHistories
from huleedu_tasks.migrations.revisions import History, read_history
from huleedu_tasks.postgres.connections import connection
from tests.support.alembic_bench import Bench, Case, sql
from tests.support.layouts import (
    LAYOUTS,
    PLAIN,
    VERSIONS,
    Layout,
    Told,
    alembic_says,
    random_layout,
    revision,
)
from tests.support.monorepo import ENV_PY
from tests.support.values import service, settings

Name = TypeVar("Name", str, int)
CONFIGURE = "context.configure(connection=connection)"
# Broken on purpose: which of the two Alembic chooses is not defined.
STRICTER = {
    "a parent that is missing",
    "a number as an id",
    "an id twice",
}
NOT_IMPORTABLE = "a file that cannot be imported"


# Revisions: parsed if they are literal, otherwise asked for.


def test_revisions_are_those_of_the_script_directory(tmp_path: Path) -> None:
    directories = {
        name: layout.write(tmp_path / f"{n}") for n, (name, layout) in enumerate(LAYOUTS.items())
    }
    expected = dict(zip(directories, alembic_says(list(directories.values())), strict=True))
    found = asyncio.run(answers_of(directories, tmp_path / "state"))
    for name in STRICTER:
        assert found.pop(name) is None
        del expected[name]
    # Parsing does not import: an error of such a file is raised when it runs.
    assert found.pop(NOT_IMPORTABLE) is not None
    assert expected.pop(NOT_IMPORTABLE) is None
    assert found == expected
    asked = [name for name, directory in directories.items() if not is_read(directory)]
    # Both ways were used.
    assert len(asked) > 20
    assert len(directories) - len(asked) > 10


def test_revisions_of_random_layouts_are_those_of_the_script_directory(
    tmp_path: Path, rounds: int
) -> None:
    """To try more of them: `pytest -n 0 -k random_layouts --rounds 50`."""
    numbers = range(10 * rounds)
    directories = {n: random_layout(n).write(tmp_path / f"{n}") for n in numbers}
    expected = dict(zip(numbers, alembic_says(list(directories.values())), strict=True))
    # Several heads are a finding of this package.
    single = {n: told for n, told in expected.items() if told is None or heads(told) <= 1}
    found = asyncio.run(answers_of({n: directories[n] for n in single}, tmp_path / "state"))
    assert found == single
    assert len(single) > len(directories) / 4


def heads(told: Told) -> int:
    return len(set(told) - {parent for parents, _ in told.values() for parent in parents})


def is_read(directory: Path) -> bool:
    try:
        read_history(service("orders", directory=directory))
    except NotUnderstood:
        return False
    except MigrationError:
        return True
    return True


def new_histories(state: Path | None) -> AlembicHistories:
    # With the variables of this process, so that a fork is what a new interpreter would be.
    return AlembicHistories(settings=settings(**os.environ), state=state)


async def answers_of(directories: Mapping[Name, Path], state: Path) -> dict[Name, Told | None]:
    histories = new_histories(state)
    async with aclosing(histories):
        return {
            name: await told_by(histories, service(f"service{n}", directory=directory))
            for n, (name, directory) in enumerate(directories.items())
        }


async def told_by(histories: AlembicHistories, asked: Service) -> Told | None:
    try:
        history = await histories.history(asked)
    except MigrationError:
        return None
    return {
        each.id: [sorted(each.parents), str(each.path.resolve())]  # type: ignore[misc]  # as JSON
        for each in history.revisions.values()
    }


# An answer is cached until one of its inputs changes.


def counting(layout: Layout, directory: Path) -> Layout:
    """Return a layout whose revisions note each import."""
    note = f"open({str(directory / 'imports')!r}, 'a').write('x')\n"
    files = {n: t + note if n.endswith(".py") else t for n, t in layout.files.items()}
    return replace(layout, files=files)


CHANGES = {
    "a revision is added": (f"{VERSIONS}/c3.py", revision("c3", "b2"), ("c3",)),
    "a revision is edited": (
        f"{VERSIONS}/b2.py",
        'revision, down_revision = "b3", "a1"\n',
        ("b3",),
    ),
    "a module that a revision imports is edited": ("ids.py", 'NEXT = "b4"\n', ("b4",)),
    "the configuration names another directory": (
        "alembic.ini",
        "[alembic]\nscript_location = db\n",
        ("z9",),
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
async def test_revisions_are_asked_again_after_a_change_and_not_before(
    tmp_path: Path, change: tuple[str, str, tuple[str, ...]]
) -> None:
    layout = Layout(
        {
            **PLAIN,
            f"{VERSIONS}/b2.py": 'from ids import NEXT as revision\ndown_revision = "a1"\n',
            "ids.py": 'NEXT = "b2"\n',
            "db/versions/z9.py": revision("z9"),
        },
        ini="[alembic]\nscript_location = alembic\nprepend_sys_path = .\n",
    )
    directory = counting(layout, tmp_path).write(tmp_path / "orders")
    orders = service("orders", directory=directory)
    histories = new_histories(tmp_path / "state")
    async with aclosing(histories):
        for _ in range(3):
            assert (await histories.history(orders)).heads == ("b2",)
        asked_once = (tmp_path / "imports").read_text()
        (directory / "alembic/README").write_text("No revision.")
        assert (await histories.history(orders)).heads == ("b2",)
        assert (tmp_path / "imports").read_text() == asked_once
        path, text, found = change
        (directory / path).write_text(text)
        assert (await histories.history(orders)).heads == found


@pytest.mark.parametrize("damage", ["", "null", "[]", '{"format": 1}', "\0\0\0", "{" * 5000])
async def test_a_damaged_cache_file_is_ignored(tmp_path: Path, damage: str) -> None:
    layout = LAYOUTS["ids in a tuple"]
    orders = service("orders", directory=layout.write(tmp_path / "orders"))
    histories = new_histories(tmp_path / "state")
    async with aclosing(histories):
        assert (await histories.history(orders)).heads == ("b2",)
        (memory,) = (tmp_path / "state/alembic").glob("orders.revisions.*")
        memory.write_text(damage)
        assert (await histories.history(orders)).heads == ("b2",)
        assert json.loads(memory.read_bytes())["answer"]


async def test_the_error_of_alembic_for_a_file_that_it_cannot_load_is_shown(tmp_path: Path) -> None:
    layout = Layout({**PLAIN, f"{VERSIONS}/b2.py": "import no_such_module\n"})
    orders = service("orders", directory=layout.write(tmp_path / "orders"))
    histories = new_histories(None)
    async with aclosing(histories):
        with pytest.raises(MigrationError, match="no_such_module") as caught:
            await histories.history(orders)
    assert caught.value.code == "revisions-unreadable"
    assert "b2.py" in caught.value.output


# Version tables.


TWO_TABLES = (
    "CREATE SCHEMA orders",
    "CREATE TABLE orders.alembic_version (version_num varchar(32))",
    "CREATE TABLE public.alembic_version (version_num varchar(32))",
    "INSERT INTO orders.alembic_version VALUES ('b2')",
    "INSERT INTO public.alembic_version VALUES ('a1')",
)
IN_ITS_SCHEMA = ENV_PY.replace(
    CONFIGURE, 'context.configure(connection=connection, version_table_schema="orders")'
)
READ = {
    "states no table": (ENV_PY, "a1"),
    "states a schema": (IN_ITS_SCHEMA, "b2"),
    "names a constant": (
        ENV_PY.replace("def migrate", 'SCHEMA = "orders"\n\n\ndef migrate').replace(
            CONFIGURE, "context.configure(connection=connection, version_table_schema=SCHEMA)"
        ),
        "b2",
    ),
    "states another name": (
        ENV_PY.replace(
            CONFIGURE, 'context.configure(connection=connection, version_table="of_orders")'
        ),
        "no revision",
    ),
}
ASKED = {
    "computes the schema": (
        ENV_PY.replace(
            CONFIGURE,
            'context.configure(connection=connection, version_table_schema="".join(["orders"]))',
        ),
        "b2",
    ),
    "passes a dictionary": (
        ENV_PY.replace(
            CONFIGURE,
            'context.configure(**{"connection": connection, "version_table_schema": "orders"})',
        ),
        "b2",
    ),
    "leaves it to a helper": (
        ENV_PY.replace(
            CONFIGURE,
            "import helper\n    helper.set_up(context, connection)",
        ),
        "b2",
    ),
    "moves the search path": (
        ENV_PY.replace(
            CONFIGURE,
            "from sqlalchemy import text\n"
            '    connection.execute(text("SET search_path TO orders"))\n'
            "    connection.commit()\n"
            f"    {CONFIGURE}",
        ),
        "b2",
    ),
    "makes its schema first": (
        ENV_PY.replace(
            CONFIGURE,
            "from sqlalchemy import text\n"
            '    connection.execute(text("CREATE SCHEMA IF NOT EXISTS orders"))\n'
            "    schema = connection.execute(text(\"SELECT 'orders'\")).scalar_one()\n"
            "    connection.commit()\n"
            "    context.configure(connection=connection, version_table_schema=schema)",
        ),
        "b2",
    ),
    "asks another session of its own": (
        ENV_PY.replace(
            "asyncio.run(main())",
            "import asyncpg\n\n\nasync def look():\n"
            '    connection = await asyncpg.connect(database_url().replace("+asyncpg", ""))\n'
            "    SCHEMA.append(await connection.fetchval(\"SELECT 'orders'\"))\n"
            "    await connection.close()\n\n\nSCHEMA = []\nasyncio.run(look())\n"
            "asyncio.run(main())",
        ).replace(
            CONFIGURE, "context.configure(connection=connection, version_table_schema=SCHEMA[0])"
        ),
        "b2",
    ),
}
HELPER = """\
def set_up(context, connection):
    context.configure(connection=connection, version_table_schema="orders")
"""
# One history, and a version table in the schema of each tenant.
TENANTS = ENV_PY.replace(
    f"""\
    {CONFIGURE}
    with context.begin_transaction():
        context.run_migrations()
""",
    """\
    from sqlalchemy import text
    for (schema,) in connection.execute(text("SELECT schema FROM tenant ORDER BY 1")).all():
        connection.execute(text(f"SET search_path TO {schema}"))
        connection.commit()
        context.configure(connection=connection, version_table_schema=schema)
        with context.begin_transaction():
            context.run_migrations()
        connection.commit()
""",
)


async def case_of(bench: Bench, env_py: str) -> Case:
    """Make a service of two revisions, with a database that has two version tables."""
    case = await bench.case(env_py, a1=sql("SELECT 1"), b2=sql("SELECT 2"))
    bench.write(case.service.name, "../helper.py", HELPER)
    await case.ask(*TWO_TABLES)
    return case


async def current(case: Case, histories: AlembicHistories) -> str:
    async with connection(case.url) as asked:
        history: History = await histories.history(case.service, case.url)
        found = await histories.current(case.service, case.url, asked, history)
    return ", ".join(found) or "no revision"


def noting(env_py: str, directory: Path) -> str:
    """Return an `env.py` that notes each run."""
    return f"open({str(directory / 'runs')!r}, 'a').write('x')\n{env_py}"


@pytest.mark.parametrize(("env_py", "found"), READ.values(), ids=READ)
async def test_a_literal_version_table_is_read_without_running_env_py(
    bench: Bench, tmp_path: Path, env_py: str, found: str
) -> None:
    case = await case_of(bench, noting(env_py, tmp_path))
    histories = AlembicHistories(settings=case.settings, state=tmp_path / "state")
    async with aclosing(histories):
        assert await current(case, histories) == found
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("env_py", "found"), ASKED.values(), ids=ASKED)
async def test_env_py_is_asked_for_any_other_version_table(
    bench: Bench, tmp_path: Path, env_py: str, found: str
) -> None:
    case = await case_of(bench, noting(env_py, tmp_path))
    histories = AlembicHistories(settings=case.settings, state=tmp_path / "state")
    async with aclosing(histories):
        for _ in range(3):
            assert await current(case, histories) == found
    depends_on_data = "SELECT" in env_py
    assert (tmp_path / "runs").read_text() == ("xxx" if depends_on_data else "x")
    made = await case.ask("SELECT count(*) FROM pg_class WHERE relname = 'alembic_version'")
    assert made == [(2,)]


async def test_env_py_is_asked_again_when_an_input_has_changed(
    bench: Bench, tmp_path: Path
) -> None:
    env_py = ENV_PY.replace(
        CONFIGURE,
        "import os, helper\n"
        "    schema = os.environ.get('A_SCHEMA', helper.SCHEMA)\n"
        "    context.configure(connection=connection, version_table_schema=schema)",
    )
    case = await case_of(bench, noting(env_py, tmp_path))
    helper = bench.write(case.service.name, "../helper.py", 'SCHEMA = "orders"\n')
    state = tmp_path / "state"
    async with aclosing(AlembicHistories(settings=case.settings, state=state)) as histories:
        assert [await current(case, histories) for _ in range(2)] == ["b2", "b2"]
        assert (tmp_path / "runs").read_text() == "x"
    # Of another size: Python compares the size and the whole second of a compiled module.
    helper.write_text('SCHEMA = "public"  # no longer "orders"\n')
    # Another command; one computes each digest once.
    async with aclosing(AlembicHistories(settings=case.settings, state=state)) as histories:
        assert await current(case, histories) == "a1"
        process = {**case.settings.process, "A_SCHEMA": "orders"}
        histories.settings = replace(case.settings, process=process)
        assert await current(case, histories) == "b2"
        assert (tmp_path / "runs").read_text() == "xxx"


async def test_the_least_advanced_tenant_is_the_current_revision_of_a_database(
    bench: Bench, tmp_path: Path
) -> None:
    case = await bench.case(TENANTS, a1=sql("SELECT 1"), b2=sql("SELECT 2"))
    await case.ask(
        "CREATE TABLE tenant (schema text)",
        *(f"CREATE SCHEMA {name}" for name in ("one", "two", "three")),
        "INSERT INTO tenant VALUES ('one'), ('two')",
    )
    histories = AlembicHistories(settings=case.settings, state=tmp_path / "state")
    async with aclosing(histories):
        assert (await case.upgrade()).after == ("b2",)
        assert await current(case, histories) == "b2"
        await case.ask("UPDATE two.alembic_version SET version_num = 'a1'")
        assert await current(case, histories) == "a1"
        await case.ask("INSERT INTO tenant VALUES ('three')")
        assert await current(case, histories) == "no revision"
        assert (await case.upgrade()).after == ("b2",)
        assert await current(case, histories) == "b2"


async def test_an_env_py_that_connects_to_a_different_database_is_refused(
    bench: Bench, tmp_path: Path
) -> None:
    decoy = await bench.case()
    env_py, _ = ASKED["computes the schema"]
    case = await case_of(bench, env_py.replace("database_url()", f"'{decoy.url.reveal()}'"))
    histories = AlembicHistories(settings=case.settings, state=tmp_path / "state")
    async with aclosing(histories):
        with pytest.raises(Refused) as caught:
            await current(case, histories)
    assert caught.value.code == "target-mismatch"


async def test_several_possible_version_tables_are_an_error_if_env_py_cannot_be_asked(
    bench: Bench, tmp_path: Path
) -> None:
    case = await case_of(bench, "raise LookupError('no such region')\n")
    histories = AlembicHistories(settings=case.settings, state=tmp_path / "state")
    async with aclosing(histories):
        with pytest.raises(ServerError) as caught:
            await current(case, histories)
        assert caught.value.code == "version-table-unknown"
        assert '"orders"."alembic_version", "public"."alembic_version"' in caught.value.message
        await case.ask("DROP TABLE public.alembic_version")
        assert await current(case, histories) == "b2"


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE alembic_version ADD COLUMN applied_at timestamptz DEFAULT now()",
        "ALTER TABLE alembic_version ADD COLUMN gone int; ALTER TABLE alembic_version DROP gone",
        "CREATE TABLE release (version_num varchar(32)); INSERT INTO release VALUES ('x')",
    ],
)
async def test_other_columns_and_other_tables_are_ignored(
    bench: Bench, tmp_path: Path, statement: str
) -> None:
    case = await bench.migrated(ENV_PY, "SELECT 1")
    await case.ask(*statement.split("; "))
    histories = AlembicHistories(settings=case.settings, state=tmp_path / "state")
    async with aclosing(histories):
        assert await current(case, histories) == "a1"


def test_not_understood_is_an_expected_failure() -> None:
    assert issubclass(NotUnderstood, HuleEduError)
