"""A copy of a template is identical to a rebuilt database, for every kind of object."""

import asyncio
import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from functools import partial

import asyncpg
import psutil
import pytest

from huleedu_tasks.postgres.binaries import find_program
from tests.support.db_runs import without_initdb
from tests.support.instant import COPIED, REBUILT, Reset, maintain, reset, resets, templates
from tests.support.monorepo import PASSWORD, USER, Monorepo, is_dead, new_monorepo, wait_until
from tests.support.observe import notes
from tests.support.postgres import ask, connect

# The environment tag, and a key that differs in each dump.
_OURS = re.compile(r"huleedu-tasks \{.*\}|^\\(un)?restrict .*\n", re.MULTILINE)
_TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+\+\d\d")
DATABASE = "huleedu_alpha"
NASTY = (
    "CREATE EXTENSION IF NOT EXISTS pg_trgm",
    "CREATE SCHEMA legacy AUTHORIZATION writer",
    "CREATE TYPE legacy.mood AS ENUM ('good', 'bad')",
    "CREATE DOMAIN legacy.grade AS integer CHECK (VALUE BETWEEN 1 AND 5)",
    "CREATE TABLE pupil (id bigint GENERATED ALWAYS AS IDENTITY (START 7 INCREMENT 3),"
    " name text NOT NULL, length integer GENERATED ALWAYS AS (length(name)) STORED,"
    " mood legacy.mood DEFAULT 'good', grade legacy.grade)",
    "CREATE TABLE ticket (id serial PRIMARY KEY, changed integer DEFAULT 0)",
    "CREATE TABLE event (day date NOT NULL, what text) PARTITION BY RANGE (day)",
    "CREATE TABLE event_2025 PARTITION OF event FOR VALUES FROM ('2025-01-01') TO ('2026-01-01')",
    "CREATE INDEX pupil_name ON pupil USING gin (name gin_trgm_ops)",
    "CREATE STATISTICS pupil_both ON name, mood FROM pupil",
    "CREATE VIEW legacy.names AS SELECT name FROM pupil",
    "CREATE MATERIALIZED VIEW counted AS SELECT count(*) AS pupils FROM pupil",
    "CREATE FUNCTION count_change() RETURNS trigger LANGUAGE plpgsql AS"
    " 'BEGIN NEW.changed := OLD.changed + 1; RETURN NEW; END'",
    "CREATE TRIGGER counts BEFORE UPDATE ON ticket FOR EACH ROW EXECUTE FUNCTION count_change()",
    "ALTER TABLE ticket ENABLE ROW LEVEL SECURITY",
    "CREATE POLICY everybody ON ticket TO reader USING (true)",
    "CREATE PUBLICATION pupils FOR TABLE pupil",
    "ALTER TABLE ticket OWNER TO writer",
    "GRANT SELECT ON pupil TO reader",
    "GRANT USAGE ON SCHEMA legacy TO reader WITH GRANT OPTION",
    "ALTER DEFAULT PRIVILEGES IN SCHEMA legacy GRANT SELECT ON TABLES TO reader",
    "COMMENT ON TABLE pupil IS 'The team''s own words'",
    f"COMMENT ON DATABASE {DATABASE} IS 'Made by the \\ team''s own migration; '",
    f"ALTER DATABASE {DATABASE} SET timezone TO 'Europe/Stockholm'",
    f'ALTER DATABASE {DATABASE} SET search_path TO public, legacy, "odd ""name"',
    f"ALTER DATABASE {DATABASE} SET app.motto TO 'it''s, a \\ test'",
    f"ALTER ROLE writer IN DATABASE {DATABASE} SET work_mem TO '7MB'",
    f"ALTER DATABASE {DATABASE} CONNECTION LIMIT 50",
    f"REVOKE CONNECT, TEMPORARY ON DATABASE {DATABASE} FROM PUBLIC",
    f"GRANT CONNECT ON DATABASE {DATABASE} TO reader",
    f"GRANT CREATE, CONNECT ON DATABASE {DATABASE} TO writer WITH GRANT OPTION",
)
NASTY_SEED = """\
INSERT INTO pupil (name, grade) SELECT 'pupil ' || n, n % 5 + 1 FROM generate_series(1, 50) n;
INSERT INTO ticket DEFAULT VALUES;
SELECT setval('ticket_id_seq', 4711);
INSERT INTO ticket DEFAULT VALUES;
UPDATE ticket SET id = id;
INSERT INTO event VALUES ('2025-03-04', 'met');
SELECT lo_from_bytea(4242, 'large object');
GRANT SELECT ON LARGE OBJECT 4242 TO reader;
REFRESH MATERIALIZED VIEW counted;
INSERT INTO note VALUES (1, 'first'), (2, 'second');
"""
ABOUT = f"""
SELECT datconnlimit, datallowconn, datistemplate, pg_get_userbyid(datdba), datcollate, encoding,
    (SELECT array_agg(item::text ORDER BY item::text) FROM unnest(datacl) item),
    (SELECT array_agg(setrole::regrole::text || setconfig::text ORDER BY setrole)
     FROM pg_db_role_setting WHERE setdatabase = pg_database.oid)
FROM pg_database WHERE datname = '{DATABASE}'
"""


def dump(monorepo: Monorepo, name: str) -> str:
    """Return a database in SQL, with its own properties."""
    done = subprocess.run(
        [
            find_program("pg_dump"),
            "--create",
            f"--dbname=postgresql://{USER}@localhost:{monorepo.port(name)}/huleedu_{name}",
        ],
        env={"PGPASSWORD": PASSWORD},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return _OURS.sub("", done.stdout)


def test_copies_and_rebuilds_of_our_own_services_are_identical(huleedu: Monorepo) -> None:
    names = [entry["name"] for entry in huleedu.services]
    made = {name: dump(huleedu, name) for name in names}
    assert all("COPY" in text for text in made.values())
    for name in names:
        ask(huleedu.url(name), "DROP SCHEMA public CASCADE", "CREATE SCHEMA dirt")
    assert {done.detail for done in resets(huleedu).values()} == {COPIED}
    assert {name: dump(huleedu, name) for name in names} == made
    assert {done.detail for done in resets(huleedu, flags=("--fresh",)).values()} == {REBUILT}
    # Some columns contain the time of the build.
    rebuilt = {name: _TIME.sub("a time", dump(huleedu, name)) for name in names}
    assert rebuilt == {name: _TIME.sub("a time", text) for name, text in made.items()}


def test_copies_can_be_migrated_and_seeded_and_report_their_status(huleedu: Monorepo) -> None:
    resets(huleedu)
    for command in ("db.migrate", "db.seed"):
        ran = huleedu.invoke(command, "--json")
        assert ran.code == 0, ran.err
    status = huleedu.invoke("db.status", "--check", "--json")
    assert status.code == 0
    assert {row["seeded"] for row in status.json["services"]} == {"yes"}


@pytest.fixture(scope="module")
def nasty() -> Iterator[Monorepo]:
    """A service whose migrations and seed create every kind of object."""
    with new_monorepo(["alpha"]) as made:
        without_initdb(made)
        made.add_revision("alpha", "b2", "a1", *NASTY)
        made.path("database/seed-scripts/seed_alpha.py").unlink()
        made.write("database/seed-scripts/seed_alpha.sql", NASTY_SEED)
        assert made.invoke("db.up").code == 0
        maintain(made, "alpha", "CREATE ROLE reader", "CREATE ROLE writer NOINHERIT")
        assert reset(made).detail == REBUILT
        yield made


def state(monorepo: Monorepo) -> tuple[str, str]:
    """Return the content and the properties of the database."""
    ((*about,),) = maintain(monorepo, "alpha", ABOUT)
    return dump(monorepo, "alpha"), json.dumps(about)


def test_every_kind_of_object_is_identical_in_a_copy_and_a_rebuild(nasty: Monorepo) -> None:
    made, about = state(nasty)
    for part in ("'4242'", "GENERATED", "Europe/Stockholm", "own migration", "ticket_id_seq"):
        assert part in made
    ask(
        nasty.url("alpha"),
        "DROP SCHEMA legacy CASCADE",
        "SELECT lo_unlink(4242)",
        f"ALTER DATABASE {DATABASE} RESET ALL",
        f"ALTER DATABASE {DATABASE} CONNECTION LIMIT 9",
        f"GRANT ALL ON DATABASE {DATABASE} TO PUBLIC",
        f"COMMENT ON DATABASE {DATABASE} IS NULL",
    )
    assert state(nasty) != (made, about)
    assert reset(nasty).detail == COPIED
    assert state(nasty) == (made, about)
    assert reset(nasty, "alpha", "--fresh").detail == REBUILT
    assert state(nasty) == (made, about)
    assert reset(nasty).detail == COPIED
    assert state(nasty) == (made, about)


def test_the_sequences_of_a_copy_continue_after_the_seeds(nasty: Monorepo) -> None:
    assert reset(nasty).detail == COPIED
    more = "INSERT INTO {} DEFAULT VALUES RETURNING id"
    assert ask(nasty.url("alpha"), more.format("ticket")) == [(4713,)]
    pupil = "INSERT INTO pupil (name) VALUES ('new') RETURNING id, length"
    assert ask(nasty.url("alpha"), pupil) == [(7 + 3 * 50, 3)]


def test_no_template_is_saved_of_a_database_with_unlogged_tables() -> None:
    """After a crash PostgreSQL empties every unlogged table, also in templates."""
    with new_monorepo(["alpha", "beta"]) as made:
        without_initdb(made)
        made.add_revision(
            "alpha",
            "b2",
            "a1",
            "CREATE UNLOGGED TABLE cache (id integer)",
            "INSERT INTO cache VALUES (1)",
        )
        how = "rebuilt: no template yet; no template kept: a crash would empty its unlogged tables"
        assert reset(made) == Reset(REBUILT, how)
        assert reset(made, "beta").detail == REBUILT
        for name in ("alpha", "beta"):
            server = psutil.Process(made.server_pid(name))
            server.kill()
            wait_until(partial(is_dead, server))
        assert resets(made) == {"alpha": Reset(REBUILT, how), "beta": Reset(COPIED, COPIED)}
        assert ask(made.url("alpha"), "SELECT * FROM cache") == [(1,)]
        assert notes(made, "beta") == "first second"


async def test_rows_that_an_application_writes_during_a_reset_are_in_no_later_copy(
    nasty: Monorepo,
) -> None:
    url = nasty.url("alpha")

    async def work() -> None:
        while True:
            with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                session = await connect(url)
                try:
                    await session.execute(
                        "INSERT INTO public.note VALUES (99, 'of the application')"
                    )
                finally:
                    session.terminate()

    application = asyncio.create_task(work())
    assert (await asyncio.to_thread(reset, nasty, "alpha", "--fresh")).detail == REBUILT
    application.cancel()
    await asyncio.wait([application])
    await asyncio.to_thread(reset, nasty)
    assert await asyncio.to_thread(notes, nasty, "alpha") == "first second"


def test_a_recreated_server_has_only_the_templates_saved_since(nasty: Monorepo) -> None:
    maintain(nasty, "alpha", f"DROP DATABASE {DATABASE} WITH (FORCE)")
    nasty.path("services/alpha_service/alembic/versions/b2.py").unlink()
    nasty.write("database/seed-scripts/seed_alpha.sql", "SELECT 1")
    ran = reset(nasty, "alpha", "--volumes")
    assert (ran.detail, ran.how) == (REBUILT, "rebuilt: the server's data is new")
    assert len(templates(nasty)) == 1
    assert reset(nasty).detail == COPIED
