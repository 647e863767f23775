-- Runs once, when the spellchecker's volume is new.
CREATE EXTENSION IF NOT EXISTS pg_trgm;
