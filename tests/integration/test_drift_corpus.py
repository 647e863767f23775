"""Drift: every change to a schema is found and named, and nothing else is reported."""

import asyncio
from dataclasses import dataclass, replace

import pytest

from huleedu_tasks.config.urls import DatabaseUrl, parse_url
from huleedu_tasks.postgres.databases import quoted
from huleedu_tasks.report import Difference
from huleedu_tasks.schema.diff import compare
from huleedu_tasks.schema.dump import dump_schema
from huleedu_tasks.schema.objects import Schema
from tests.support.alembic_bench import SERVER, Bench
from tests.support.monorepo import clean_environment
from tests.support.postgres import ask, connect, fetch

ROLES = ("app", "reader", "Odd role; --")
# What a history creates: names that need quotes are part of it.
HISTORY = """
CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY);
CREATE SCHEMA shop;
ALTER DEFAULT PRIVILEGES IN SCHEMA shop GRANT SELECT ON TABLES TO reader;
CREATE EXTENSION pg_trgm;
CREATE COLLATION shop.german (locale = 'C');
CREATE COLLATION shop.swedish (locale = 'POSIX');
CREATE TYPE shop.mood AS ENUM ('sad', 'ok', 'happy');
CREATE TYPE shop.pair AS (a int, b text);
CREATE DOMAIN shop.email AS text CHECK (VALUE LIKE '%@%');
CREATE TABLE shop.author (id serial PRIMARY KEY, email shop.email);
ALTER TABLE shop.author ADD CONSTRAINT author_email UNIQUE (email);
CREATE TABLE shop.note (
  id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  author int REFERENCES shop.author ON DELETE CASCADE,
  title varchar(20) NOT NULL DEFAULT 'new',
  body text COLLATE shop.german,
  price numeric(10, 2) CONSTRAINT price_check CHECK (price > 0),
  gross numeric GENERATED ALWAYS AS (price * 2) STORED,
  feeling shop.mood,
  span int4range,
  "odd"";
-- name" text DEFAULT 'a;(b
--',
  CONSTRAINT no_overlap EXCLUDE USING gist (span WITH &&)
);
CREATE INDEX note_title ON shop.note (title, price);
CREATE INDEX note_cheap ON shop.note (price) WHERE price < 10;
CREATE INDEX note_body ON shop.note USING gin (body gin_trgm_ops);
CREATE STATISTICS shop.note_stats ON author, price FROM shop.note;
COMMENT ON COLUMN shop.note.body IS 'The text.';
COMMENT ON TABLE shop.note IS 'A note.';
CREATE FUNCTION shop.touch() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN new; END$$;
CREATE FUNCTION shop.twice(n int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT n * 2';
CREATE TRIGGER touched BEFORE UPDATE ON shop.note FOR EACH ROW EXECUTE FUNCTION shop.touch();
CREATE VIEW shop.cheap AS SELECT id, title FROM shop.note WHERE price < 10;
CREATE MATERIALIZED VIEW shop.totals AS
  SELECT author, sum(price) AS total FROM shop.note GROUP BY 1;
CREATE RULE keep AS ON DELETE TO shop.author DO INSTEAD NOTHING;
CREATE SEQUENCE shop.numbers OWNED BY shop.note.price;
CREATE TABLE shop.event (id int NOT NULL, at date NOT NULL) PARTITION BY RANGE (at);
CREATE TABLE shop.event_2025 PARTITION OF shop.event
  FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE shop.base (id int);
CREATE TABLE shop.derived (extra text) INHERITS (shop.base);
ALTER TABLE shop.author ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON shop.author TO app USING (id = 1);
GRANT SELECT, INSERT ON shop.note TO app;
CREATE PUBLICATION changes FOR TABLE shop.note;
CREATE TABLE shop."odd table; --" ("odd column" int PRIMARY KEY);
"""
NOTE = "ALTER TABLE shop.note "
# By name: the statements of the mutation, and the differences that it must have.
MUTATIONS = {
    "column added": (NOTE + "ADD extra int", "column shop.note.extra: extra"),
    "column dropped": (NOTE + "DROP feeling", "column shop.note.feeling: missing"),
    "column type": (
        "ALTER TABLE shop.event ALTER id TYPE bigint",
        "column shop.event.id: different",
        "column shop.event_2025.id: different",
    ),
    "column length": (
        "DROP VIEW shop.cheap; " + NOTE + "ALTER title TYPE varchar(30); "
        "CREATE VIEW shop.cheap AS SELECT id, title FROM shop.note WHERE price < 10",
        "column shop.note.title: different",
    ),
    "column default": (
        NOTE + "ALTER title SET DEFAULT 'old'",
        "column shop.note.title: different",
    ),
    "column default dropped": (
        "ALTER TABLE shop.author ALTER id DROP DEFAULT",
        "default shop.author.id: missing",
    ),
    "column nullable": (NOTE + "ALTER title DROP NOT NULL", "column shop.note.title: different"),
    "column not null": (NOTE + "ALTER body SET NOT NULL", "column shop.note.body: different"),
    "column collation": (
        NOTE + "ALTER body TYPE text COLLATE shop.swedish",
        "column shop.note.body: different",
    ),
    "column storage": (
        NOTE + "ALTER body SET STORAGE EXTERNAL",
        "column shop.note.body: different",
    ),
    "column statistics": (
        NOTE + "ALTER body SET STATISTICS 500",
        "column shop.note.body: different",
    ),
    "column options": (
        NOTE + "ALTER body SET (n_distinct = 5)",
        "column shop.note.body: different",
    ),
    "column with an odd name": (
        NOTE + 'ALTER "odd"";\n-- name" SET DEFAULT \');\'',
        'column shop.note."odd"";\\n-- name": different',
    ),
    "identity dropped": (NOTE + "ALTER id DROP IDENTITY", "sequence shop.note_id_seq: missing"),
    "identity by default": (
        NOTE + "ALTER id SET GENERATED BY DEFAULT",
        "sequence shop.note_id_seq: different",
    ),
    "generated column": (
        NOTE + "ALTER gross DROP EXPRESSION",
        "column shop.note.gross: different",
    ),
    "CHECK changed": (
        NOTE + "DROP CONSTRAINT price_check, ADD CONSTRAINT price_check CHECK (price > 1)",
        "constraint shop.note.price_check: different",
    ),
    "CHECK not validated": (
        NOTE + "DROP CONSTRAINT price_check, "
        "ADD CONSTRAINT price_check CHECK (price > 0) NOT VALID",
        "constraint shop.note.price_check: different",
    ),
    "CHECK dropped": (
        NOTE + "DROP CONSTRAINT price_check",
        "constraint shop.note.price_check: missing",
    ),
    "foreign key's action": (
        NOTE + "DROP CONSTRAINT note_author_fkey, ADD FOREIGN KEY (author) REFERENCES shop.author",
        "constraint shop.note.note_author_fkey: different",
    ),
    "foreign key dropped": (
        NOTE + "DROP CONSTRAINT note_author_fkey",
        "constraint shop.note.note_author_fkey: missing",
    ),
    "foreign key disabled": (
        NOTE + "DISABLE TRIGGER ALL; " + NOTE + "ENABLE TRIGGER touched",
        "constraint shop.note.note_author_fkey: different",
    ),
    "unique dropped": (
        "ALTER TABLE shop.author DROP CONSTRAINT author_email",
        "constraint shop.author.author_email: missing",
    ),
    "exclusion dropped": (
        NOTE + "DROP CONSTRAINT no_overlap",
        "constraint shop.note.no_overlap: missing",
    ),
    "primary key renamed": (
        NOTE + "RENAME CONSTRAINT note_pkey TO pk",
        "constraint shop.note.note_pkey: missing",
        "constraint shop.note.pk: extra",
    ),
    "index added": ("CREATE INDEX by_hand ON shop.note (title)", "index shop.by_hand: extra"),
    "index dropped": ("DROP INDEX shop.note_title", "index shop.note_title: missing"),
    "index order": (
        "DROP INDEX shop.note_title; CREATE INDEX note_title ON shop.note (price, title)",
        "index shop.note_title: different",
    ),
    "index direction": (
        "DROP INDEX shop.note_title; CREATE INDEX note_title ON shop.note (title DESC, price)",
        "index shop.note_title: different",
    ),
    "index operator class": (
        "DROP INDEX shop.note_title; "
        "CREATE INDEX note_title ON shop.note (title varchar_pattern_ops, price)",
        "index shop.note_title: different",
    ),
    "index predicate": (
        "DROP INDEX shop.note_cheap; CREATE INDEX note_cheap ON shop.note (price) WHERE price < 9",
        "index shop.note_cheap: different",
    ),
    "index invalid": (
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'shop.note_title'::regclass",
        "index shop.note_title: different",
    ),
    "extra index invalid": (
        "CREATE INDEX by_hand ON shop.note (title); "
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'shop.by_hand'::regclass",
        "index shop.by_hand: extra",
    ),
    "trigger dropped": ("DROP TRIGGER touched ON shop.note", "trigger shop.note.touched: missing"),
    "trigger disabled": (
        NOTE + "DISABLE TRIGGER touched",
        "trigger shop.note.touched: different",
    ),
    "function body": (
        "CREATE OR REPLACE FUNCTION shop.twice(n int) RETURNS int LANGUAGE sql IMMUTABLE AS "
        "'SELECT n * 3'",
        "function shop.twice(integer): different",
    ),
    "function volatility": (
        "ALTER FUNCTION shop.twice VOLATILE",
        "function shop.twice(integer): different",
    ),
    "function overloaded": (
        "CREATE FUNCTION shop.twice(n text) RETURNS text LANGUAGE sql AS 'SELECT n'",
        "function shop.twice(text): extra",
    ),
    "view": (
        "CREATE OR REPLACE VIEW shop.cheap AS SELECT id, title FROM shop.note WHERE price < 11",
        "view shop.cheap: different",
    ),
    "view's option": (
        "ALTER VIEW shop.cheap SET (security_barrier)",
        "view shop.cheap: different",
    ),
    "materialized view": (
        "DROP MATERIALIZED VIEW shop.totals; CREATE MATERIALIZED VIEW shop.totals AS "
        "SELECT author, max(price) AS total FROM shop.note GROUP BY 1",
        "materialized view shop.totals: different",
    ),
    "enum value": ("ALTER TYPE shop.mood ADD VALUE 'great'", "type shop.mood: different"),
    "enum order": (
        "UPDATE pg_enum SET enumsortorder = 9 WHERE enumlabel = 'sad'",
        "type shop.mood: different",
    ),
    "composite type": (
        "ALTER TYPE shop.pair ADD ATTRIBUTE c int",
        "type shop.pair: different",
    ),
    "domain": (
        "ALTER DOMAIN shop.email SET NOT NULL",
        "domain shop.email: different",
    ),
    "domain's constraint": (
        "ALTER DOMAIN shop.email ADD CONSTRAINT short CHECK (length(VALUE) < 9)",
        "domain shop.email: different",
    ),
    "sequence option": ("ALTER SEQUENCE shop.numbers CACHE 9", "sequence shop.numbers: different"),
    "sequence's column": (
        "ALTER SEQUENCE shop.numbers OWNED BY shop.note.body",
        "sequence owned by shop.numbers: different",
    ),
    "privilege granted": (
        "GRANT UPDATE ON shop.note TO reader",
        "privileges of table shop.note: different",
    ),
    "privilege revoked": (
        "REVOKE SELECT ON shop.note FROM reader",
        "privileges of table shop.note: different",
    ),
    "privilege on a column": (
        "GRANT UPDATE (body) ON shop.note TO reader",
        "privileges of column shop.note.body: extra",
    ),
    "privilege of a role with an odd name": (
        'GRANT USAGE ON SCHEMA shop TO "Odd role; --"',
        "privileges of schema shop: extra",
    ),
    "default privileges": (
        "ALTER DEFAULT PRIVILEGES IN SCHEMA shop GRANT INSERT ON TABLES TO reader",
        "default privileges shop.tables: different",
    ),
    "policy": (
        "ALTER POLICY own ON shop.author USING (id = 2)",
        "policy shop.author.own: different",
    ),
    "row security disabled": (
        "ALTER TABLE shop.author DISABLE ROW LEVEL SECURITY",
        "row security shop.author: missing",
    ),
    "row security forced": (
        "ALTER TABLE shop.author FORCE ROW LEVEL SECURITY",
        "table shop.author: different",
    ),
    "comment": (
        "COMMENT ON COLUMN shop.note.body IS 'Other text.'",
        "comment on column shop.note.body: different",
    ),
    "comment of a table": (
        "COMMENT ON TABLE shop.note IS NULL",
        "comment on table shop.note: missing",
    ),
    "extension": (
        "CREATE EXTENSION btree_gin",
        "extension btree_gin: extra, with 1 part",
    ),
    "schema": ("CREATE SCHEMA other", "schema other: extra"),
    "table added": (
        "CREATE TABLE shop.copy (id int PRIMARY KEY)",
        "table shop.copy: extra, with 3 parts",
    ),
    "table dropped": (
        "DROP TABLE shop.derived",
        "table shop.derived: missing, with 2 parts",
    ),
    "table with an odd name dropped": (
        'DROP TABLE shop."odd table; --"',
        'table shop."odd table; --": missing, with 3 parts',
    ),
    "table option": (NOTE + "SET (fillfactor = 70)", "table shop.note: different"),
    "table unlogged": (
        "ALTER TABLE shop.base SET UNLOGGED",
        "table shop.base: different",
    ),
    "replica identity": (NOTE + "REPLICA IDENTITY FULL", "table shop.note: different"),
    "clustered index": (NOTE + "CLUSTER ON note_title", "index shop.note_title: different"),
    "extended statistics": (
        "DROP STATISTICS shop.note_stats",
        "statistics shop.note_stats: missing",
    ),
    "partition added": (
        "CREATE TABLE shop.event_2026 PARTITION OF shop.event "
        "FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')",
        "table shop.event_2026: extra, with 4 parts",
    ),
    "partition detached": (
        "ALTER TABLE shop.event DETACH PARTITION shop.event_2025",
        "partition shop.event_2025: missing",
    ),
    "inheritance": (
        "ALTER TABLE shop.derived NO INHERIT shop.base",
        "column shop.derived.id: extra",
        "table shop.derived: different",
    ),
    "rule": ("DROP RULE keep ON shop.author", "rule shop.author.keep: missing"),
    "publication": (
        "ALTER PUBLICATION changes ADD TABLE shop.author",
        "publication table changes.shop.author: extra",
    ),
    "publication's operations": (
        "ALTER PUBLICATION changes SET (publish = 'insert')",
        "publication changes: different",
    ),
    "collation": (
        "CREATE COLLATION shop.danish (locale = 'C')",
        "collation shop.danish: extra",
    ),
    "owner": ("ALTER TABLE shop.base OWNER TO app", "table shop.base: different"),
    "event trigger": (
        "CREATE FUNCTION shop.watch() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'; "
        "CREATE EVENT TRIGGER watch ON ddl_command_start EXECUTE FUNCTION shop.watch()",
        "function shop.watch(): extra",
        "event trigger watch: extra",
    ),
}
# Not drift.
SAME = {
    "nothing": "SELECT 1",
    "a column recreated": "ALTER TABLE shop.base ADD x int; ALTER TABLE shop.base DROP x",
    "the order of columns": "ALTER TABLE shop.event DROP id; "
    "ALTER TABLE shop.event ADD id int NOT NULL",
    "the order of grants": "REVOKE ALL ON shop.note FROM app, reader; "
    "GRANT INSERT, SELECT ON shop.note TO app; GRANT SELECT ON shop.note TO reader",
    "rows": "INSERT INTO shop.author (email) VALUES ('a@b'); ANALYZE shop.author",
    "another revision": "INSERT INTO alembic_version VALUES ('a1')",
    "the version table": "ALTER TABLE alembic_version ADD note text; "
    "GRANT SELECT ON alembic_version TO reader",
}


@dataclass(frozen=True)
class Corpus:
    """A server with a database that a history has made.

    Attributes:
        url: The database.
        expected: Its schema.
    """

    url: DatabaseUrl
    expected: Schema

    async def differences(self, script: str) -> list[Difference]:
        """Return the drift of a copy of the database after the script of a mutation."""
        maintenance = self.plain_url("postgres")
        await fetch(maintenance, f"CREATE DATABASE mutated TEMPLATE {self.url.database}")
        try:
            await run_script(self.plain_url("mutated"), script)
            return compare(self.expected, await schema(replace(self.url, database="mutated")))
        finally:
            await fetch(maintenance, "DROP DATABASE mutated WITH (FORCE)")

    def plain_url(self, database: str) -> str:
        return replace(self.url, database=database).plain.reveal()


async def run_script(url: str, script: str) -> None:
    opened = await connect(url)
    await opened.execute(script)
    await opened.close()


async def schema(url: DatabaseUrl) -> Schema:
    return await dump_schema(url, environment=clean_environment())


@pytest.fixture(scope="module")
def corpus(bench: Bench) -> Corpus:
    url = parse_url(bench.monorepo.url(SERVER, database="history"), variable="URL")
    roles = [f"CREATE ROLE {quoted(role)}" for role in ROLES]
    ask(bench.monorepo.url(SERVER, database="postgres"), *roles, "CREATE DATABASE history")
    asyncio.run(run_script(url.plain.reveal(), HISTORY))
    return Corpus(url=url, expected=asyncio.run(schema(url)))


@pytest.mark.parametrize("name", MUTATIONS)
async def test_a_mutation_is_found_and_named(corpus: Corpus, name: str) -> None:
    script, *expected = MUTATIONS[name]
    found = await corpus.differences(script)
    assert sorted(map(str, found)) == sorted(expected)


@pytest.mark.parametrize("name", SAME)
async def test_what_is_not_drift_is_not_reported(corpus: Corpus, name: str) -> None:
    assert await corpus.differences(SAME[name]) == []
