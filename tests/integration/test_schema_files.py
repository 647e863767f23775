"""`db.schema`: files that can be loaded, compared and reviewed."""

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from huleedu_tasks.config.urls import DatabaseUrl, parse_url
from huleedu_tasks.postgres.databases import VersionTable
from huleedu_tasks.postgres.psql import psql_environment
from huleedu_tasks.schema.diff import compare
from huleedu_tasks.schema.dump import SchemaDump, dump
from huleedu_tasks.schema.sql_script import MARKER, schema_in_script, script_of
from tests.support.alembic_bench import AT_A1, SERVER, Bench
from tests.support.monorepo import Monorepo, clean_environment, new_monorepo
from tests.support.postgres import ask, connect, fetch
from tests.support.schemas import HISTORY, ROLES

# What must be created in an order that no sorting by names gives.
ENTANGLED = """
CREATE TABLE shop.a_left (id int PRIMARY KEY, right_id int);
CREATE TABLE shop.z_right (id int PRIMARY KEY, left_id int REFERENCES shop.a_left);
ALTER TABLE shop.a_left ADD FOREIGN KEY (right_id) REFERENCES shop.z_right;
CREATE VIEW shop.a_view AS SELECT id, right_id FROM shop.a_left GROUP BY id;
CREATE VIEW shop.a_first AS SELECT * FROM shop.a_view;
CREATE FUNCTION shop.a_size(shop.z_right) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1';
CREATE INDEX sized ON shop.z_right (shop.a_size(z_right));
CREATE FUNCTION shop."odd(); DROP TABLE note; --"(n int) RETURNS text LANGUAGE sql AS
  $$SELECT '
--
-- table public.nowhere
--
'$$;
CREATE TABLE shop.checked (n int CHECK (shop.twice(n) > 2) DEFAULT shop.twice(1));
CREATE FUNCTION shop.log() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
CREATE EVENT TRIGGER logged ON ddl_command_end EXECUTE FUNCTION shop.log();
CREATE TABLE shop.owned (id int);
ALTER TABLE shop.owned OWNER TO "Odd role; --";
ALTER FUNCTION shop."odd(); DROP TABLE note; --"(int) OWNER TO app;
GRANT SELECT (title), UPDATE (title) ON shop.note TO reader;
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
COMMENT ON CONSTRAINT note_author_fkey ON shop.note IS 'It''s theirs.';
COMMENT ON EVENT TRIGGER logged IS 'Last.';
"""
OF_A1 = {VersionTable(schema="public"): ("a1",)}


@dataclass(frozen=True)
class Databases:
    """Databases on one server, of which `schema_file` has a history that uses everything."""

    url: DatabaseUrl

    def named(self, name: str) -> DatabaseUrl:
        return replace(self.url, database=name)

    async def run(self, name: str, *sql: str) -> None:
        opened = await connect(self.named(name).plain.reveal())
        for script in sql:
            await opened.execute(script)
        await opened.close()

    async def dump(self, name: str) -> SchemaDump:
        return await dump(self.named(name), environment=clean_environment())

    def load(self, name: str, script: str) -> "subprocess.CompletedProcess[str]":
        """Load a script with psql."""
        return subprocess.run(
            ["psql", "--no-psqlrc", "-q", "-v", "ON_ERROR_STOP=1"],
            input=script,
            env=psql_environment(self.named(name), clean_environment()),
            capture_output=True,
            text=True,
        )


@pytest.fixture(scope="module")
def databases(bench: Bench) -> Databases:
    url = parse_url(bench.monorepo.url(SERVER, database="schema_file"), variable="URL")
    postgres = bench.monorepo.url(SERVER, database="postgres")
    existing = "SELECT FROM pg_roles WHERE rolname ="
    roles = [
        f"DO $$BEGIN IF NOT EXISTS ({existing} '{role}') THEN CREATE ROLE \"{role}\"; END IF; END$$"
        for role in ROLES
    ]
    ask(postgres, *roles, "CREATE DATABASE schema_file")
    return Databases(url=url)


async def test_a_schema_file_creates_the_schema_in_an_empty_database(databases: Databases) -> None:
    await databases.run("schema_file", *AT_A1, HISTORY + ENTANGLED)
    original = await databases.dump("schema_file")
    script = script_of(original, OF_A1)
    await databases.run("postgres", "CREATE DATABASE schema_loaded TEMPLATE template0")
    ran = databases.load("schema_loaded", script)
    assert ran.returncode == 0, ran.stderr
    loaded = await databases.dump("schema_loaded")
    assert list(map(str, compare(original.schema(), loaded.schema()))) == []
    assert script_of(loaded, OF_A1) == script
    at = await fetch(
        databases.named("schema_loaded").plain.reveal(), "SELECT version_num FROM alembic_version"
    )
    assert [row[0] for row in at] == ["a1"]
    assert "restrict" not in script
    assert databases.url.user not in script


async def test_what_belongs_to_a_table_is_beside_it(databases: Databases) -> None:
    await databases.run("postgres", "CREATE DATABASE schema_order TEMPLATE template0")
    tables = [
        f"CREATE TABLE {name} (id int PRIMARY KEY); CREATE INDEX {name}_id ON {name} (id);"
        f"COMMENT ON TABLE {name} IS 'One.'"
        for name in ("b", "c")
    ]
    await databases.run("schema_order", *AT_A1, *reversed(tables))
    script = script_of(await databases.dump("schema_order"), OF_A1)
    labels = list(schema_in_script(script, major=0).objects)
    assert labels[:2] == [
        "table public.alembic_version",
        "constraint public.alembic_version.alembic_version_pkey",
    ]
    assert labels[2:] == [
        *("table public.b", "comment on table public.b"),
        *("constraint public.b.b_pkey", "index public.b_id"),
        *("table public.c", "comment on table public.c"),
        *("constraint public.c.c_pkey", "index public.c_id"),
        "revisions ",
    ]


@pytest.fixture(scope="module")
def monorepo() -> Iterator[Monorepo]:
    with new_monorepo(["alpha", "beta"]) as made:
        yield made


ALPHA = "services/alpha_service/alembic/schema.sql"


def test_a_file_is_written_compared_and_never_taken_from_its_owner(monorepo: Monorepo) -> None:
    dry = monorepo.invoke("db.schema", "--dry-run")
    assert (dry.code, monorepo.path(ALPHA).exists()) == (0, False)
    assert "would create the file" in dry.out
    written = monorepo.invoke("db.schema")
    assert written.code == 0, written.err
    text = monorepo.read(ALPHA)
    assert text.startswith(f"{MARKER}\n")
    assert 'INSERT INTO "public"."alembic_version" (version_num) VALUES (\'a1\');' in text
    checked = monorepo.invoke("db.schema", "--check")
    assert checked.code == 0, checked.err
    monorepo.add_revision("alpha", "b2", "a1", "ALTER TABLE note ADD done boolean")
    stale = monorepo.invoke("db.schema", "--check", "--out", "stale.sarif")
    assert stale.code == 4, stale.err
    assert f'"uri": "{ALPHA}"' in monorepo.read("stale.sarif")
    assert "alpha: table public.note: different\n" in stale.out
    assert "    +    done boolean\n" in stale.out
    assert "not every schema file is up to date" in stale.err
    assert monorepo.read(ALPHA) == text
    assert monorepo.invoke("db.schema", "--to", "schemas", "--service", "alpha").code == 0
    assert "done boolean" in monorepo.read("schemas/alpha.sql")
    monorepo.write(ALPHA, "CREATE TABLE by_hand ();\n")
    for to, code in ((), "schema-file-foreign"), (("--to", "tasks.py"), "schema-file-unwritable"):
        refused = monorepo.invoke("db.schema", "--json", "--service", "alpha", *to)
        (outcome,) = refused.json["services"]
        assert (refused.code, outcome["code"]) == (2, code)
    assert monorepo.read(ALPHA) == "CREATE TABLE by_hand ();\n"


def test_two_services_do_not_write_one_file(monorepo: Monorepo) -> None:
    ini = monorepo.read("services/beta_service/alembic.ini")
    shared = ini.replace("= alembic\n", "= ../alpha_service/alembic\n")
    monorepo.write("services/beta_service/alembic.ini", shared)
    ran = monorepo.invoke("db.schema", "--json")
    monorepo.write("services/beta_service/alembic.ini", ini)
    assert (ran.code, ran.json["error"]["code"]) == (2, "schema-file-shared")
