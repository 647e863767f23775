"""A history that creates an object of every kind, for comparisons of schemas."""

ROLES = ("app", "reader", "Odd role; --")
# What a history creates: names that need quotes are part of it.
HISTORY = """
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
