"""A query that returns a digest of a database's schema, read from the catalogs.

It takes milliseconds, so it can run after every revision. `pg_dump` is complete, and takes a
hundred times as long.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncpg


def _select(kind: str, name: str, definition: Sequence[str], source: str) -> str:
    parts = ", ".join(definition)
    return f"SELECT {kind} AS kind, {name} AS name, concat_ws(' ', {parts}) AS definition {source}"


def _own(column: str, catalog: str) -> str:
    """Return the condition that an object does not belong to PostgreSQL or an extension."""
    return (
        f"{column} >= 16384 AND NOT EXISTS (SELECT FROM members AS m WHERE m.objid = {column}"
        f" AND m.classid = '{catalog}'::regclass)"
    )


def _comment(column: str, catalog: str, number: str = "0") -> str:
    return (
        f"(SELECT 'comment ' || quote_literal(description) FROM pg_description WHERE objoid ="
        f" {column} AND classoid = '{catalog}'::regclass AND objsubid = {number})"
    )


def _privileges(column: str, kind: str, owner: str) -> str:
    """Return the privileges on an object; those that its owner has by default if none is stored."""
    return (
        "(SELECT string_agg(i::text, ',' ORDER BY i::text) FROM"
        f" unnest(coalesce({column}, acldefault({kind}, {owner}))) AS i)"
    )


_RELATION = "quote_ident(n.nspname) || '.' || quote_ident(c.relname)"
_RELATIONS = "FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace"
_IS_RELATION = (
    f"{_own('c.oid', 'pg_class')} AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'"
)
_KINDS = (
    "CASE c.relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' WHEN 'S' THEN"
    " 'sequence' WHEN 'f' THEN 'foreign table' WHEN 'c' THEN 'type' ELSE 'table' END"
)
# Catalogs of rare objects: the column of the name, and what distinguishes two of a name.
_RARE = {
    "pg_collation": ("collation", "collprovider::text, collcollate, collctype"),
    "pg_operator": ("operator", "oprcode::regproc::text"),
    "pg_opclass": ("operator class", "opcdefault::text"),
    "pg_opfamily": ("operator family", "''"),
    "pg_cast": ("cast", "castcontext::text, castfunc::regprocedure::text"),
    "pg_conversion": ("conversion", "conproc::regproc::text"),
    "pg_ts_config": ("text search configuration", "''"),
    "pg_ts_dict": ("text search dictionary", "dictinitoption"),
    "pg_foreign_data_wrapper": ("foreign-data wrapper", "fdwoptions::text, fdwacl::text"),
    "pg_foreign_server": ("server", "srvoptions::text, srvacl::text"),
    "pg_language": ("language", "lanacl::text"),
    "pg_default_acl": ("default privileges", "defaclacl::text"),
    "pg_am": ("access method", "amhandler::text"),
}

_OBJECTS = " UNION ALL ".join(
    (
        _select(
            "'schema'",
            "quote_ident(n.nspname)",
            (
                "pg_get_userbyid(n.nspowner)",
                _privileges("n.nspacl", "'n'", "n.nspowner"),
                _comment("n.oid", "pg_namespace"),
            ),
            f"FROM pg_namespace AS n WHERE {_own('n.oid', 'pg_namespace')}"
            " AND n.nspname !~ '^pg_' OR n.nspname = 'public'",
        ),
        _select(
            _KINDS,
            _RELATION,
            (
                "c.relpersistence::text",
                "c.reloptions::text",
                "c.relrowsecurity::text",
                "c.relforcerowsecurity::text",
                "c.relreplident::text",
                "pg_get_userbyid(c.relowner)",
                _privileges(
                    "c.relacl",
                    "(CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END)::\"char\"",
                    "c.relowner",
                ),
                "(SELECT amname FROM pg_am WHERE oid = c.relam)",
                "(SELECT spcname FROM pg_tablespace WHERE oid = c.reltablespace)",
                "pg_get_expr(c.relpartbound, c.oid)",
                "CASE c.relkind WHEN 'p' THEN pg_get_partkeydef(c.oid) END",
                "(SELECT string_agg(inhparent::regclass::text, ',' ORDER BY inhseqno)"
                " FROM pg_inherits WHERE inhrelid = c.oid)",
                "CASE WHEN c.relkind IN ('v', 'm') THEN pg_get_viewdef(c.oid) END",
                "(SELECT concat_ws(' ', seqtypid::regtype::text, seqstart, seqincrement, seqmax,"
                " seqmin, seqcache, seqcycle) FROM pg_sequence WHERE seqrelid = c.oid)",
                "(SELECT string_agg(pg_describe_object(refclassid, refobjid, refobjsubid), ',')"
                " FROM pg_depend WHERE c.relkind = 'S' AND objid = c.oid AND deptype IN ('a', 'i')"
                " AND classid = 'pg_class'::regclass)",
                _comment("c.oid", "pg_class"),
            ),
            f"{_RELATIONS} WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f', 'c')"
            f" AND {_IS_RELATION}",
        ),
        _select(
            "'column'",
            f"{_RELATION} || '.' || quote_ident(a.attname)",
            (
                "row_number() OVER (PARTITION BY a.attrelid ORDER BY a.attnum)",
                "format_type(a.atttypid, a.atttypmod)",
                "CASE WHEN a.attnotnull THEN 'NOT NULL' END",
                "'DEFAULT ' || pg_get_expr(ad.adbin, ad.adrelid)",
                "nullif(a.attidentity::text, '')",
                "nullif(a.attgenerated::text, '')",
                "(SELECT collname FROM pg_collation AS l, pg_type AS t WHERE l.oid ="
                " a.attcollation AND t.oid = a.atttypid AND a.attcollation <> t.typcollation)",
                "a.attstorage::text",
                "nullif(a.attcompression::text, '')",
                "nullif(a.attstattarget, -1)",
                "nullif(a.attacl::text, '{}')",
                "a.attoptions::text",
                "a.attfdwoptions::text",
                _comment("c.oid", "pg_class", "a.attnum"),
            ),
            f"{_RELATIONS} JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0"
            " AND NOT a.attisdropped LEFT JOIN pg_attrdef AS ad ON ad.adrelid = c.oid"
            " AND ad.adnum = a.attnum WHERE c.relkind IN ('r', 'p', 'f', 'c')"
            f" AND {_IS_RELATION}",
        ),
        _select(
            "'constraint'",
            "coalesce(o.conrelid::regclass::text, o.contypid::regtype::text) || '.'"
            " || quote_ident(o.conname)",
            (
                "pg_get_constraintdef(o.oid)",
                "o.convalidated::text",
                "o.conislocal::text",
                _comment("o.oid", "pg_constraint"),
            ),
            "FROM pg_constraint AS o JOIN pg_namespace AS n ON n.oid = o.connamespace"
            " LEFT JOIN pg_class AS c ON c.oid = o.conrelid"
            " WHERE o.contype <> 't' AND n.nspname !~ '^pg_'"
            " AND (o.conrelid = 0 OR c.relkind IN ('r', 'p', 'f'))"
            " AND CASE WHEN o.conrelid <> 0 THEN"
            f" {_own('o.conrelid', 'pg_class')} ELSE {_own('o.contypid', 'pg_type')} END",
        ),
        _select(
            "'index'",
            _RELATION,
            (
                "pg_get_indexdef(i.indexrelid)",
                "CASE WHEN NOT i.indisvalid THEN 'INVALID' END",
                "CASE WHEN i.indisclustered THEN 'CLUSTERED' END",
                "CASE WHEN i.indisreplident THEN 'REPLICA IDENTITY' END",
                "(SELECT spcname FROM pg_tablespace WHERE oid = c.reltablespace)",
                _comment("c.oid", "pg_class"),
            ),
            f"{_RELATIONS} JOIN pg_index AS i ON i.indexrelid = c.oid WHERE"
            f" {_own('i.indrelid', 'pg_class')} AND n.nspname !~ '^pg_'",
        ),
        _select(
            "'trigger'",
            f"{_RELATION} || '.' || quote_ident(t.tgname)",
            ("pg_get_triggerdef(t.oid)", "t.tgenabled::text", _comment("t.oid", "pg_trigger")),
            f"{_RELATIONS} JOIN pg_trigger AS t ON t.tgrelid = c.oid AND NOT t.tgisinternal"
            f" WHERE {_IS_RELATION}",
        ),
        _select(
            "'rule'",
            f"{_RELATION} || '.' || quote_ident(r.rulename)",
            ("pg_get_ruledef(r.oid)", "r.ev_enabled::text"),
            f"{_RELATIONS} JOIN pg_rewrite AS r ON r.ev_class = c.oid AND r.rulename <> '_RETURN'"
            f" WHERE {_IS_RELATION}",
        ),
        _select(
            "'policy'",
            f"{_RELATION} || '.' || quote_ident(p.polname)",
            (
                "p.polcmd::text",
                "p.polpermissive::text",
                "p.polroles::regrole[]::text",
                "pg_get_expr(p.polqual, p.polrelid)",
                "'CHECK ' || pg_get_expr(p.polwithcheck, p.polrelid)",
            ),
            f"{_RELATIONS} JOIN pg_policy AS p ON p.polrelid = c.oid WHERE {_IS_RELATION}",
        ),
        _select(
            "CASE p.prokind WHEN 'p' THEN 'procedure' WHEN 'a' THEN 'aggregate' ELSE 'function'"
            " END",
            "p.oid::regprocedure::text",
            (
                "CASE WHEN p.prokind <> 'a' THEN pg_get_functiondef(p.oid) ELSE (SELECT"
                " concat_ws(' ', aggtransfn::text, aggfinalfn::text, aggtranstype::regtype::text,"
                " agginitval) FROM pg_aggregate WHERE aggfnoid = p.oid) END",
                "pg_get_userbyid(p.proowner)",
                _privileges("p.proacl", "'f'", "p.proowner"),
                _comment("p.oid", "pg_proc"),
            ),
            "FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace"
            f" WHERE {_own('p.oid', 'pg_proc')} AND n.nspname !~ '^pg_'",
        ),
        _select(
            "CASE t.typtype WHEN 'e' THEN 'enum' WHEN 'd' THEN 'domain' ELSE 'type' END",
            "t.oid::regtype::text",
            (
                "(SELECT string_agg(quote_literal(enumlabel), ', ' ORDER BY enumsortorder)"
                " FROM pg_enum WHERE enumtypid = t.oid)",
                "CASE t.typtype WHEN 'd' THEN concat_ws(' ', format_type(t.typbasetype,"
                " t.typtypmod), t.typnotnull::text, t.typdefault) END",
                "(SELECT rngsubtype::regtype::text FROM pg_range WHERE rngtypid = t.oid)",
                "pg_get_userbyid(t.typowner)",
                _privileges("t.typacl", "'T'", "t.typowner"),
                _comment("t.oid", "pg_type"),
            ),
            "FROM pg_type AS t JOIN pg_namespace AS n ON n.oid = t.typnamespace"
            f" WHERE t.typtype IN ('e', 'd', 'r') AND {_own('t.oid', 'pg_type')}"
            " AND n.nspname !~ '^pg_'",
        ),
        _select(
            "'statistics'",
            "quote_ident(n.nspname) || '.' || quote_ident(s.stxname)",
            ("pg_get_statisticsobjdef(s.oid)",),
            "FROM pg_statistic_ext AS s JOIN pg_namespace AS n ON n.oid = s.stxnamespace",
        ),
        _select(
            "'extension'",
            "quote_ident(e.extname)",
            ("e.extversion", "e.extnamespace::regnamespace::text"),
            "FROM pg_extension AS e",
        ),
        _select(
            "'event trigger'",
            "quote_ident(e.evtname)",
            ("e.evtevent", "e.evtfoid::regproc::text", "e.evtenabled::text", "e.evttags::text"),
            "FROM pg_event_trigger AS e",
        ),
        _select(
            "'publication'",
            "quote_ident(p.pubname)",
            (
                "p.puballtables::text",
                "p.pubinsert::text",
                "p.pubupdate::text",
                "p.pubdelete::text",
                "p.pubtruncate::text",
                "(SELECT string_agg(prrelid::regclass::text, ',' ORDER BY prrelid::regclass::text)"
                " FROM pg_publication_rel WHERE prpubid = p.oid)",
            ),
            "FROM pg_publication AS p",
        ),
        *(
            _select(
                f"'{kind}'",
                f"(pg_identify_object('{catalog}'::regclass, r.oid, 0)).identity",
                (distinguishing,),
                f"FROM {catalog} AS r WHERE {_own('r.oid', catalog)}",
            )
            for catalog, (kind, distinguishing) in _RARE.items()
        ),
    )
)
FINGERPRINT = (
    "WITH members AS MATERIALIZED (SELECT classid, objid FROM pg_depend WHERE deptype = 'e')"
    " SELECT md5(coalesce(string_agg(concat_ws(' ', kind, name, definition), ',' ORDER BY kind,"
    f" name), '')) FROM ({_OBJECTS}) AS objects"
)


async def read_fingerprint(connection: "asyncpg.Connection") -> str:
    """Return the digest of the schema of the connected database; read-only."""
    return str(await connection.fetchval(FINGERPRINT))
