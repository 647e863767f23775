"""The instructions for a run of Alembic, and its events: settings, revisions, and SQL."""

import json

import pytest

from huleedu_tasks.migrations.alembic_failures import LockTimeout
from huleedu_tasks.migrations.observation import applied_revisions
from tests.support.alembic_bench import TOLD, Bench, sql
from tests.support.monorepo import ENV_PY

NOTE = "CREATE TABLE note (id integer PRIMARY KEY, text text NOT NULL)"
ONE = "INSERT INTO note VALUES (1, 'one')"
BUSY = "ALTER TABLE busy ADD COLUMN more text"
CONFIGURE = "context.configure(connection=connection)"
PER_MIGRATION = ENV_PY.replace(
    CONFIGURE, "context.configure(connection=connection, transaction_per_migration=True)"
)
OUTER = ENV_PY.replace("engine.connect()", "engine.begin()").replace(
    "        await connection.commit()\n", ""
)
AUTOCOMMIT = ENV_PY.replace("poolclass", "isolation_level='AUTOCOMMIT', poolclass")
# The env.py of `alembic init -t async`.
OFFLINE = ENV_PY.replace(
    "asyncio.run(main())",
    """\
if context.is_offline_mode():
    context.configure(url=database_url(), literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()
else:
    asyncio.run(main())
""",
)
ENV_PYS = {
    "one transaction": ENV_PY,
    "a transaction each": PER_MIGRATION,
    "a transaction of its own": OUTER,
}
BY_ENV_PY = pytest.mark.parametrize("env_py", ENV_PYS.values(), ids=ENV_PYS)
# Opens another connection before it migrates.
FIRST = """
import json, os
from sqlalchemy import text

async def first():
    engine = create_async_engine(database_url(), poolclass=NullPool)
    async with engine.connect() as connection:
        {does}
        await connection.commit()
    await engine.dispose()

asyncio.run(first())
"""
SETTINGS = ("application_name", "lock_timeout", "statement_timeout")
RECORD = "INSERT INTO told VALUES " + ", ".join(
    f"({name!r}, current_setting({name!r}))" for name in SETTINGS
)
IN_A_BLOCK = "with op.get_context().autocommit_block():\n    op.execute({sql!r})"
CONCURRENTLY = IN_A_BLOCK.format(sql="CREATE INDEX CONCURRENTLY by_text ON note (text)")
INDEXES = "SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = 'note'::regclass"


def before_migrating(does: str) -> str:
    return ENV_PY.replace("asyncio.run(main())", f"{FIRST.format(does=does)}\nasyncio.run(main())")


# Settings.


@BY_ENV_PY
async def test_settings_apply_in_every_revision_and_in_an_autocommit_block(
    bench: Bench, env_py: str
) -> None:
    case = await bench.case(
        env_py,
        a1=sql("CREATE TABLE told (name text, value text)", RECORD),
        b2=IN_A_BLOCK.format(sql=RECORD) if env_py is not OUTER else sql(RECORD),
        c3=sql(RECORD),
    )
    migrated = await case.upgrade()
    assert (migrated.before, migrated.after) == ((), ("c3",))
    told = await case.ask("SELECT name, value, count(*) FROM told GROUP BY 1, 2")
    assert sorted(told) == [(name, TOLD[name], 3) for name in SETTINGS]


async def test_settings_apply_to_each_session_and_are_not_in_the_environment(bench: Bench) -> None:
    does = """\
found = await connection.execute(text("SELECT current_setting('lock_timeout')"))
        line = [found.scalar_one(), "HULEEDU_WORKER" in os.environ]
        open("seen", "a").write(json.dumps(line))
"""
    case = await bench.case(
        before_migrating(does), a1=sql("CREATE TABLE told (name text, value text)", RECORD)
    )
    await case.upgrade()
    seen = json.loads((case.service.directory / "seen").read_text())
    assert seen == [TOLD["lock_timeout"], False]
    assert ("lock_timeout", TOLD["lock_timeout"]) in await case.ask("TABLE told")


async def test_a_refused_optional_setting_is_skipped_and_the_others_apply(
    bench: Bench,
) -> None:
    case = await bench.case(a1=sql("CREATE TABLE told (name text, value text)", RECORD))
    await case.upgrade(session=await case.session(optional_settings={"no_such_setting": "on"}))
    assert ("lock_timeout", TOLD["lock_timeout"]) in await case.ask("TABLE told")


async def test_an_accepted_optional_setting_applies(bench: Bench) -> None:
    recorded = "INSERT INTO told SELECT current_setting('tcp_keepalives_idle')"
    case = await bench.case(a1=sql("CREATE TABLE told (value text)", recorded))
    await case.upgrade(session=await case.session(optional_settings={"tcp_keepalives_idle": "77"}))
    assert await case.ask("TABLE told") == [("77",)]


async def test_a_setting_that_the_server_refuses_ends_the_run_before_any_revision(
    bench: Bench,
) -> None:
    case = await bench.case(a1=sql(NOTE))
    error = await case.failing(await case.session({"no_such_setting": "on"}))
    assert "no_such_setting" in error.message
    assert await case.ask("SELECT to_regclass('note')") == [(None,)]


# Failed revisions that may be partially applied.


@BY_ENV_PY
async def test_a_lock_timeout_names_the_statement_and_rolls_the_revision_back(
    bench: Bench, env_py: str
) -> None:
    case = await bench.migrated(env_py, NOTE, "CREATE TABLE busy ()")
    bench.revise(case.service.name, "b2", "a1", sql(ONE))
    bench.revise(case.service.name, "c3", "b2", sql("INSERT INTO note VALUES (2, 'two')", BUSY))
    session = await case.session()
    async with case.locked("busy"):
        error = await case.failing(session)
    assert isinstance(error, LockTimeout)
    assert error.message == f"A statement timed out while waiting for a lock: {BUSY}"
    assert "HULEEDU_LOCK_TIMEOUT" in error.hint
    assert not await case.kept()
    kept = env_py is PER_MIGRATION
    assert await case.revisions() == (["b2"] if kept else ["a1"])
    assert await case.ask("SELECT id FROM note") == ([(1,)] if kept else [])
    assert (await case.upgrade()).after == ("c3",)


@pytest.mark.parametrize("env_py", [ENV_PY, PER_MIGRATION], ids=["one", "each"])
async def test_a_lock_on_the_version_table_rolls_the_revision_back(
    bench: Bench, env_py: str
) -> None:
    case = await bench.migrated(env_py, NOTE)
    bench.revise(case.service.name, "b2", "a1", sql(ONE))
    async with case.locked("alembic_version", "SHARE"):
        error = await case.failing()
    assert isinstance(error, LockTimeout)
    assert "alembic_version" in error.message
    assert not await case.kept()
    assert await case.ask("SELECT id FROM note") == []


PARTS = {
    "an index built concurrently": CONCURRENTLY,
    "work before a block that commits it": f"{sql(ONE)}\n{IN_A_BLOCK.format(sql='SELECT 1')}",
    "a change in a block": IN_A_BLOCK.format(sql=ONE),
    "a COMMIT of its own": sql(ONE, "COMMIT", "BEGIN"),
    "a COMMIT in lower case": sql(ONE, " commit; ", "begin"),
    "a COMMIT under another name": sql(ONE, "END", "BEGIN"),
    "a COMMIT by the connection": f"{sql(ONE)}\nop.get_bind().commit()\nop.get_bind().begin()",
}


@pytest.mark.parametrize("part", PARTS)
async def test_a_commit_before_a_lock_timeout_is_reported(bench: Bench, part: str) -> None:
    case = await bench.migrated(PER_MIGRATION, NOTE, "CREATE TABLE busy ()")
    bench.revise(case.service.name, "b2", "a1", f"{PARTS[part]}\n{sql(BUSY)}")
    async with case.locked("busy"):
        error = await case.failing()
    assert await case.revisions() == ["a1"]
    stayed = await case.ask("SELECT id FROM note") or len(await case.ask(INDEXES)) > 1
    assert stayed
    assert isinstance(error, LockTimeout), error.message
    assert await case.kept() == "b2"


async def test_an_autocommit_block_that_only_reads_is_not_reported(bench: Bench) -> None:
    case = await bench.migrated(PER_MIGRATION, "CREATE TABLE busy ()")
    looking = IN_A_BLOCK.format(sql="SHOW search_path")
    bench.revise(case.service.name, "b2", "a1", f"{looking}\n{sql(BUSY)}")
    async with case.locked("busy"):
        error = await case.failing()
    assert isinstance(error, LockTimeout)
    assert not await case.kept()


HARMLESS = {
    "a block of code": sql("DO $$ BEGIN PERFORM 1; END $$"),
    "a word in a string": sql("SELECT 'first; END'"),
    "a comment": sql("SELECT 1 -- ; COMMIT"),
}


@pytest.mark.parametrize("part", HARMLESS)
async def test_the_word_commit_in_other_statements_is_not_a_commit(bench: Bench, part: str) -> None:
    case = await bench.migrated(PER_MIGRATION, "CREATE TABLE busy ()")
    bench.revise(case.service.name, "b2", "a1", f"{HARMLESS[part]}\n{sql(BUSY)}")
    async with case.locked("busy"):
        error = await case.failing()
    assert isinstance(error, LockTimeout)
    assert not await case.kept()


CAUGHT = """\
from sqlalchemy.exc import DBAPIError
try:
    with op.get_bind().begin_nested():
        op.execute("SELECT 1/0")
except DBAPIError:
    op.execute("SELECT no_such_column")
"""


async def test_a_handled_error_is_not_the_cause_of_the_next_one(bench: Bench) -> None:
    case = await bench.case(a1=f"{CAUGHT}")
    error = await case.failing()
    assert error.message == 'Revision a1 failed: column "no_such_column" does not exist'


async def test_an_env_py_may_open_databases_other_than_postgresql(bench: Bench) -> None:
    does = "sqlalchemy.create_engine('sqlite://').connect().exec_driver_sql('SELECT 1')"
    case = await bench.case(f"import sqlalchemy\n\n{does}\n{ENV_PY}", a1=sql(NOTE))
    assert (await case.upgrade()).after == ("a1",)


async def test_a_concurrent_index_build_that_timed_out_is_reported_as_partially_applied(
    bench: Bench,
) -> None:
    case = await bench.migrated(PER_MIGRATION, NOTE)
    bench.revise(case.service.name, "b2", "a1", CONCURRENTLY)
    async with case.locked("note", "ROW EXCLUSIVE"):
        error = await case.failing()
    assert isinstance(error, LockTimeout)
    assert await case.kept() == "b2"
    assert ("by_text",) in await case.ask(INDEXES)


async def test_a_failed_revision_in_autocommit_mode_is_reported_as_partially_applied(
    bench: Bench,
) -> None:
    case = await bench.migrated(AUTOCOMMIT, NOTE, "CREATE TABLE busy ()")
    bench.revise(case.service.name, "b2", "a1", sql(ONE, BUSY))
    async with case.locked("busy"):
        error = await case.failing()
    assert isinstance(error, LockTimeout)
    assert await case.kept() == "b2"
    assert await case.ask("SELECT id FROM note") == [(1,)]


async def test_a_statement_timeout_names_the_statement_and_the_setting(bench: Bench) -> None:
    case = await bench.case(a1=sql(NOTE, f"SELECT pg_sleep(60), '{'long ' * 99}'"))
    error = await case.failing(await case.session({"statement_timeout": "200ms"}))
    assert not isinstance(error, LockTimeout)
    assert error.message.startswith(
        "A statement exceeded statement_timeout: SELECT pg_sleep(60), 'long"
    )
    assert len(error.message) < 200
    assert "HULEEDU_STATEMENT_TIMEOUT" in error.hint
    assert "'statement_timeout' in the registry" in error.hint
    assert not await case.kept()
    assert await case.ask("SELECT to_regclass('note')") == [(None,)]


async def test_a_failed_revision_reports_its_cause_and_was_rolled_back(bench: Bench) -> None:
    case = await bench.case(a1=sql(NOTE, "SELECT no_such_column FROM note"))
    error = await case.failing()
    assert not isinstance(error, LockTimeout)
    assert "no_such_column" in error.message
    assert "Traceback" in error.output
    assert not await case.kept()


async def test_a_run_without_a_final_event_has_no_partially_applied_revision(bench: Bench) -> None:
    case = await bench.case(a1=f"{sql(NOTE)}\nimport os\nos._exit(9)")
    error = await case.failing()
    assert "exit code 9" in error.message
    assert not await case.kept()


# Applied revisions.


async def test_the_database_decides_which_revisions_were_applied(bench: Bench) -> None:
    for env_py, counted in ((ENV_PY, []), (PER_MIGRATION, ["a1", "b2"])):
        case = await bench.case(
            env_py, a1=sql(NOTE), b2=sql(ONE), c3=sql("SELECT no_such_column FROM note")
        )
        session = await case.session()
        await case.failing(session)
        assert [e["revision"] for e in session.read_events() if e["event"] == "run"] == ["a1", "b2"]
        assert [e["revision"] for e in session.read_events() if e["event"] == "begun"] == [
            "a1",
            "b2",
            "c3",
        ]
        after = await case.revisions() if counted else []
        found = applied_revisions([session], case.history, (), after)
        assert [each.revision for each in found] == counted
        for each in found:
            assert each.message == f"Revision {each.revision}"
            assert each.seconds is not None


async def test_revisions_of_several_attempts_are_listed_once_in_order(bench: Bench) -> None:
    case = await bench.case(PER_MIGRATION, a1=sql(NOTE), b2=sql(ONE))
    first, second = await case.session(), await case.session()
    await case.upgrade("a1", first)
    await case.upgrade(session=second)
    found = applied_revisions([first, second], case.history, (), ("b2",))
    assert [each.revision for each in found] == ["a1", "b2"]
    (only,) = applied_revisions([second], case.history, ("a1",), ("b2",))
    assert only.revision == "b2"


async def test_a_revision_without_an_event_has_no_duration(bench: Bench) -> None:
    case = await bench.case(a1=sql(NOTE))
    session = await case.session()
    (found,) = applied_revisions([session], case.history, (), ("a1",))
    assert (found.revision, found.seconds) == ("a1", None)


async def test_an_incomplete_line_of_events_is_ignored(bench: Bench) -> None:
    case = await bench.case(a1=sql(NOTE))
    session = await case.session()
    assert session.read_events() == []
    case.events.write_text('{"event": "begun", "revision": "a1"}\n{"event": "ru')
    assert session.read_events() == [{"event": "begun", "revision": "a1"}]


# SQL.

RENDERING = pytest.mark.parametrize("env_py", [ENV_PY, OFFLINE], ids=["online", "offline"])
READS = "rows = op.get_bind().execute(sa.text('SELECT id FROM note')).fetchall()"


@RENDERING
async def test_the_sql_of_each_revision_is_rendered_without_that_of_alembic(
    bench: Bench, env_py: str
) -> None:
    column = "op.add_column('note', sa.Column('more', sa.Text, server_default='å'))"
    case = await bench.case(
        env_py, a1=sql(NOTE), b2=f"import sqlalchemy as sa\n{column}", c3=CONCURRENTLY, d4="pass"
    )
    rendered = await case.render()
    assert (rendered.problem, rendered.unrendered) == ("", {})
    assert list(rendered.sql) == ["a1", "b2", "c3", "d4"]
    assert rendered.sql["a1"].strip() == f"{NOTE};"
    assert rendered.sql["b2"].strip() == "ALTER TABLE note ADD COLUMN more TEXT DEFAULT 'å';"
    assert "CREATE INDEX CONCURRENTLY by_text ON note (text);" in rendered.sql["c3"]
    assert rendered.sql["d4"].strip() == ""
    assert not [text for text in rendered.sql.values() if "alembic_version" in text]
    assert await case.ask("SELECT to_regclass('note'), to_regclass('alembic_version')") == [
        (None, None)
    ]


@RENDERING
async def test_a_revision_that_reads_data_is_named_and_later_ones_are_rendered(
    bench: Bench, env_py: str
) -> None:
    case = await bench.case(
        env_py,
        a1=sql(NOTE),
        b2=f"import sqlalchemy as sa\n{sql(ONE)}\n{READS}",
        c3=sql("DROP TABLE note"),
        d4="raise LookupError('first line\\nsecond line')",
    )
    rendered = await case.render()
    assert rendered.problem == ""
    assert {name: text.strip() for name, text in rendered.sql.items()} == {
        "a1": f"{NOTE};",
        "c3": "DROP TABLE note;",
    }
    assert list(rendered.unrendered) == ["b2", "d4"]
    assert "Error: " in rendered.unrendered["b2"]
    assert rendered.unrendered["d4"] == "LookupError: first line"


@RENDERING
@pytest.mark.parametrize(("start", "found"), [(("a1",), ["b2", "c3"]), (("c3",), [])])
async def test_sql_begins_after_the_given_revision_whatever_the_database_records(
    bench: Bench, env_py: str, start: tuple[str, ...], found: list[str]
) -> None:
    case = await bench.case(env_py, a1=sql(NOTE), b2=sql(ONE), c3=sql("DROP TABLE note"))
    rendered = await case.render(*start)
    assert (rendered.problem, rendered.unrendered) == ("", {})
    assert list(rendered.sql) == found


@pytest.mark.parametrize(
    ("start", "found"),
    [
        (("b2", "x2"), ["m3"]),
        (("b2",), ["x2", "m3"]),
        (("x2",), ["b2", "m3"]),
        (("a1",), ["b2", "m3", "x2"]),
    ],
)
async def test_sql_begins_after_the_given_revisions_of_several_branches(
    bench: Bench, start: tuple[str, ...], found: list[str]
) -> None:
    case = await bench.case(OFFLINE, a1=sql(NOTE), b2=sql(ONE))
    bench.revise(case.service.name, "x2", "a1", sql("INSERT INTO note VALUES (2, 'two')"))
    bench.revise(case.service.name, "m3", ("b2", "x2"), sql("DROP TABLE note"))
    rendered = await case.render(*start)
    assert rendered.problem == ""
    assert sorted(rendered.sql) == sorted(found)
    assert list(rendered.sql)[-1:] == ["m3"]


@pytest.mark.parametrize(
    "does",
    [
        "await connection.execute(text('INSERT INTO witness VALUES (1)'))",
        "await connection.execute(text('DROP TABLE witness'))",
    ],
)
async def test_an_env_py_that_writes_while_rendering_is_refused_by_the_server(
    bench: Bench, does: str
) -> None:
    case = await bench.case(before_migrating(does), a1=sql(NOTE))
    await case.ask("CREATE TABLE witness (id integer)")
    rendered = await case.render()
    assert "read-only transaction" in rendered.problem
    assert rendered.sql == {}
    assert await case.ask("SELECT count(*) FROM witness") == [(0,)]


async def test_a_revision_that_writes_on_its_own_connection_while_rendering_is_refused(
    bench: Bench,
) -> None:
    own = """\
import asyncio
from config import database_url
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

async def write():
    async with create_async_engine(database_url()).begin() as connection:
        await connection.execute(text("INSERT INTO witness VALUES (1)"))

asyncio.run(write())
"""
    case = await bench.case(OFFLINE, a1=own, b2=sql(NOTE))
    await case.ask("CREATE TABLE witness (id integer)")
    rendered = await case.render()
    assert "read-only transaction" in rendered.unrendered["a1"]
    assert list(rendered.sql) == ["b2"]
    assert await case.ask("SELECT count(*) FROM witness") == [(0,)]


async def test_a_failure_of_env_py_is_reported_with_its_cause(bench: Bench) -> None:
    case = await bench.case("raise LookupError('no such region')\n", a1=sql(NOTE))
    rendered = await case.render()
    assert rendered.problem == "LookupError: no such region"
    assert rendered.sql == rendered.unrendered == {}
