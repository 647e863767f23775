"""A digest that changes with every change to the catalogs of one database.

PostgreSQL stores a new version of a catalog row for each change of the object, at another place or
with the id of another transaction. The digest has the places and ids of all rows, so that it needs
no knowledge of objects. It is equal only for the same database: a copy of it has another one.
VACUUM and ANALYZE do not change it, except for VACUUM FULL.
"""

import hashlib
from typing import TYPE_CHECKING

from huleedu_tasks.postgres.databases import literal

if TYPE_CHECKING:
    import asyncpg

# Statistics and large objects, which no schema contains.
_DATA = ("pg_largeobject", "pg_largeobject_metadata", "pg_statistic", "pg_statistic_ext_data")
_CATALOGS = """\
SELECT relname FROM pg_class
WHERE relnamespace = 'pg_catalog'::regnamespace AND relkind = 'r' AND NOT relisshared
  AND has_table_privilege(oid, 'SELECT') AND relname <> ALL ($1::text[])
ORDER BY relname
"""
_ROWS = """\
SELECT {name} AS name, count(*)::text AS rows,
  sum(hashtidextended(ctid, xmin::text::bigint))::text AS versions
FROM pg_catalog.{catalog}"""
# What the database has in catalogs that all databases share, or that only superusers read, and the
# settings with which PostgreSQL shows names and expressions.
_SHARED = """\
SELECT concat_ws(' ', current_setting('server_version_num'), current_user, session_user,
  current_schemas(true),
  (SELECT json_agg(json_build_array(name, current_setting(name)) ORDER BY name) FROM unnest(ARRAY[
     'TimeZone', 'DateStyle', 'IntervalStyle', 'bytea_output', 'extra_float_digits', 'lc_monetary',
     'quote_all_identifiers', 'standard_conforming_strings', 'xmlbinary']) AS name),
  (SELECT concat_ws(' ', oid, datname, datdba, encoding, datcollate, datctype)
   FROM pg_database WHERE datname = current_database()),
  (SELECT json_agg(json_build_array(oid, rolname) ORDER BY oid) FROM pg_roles),
  (SELECT json_agg(json_build_array(oid, spcname) ORDER BY oid) FROM pg_tablespace),
  (SELECT json_agg(json_build_array(umid, srvid, usename) ORDER BY umid) FROM pg_user_mappings))
"""


async def read_catalog_state(connection: "asyncpg.Connection") -> str:
    """Return the digest of the catalogs of the connected database; read-only."""
    catalogs = [row[0] for row in await connection.fetch(_CATALOGS, _DATA)]
    rows = " UNION ALL ".join(_ROWS.format(name=literal(c), catalog=c) for c in catalogs)
    found = [tuple(row) for row in await connection.fetch(rows)]
    shared = await connection.fetchval(_SHARED)
    return hashlib.sha256(repr((shared, sorted(found))).encode()).hexdigest()
