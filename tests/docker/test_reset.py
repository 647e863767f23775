"""A reset, in place or with a new volume, results in the state of a freshly initialised volume.

That includes what an init script created when the volume was initialised: objects in the database,
and properties of the database.

TEST_INTERRUPTIONS is the number of moments, spread over a reset, at which it is interrupted. The
long campaign is `TEST_INTERRUPTIONS=40 pytest tests/docker -k at_any_moment`.
"""

import asyncio
import os
import re
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import pytest

from tests.support.docker import DATA, IDLE, SCRIPTS, Docked, inside, new_docked
from tests.support.instant import COPIED, REBUILT
from tests.support.monorepo import PASSWORD, USER, wait_until
from tests.support.postgres import ask, connect, fetch, wait_for

INTERRUPTIONS = int(os.environ.get("TEST_INTERRUPTIONS", "1"))
# The arguments of the interrupted command, and its duration in seconds.
INTERRUPTED: Sequence[tuple[Sequence[str], float]] = [((), 1.5), (("--volumes",), 4.0)]
DATABASE = "huleedu_alpha"
INIT_SNAPSHOT = f"{DATABASE}__pristine"
INIT_SCRIPT = f"""\
CREATE EXTENSION pg_trgm;
CREATE ROLE reader;
CREATE ROLE writer NOINHERIT;
GRANT reader TO {USER};
CREATE SCHEMA legacy AUTHORIZATION writer;
CREATE TABLE legacy.kept AS SELECT 'row ' || number AS text FROM generate_series(1, 5) number;
GRANT SELECT ON legacy.kept TO reader;
REVOKE CONNECT, TEMPORARY ON DATABASE {DATABASE} FROM PUBLIC;
GRANT CONNECT ON DATABASE {DATABASE} TO reader;
GRANT CREATE, CONNECT ON DATABASE {DATABASE} TO writer WITH GRANT OPTION;
ALTER DATABASE {DATABASE} SET search_path TO public, legacy, "odd ""name";
ALTER DATABASE {DATABASE} SET timezone TO 'Europe/Stockholm';
ALTER DATABASE {DATABASE} SET app.motto TO 'it''s, a \\ test';
ALTER DATABASE {DATABASE} SET statement_timeout TO '40s';
ALTER ROLE writer IN DATABASE {DATABASE} SET role TO 'reader';
ALTER DATABASE {DATABASE} CONNECTION LIMIT 50;
COMMENT ON DATABASE {DATABASE} IS 'Made by the team''s own script. ';
"""
BUSY_APPLICATION = f"""\
export PGHOST=alpha_db PGUSER={USER} PGDATABASE={DATABASE}
export PGPASSWORD='{PASSWORD.replace("$", "$$")}'
while :; do psql -c 'CREATE TABLE IF NOT EXISTS busy ()'; sleep 0.1; done
"""
# Whether the server has counted a session on the database.
COUNTED = f"SELECT sessions > 0 FROM pg_stat_database WHERE datname = '{DATABASE}'"
WAITING = """
SELECT EXISTS (
    SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND backend_type = 'client backend'
)
"""
INITDB_DONE = b"Success."
# Changes of a day's work, in the database and to its properties.
DIRT = (
    "DROP SCHEMA legacy CASCADE",
    "DROP EXTENSION pg_trgm",
    "CREATE TABLE litter AS SELECT 1 AS one",
    "INSERT INTO note VALUES (99, 'dirt')",
    f"ALTER DATABASE {DATABASE} RESET ALL",
    f"ALTER DATABASE {DATABASE} SET work_mem TO '7MB'",
    f"ALTER DATABASE {DATABASE} CONNECTION LIMIT 9",
    f"GRANT ALL ON DATABASE {DATABASE} TO PUBLIC",
    f"REVOKE ALL ON DATABASE {DATABASE} FROM reader",
    f"COMMENT ON DATABASE {DATABASE} IS NULL",
)
ABOUT = f"""
SELECT jsonb_build_object(
    'owner', pg_get_userbyid(datdba),
    'comment', split_part(shobj_description(oid, 'pg_database'), 'huleedu-tasks ', 1),
    'limit', datconnlimit, 'open', datallowconn, 'template', datistemplate,
    'encoding', encoding, 'collate', datcollate, 'ctype', datctype,
    'grants', (SELECT jsonb_agg(item::text ORDER BY item::text) FROM unnest(datacl) item),
    'settings', (SELECT jsonb_agg(ARRAY[setrole::regrole::text] || setconfig ORDER BY setrole)
                 FROM pg_db_role_setting WHERE setdatabase = pg_database.oid)
) FROM pg_database WHERE datname = '{DATABASE}'
"""
EXTENSIONS = "SELECT extname, extversion, extowner::regrole FROM pg_extension ORDER BY extname"
# A key that differs in each dump.
_RESTRICT = re.compile(r"^\\(un)?restrict .*\n", re.MULTILINE)


@dataclass(frozen=True)
class State:
    """The content and the properties of a database."""

    dump: str
    about: str
    extensions: str


def state(docked: Docked) -> State:
    dump = inside(docked.container("alpha_db"), "pg_dump", "-U", USER, DATABASE)
    ((about,),) = ask(docked.url("alpha", database="postgres"), ABOUT)
    return State(
        dump=_RESTRICT.sub("", dump),
        about=about,
        extensions=str(ask(docked.url("alpha"), EXTENSIONS)),
    )


@dataclass(frozen=True)
class Scripted:
    """A monorepo with an init script, and the state of its database on a fresh volume."""

    docked: Docked
    fresh: State

    def reset(self, *arguments: str) -> str:
        """Reset the database, and return how it was done."""
        ran = self.docked.invoke("db.reset", "--json", *arguments)
        assert ran.code == 0, ran.out + ran.err
        (row,) = ran.json["services"]
        return str(row["detail"])

    def life(self) -> tuple[str, str]:
        return self.docked.lives()["alpha_db"]


@pytest.fixture(scope="module")
def scripted() -> Iterator[Scripted]:
    """A fresh volume that `docker compose up` initialised, migrated and seeded."""
    with new_docked("alpha", mounts=[f"./init.sql:{SCRIPTS}/init.sql:ro"]) as docked:
        docked.write("init.sql", INIT_SCRIPT)
        docked.up()
        ran = docked.invoke("db.migrate", "db.seed")
        assert ran.code == 0, ran.out + ran.err
        yield Scripted(docked, state(docked))


def test_the_fresh_state_has_the_objects_of_the_init_script(scripted: Scripted) -> None:
    assert "pg_trgm" in scripted.fresh.extensions
    assert "Europe/Stockholm" in scripted.fresh.about
    assert "Made by the team's own script." in scripted.fresh.about
    assert "row 5" in scripted.fresh.dump
    assert "first" in scripted.fresh.dump


@pytest.mark.parametrize(
    ("flags", "detail"),
    [((), REBUILT), ((), COPIED), (("--fresh",), REBUILT), (("--volumes",), REBUILT)],
    ids=["the first", "by template", "fresh", "volumes"],
)
async def test_a_reset_results_in_the_fresh_state_although_sessions_are_open(
    scripted: Scripted, flags: tuple[str, ...], detail: str
) -> None:
    docked, volumes = scripted.docked, "--volumes" in flags
    life, birth, names = scripted.life(), docked.birth("alpha_db"), docked.volumes()
    await fetch(docked.url("alpha"), *DIRT)
    assert await asyncio.to_thread(state, docked) != scripted.fresh
    session = await connect(docked.url("alpha"))
    await session.execute("BEGIN; LOCK TABLE note")
    assert await asyncio.to_thread(scripted.reset, *flags) == detail
    assert await asyncio.to_thread(state, docked) == scripted.fresh
    assert session.is_closed()
    assert (scripted.life() != life) is volumes
    assert (docked.birth("alpha_db") != birth) is volumes
    assert docked.volumes() == names


def test_a_changed_init_script_recreates_the_volume_once(scripted: Scripted) -> None:
    """The file is replaced, as editors do it; the container still has the old file mounted."""
    docked = scripted.docked
    script = docked.write("new.sql", f"{INIT_SCRIPT}CREATE TABLE legacy.later ();\n")
    script.replace(docked.path("init.sql"))
    life = scripted.life()
    assert scripted.reset() == REBUILT
    recreated = scripted.life()
    assert "TABLE legacy.later" in state(docked).dump
    assert recreated != life
    assert scripted.reset() == COPIED
    assert scripted.life() == recreated
    assert "TABLE legacy.later" in state(docked).dump


def test_a_volume_that_was_used_before_its_init_snapshot_is_recreated_once(
    scripted: Scripted,
) -> None:
    docked = scripted.docked
    docked.compose("down", "--volumes")
    docked.write("init.sql", INIT_SCRIPT)
    docked.up()
    ask(docked.url("alpha"), "CREATE TABLE legacy.used ()")
    life = scripted.life()
    scripted.reset()
    recreated = scripted.life()
    assert recreated != life
    assert state(docked) == scripted.fresh
    scripted.reset()
    assert scripted.life() == recreated
    assert state(docked) == scripted.fresh


def test_writes_of_an_application_are_not_part_of_the_init_snapshot(
    scripted: Scripted,
) -> None:
    docked = scripted.docked
    docked.define(app={**IDLE, "command": ["sh", "-c", BUSY_APPLICATION]})
    docked.compose("up", "--detach", "app", "--no-deps")
    scripted.reset("--volumes")
    wait_until(lambda: "busy" in state(docked).dump)
    docked.container("app").remove(force=True)
    docked.define(app=None)
    scripted.reset()
    assert state(docked) == scripted.fresh


async def test_a_write_between_the_check_and_the_copy_is_not_part_of_the_init_snapshot(
    scripted: Scripted,
) -> None:
    docked = scripted.docked
    docked.compose("down", "--volumes")
    docked.up()
    maintenance = docked.url("alpha", database="postgres")
    application = await connect(docked.url("alpha"))
    await wait_for(lambda: fetch(maintenance, COUNTED), [(True,)])
    # The lock needs no transaction id, and blocks the commands that create or drop a database.
    blocking = await connect(maintenance)
    await blocking.execute("BEGIN; LOCK pg_database IN SHARE MODE")
    tool = docked.start("db.up")
    await wait_for(lambda: fetch(maintenance, WAITING), [(True,)])
    await application.execute("CREATE TABLE busy ()")
    await blocking.close()
    out, error = await asyncio.to_thread(tool.communicate)
    assert tool.returncode == 0, f"{out}{error}"
    snapshots = f"SELECT FROM pg_database WHERE datname = '{INIT_SNAPSHOT}'"
    assert await fetch(maintenance, snapshots) == []
    await asyncio.to_thread(scripted.reset)
    assert await asyncio.to_thread(state, docked) == scripted.fresh


@pytest.mark.parametrize(
    "half",
    [
        pytest.param(
            (f"DROP DATABASE {INIT_SNAPSHOT}", f"CREATE DATABASE {INIT_SNAPSHOT}"), id="the copy"
        ),
        pytest.param((f"DROP DATABASE {DATABASE} WITH (FORCE)",), id="the database"),
    ],
)
def test_an_incomplete_reset_is_repaired(scripted: Scripted, half: Sequence[str]) -> None:
    scripted.reset()
    ask(scripted.docked.url("alpha", database="postgres"), *half)
    scripted.reset()
    assert state(scripted.docked) == scripted.fresh


def test_a_reset_that_was_killed_without_its_volume_is_repaired_by_the_next(
    scripted: Scripted,
) -> None:
    docked = scripted.docked
    (life,) = docked.lives().values()
    tool = docked.start("db.reset", "--volumes")
    wait_until(lambda: life not in docked.lives().values())
    interrupt(tool, signal.SIGKILL)
    scripted.reset()
    assert state(docked) == scripted.fresh


def test_a_volume_with_an_interrupted_initdb_is_recreated(scripted: Scripted) -> None:
    """The image does not run `initdb` again, and its server cannot start."""
    docked = scripted.docked
    # A busy machine may be too slow for it.
    wait_until(lambda: is_killed_during_initdb(docked))
    scripted.reset()
    assert state(docked) == scripted.fresh


def is_killed_during_initdb(docked: Docked) -> bool:
    """Kill a container with a new volume as soon as `initdb` has begun, which may have ended."""
    docked.compose("down", "--volumes")
    docked.compose("up", "--detach")
    container = docked.container("alpha_db")
    wait_until(lambda: container.exec_run(["test", "-s", f"{DATA}/PG_VERSION"])[0] == 0)
    container.kill()
    return INITDB_DONE not in container.logs()


@pytest.mark.parametrize("moment", range(INTERRUPTIONS))
def test_a_reset_interrupted_at_any_moment_is_repaired_by_the_next(
    scripted: Scripted, moment: int
) -> None:
    arguments, seconds = INTERRUPTED[moment % 2]
    number = (signal.SIGINT, signal.SIGKILL)[moment // 2 % 2]
    tool = scripted.docked.start("db.reset", *arguments)
    with suppress(subprocess.TimeoutExpired):
        tool.wait(seconds * (moment + 0.5) / INTERRUPTIONS)
    interrupt(tool, number)
    scripted.reset()
    assert state(scripted.docked) == scripted.fresh


def interrupt(tool: "subprocess.Popen[str]", number: signal.Signals) -> None:
    """Send a signal to a command that may already have ended, and wait for its end."""
    tool.send_signal(number)
    tool.communicate()
    # Invoke ends with 1 if it is interrupted while it loads the tasks.
    assert tool.returncode in (0, 1, 130, -signal.SIGINT, -signal.SIGKILL)
