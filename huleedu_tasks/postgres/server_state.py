"""What a server gives to every database that is made on it, and to every session in one."""

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import asyncpg

# Settings by their value at the start of a session, so that what this one has set is left out.
_STATE = """\
SELECT
  (SELECT json_agg(json_build_array(name, reset_val) ORDER BY name)
   FROM pg_settings
   WHERE category LIKE 'Client Connection Defaults%'
      OR category LIKE 'Version and Platform Compatibility%'
      -- Libraries add theirs when a session first uses them.
      OR (category = 'Customized Options' AND source NOT IN ('default', 'session')))::text
  || (SELECT json_build_array(encoding, datcollate, datctype)
      FROM pg_database WHERE datname = 'template0')::text
  || (SELECT coalesce(json_agg(spcname ORDER BY spcname), '[]') FROM pg_tablespace)::text
  || (SELECT json_agg(json_build_array(name, default_version) ORDER BY name)
      FROM pg_available_extensions)::text
  AS settings,
  (SELECT json_agg(json_build_array(rolname, rolsuper, rolinherit, rolcreaterole, rolcreatedb,
                                    rolcanlogin, rolreplication, rolconnlimit, rolvaliduntil,
                                    rolbypassrls) ORDER BY rolname)
   FROM pg_roles)::text
  || (SELECT coalesce(json_agg(json_build_array(roleid::regrole::text, member::regrole::text,
                                                admin_option)
                               ORDER BY roleid::regrole::text, member::regrole::text), '[]')
      FROM pg_auth_members)::text
  || (SELECT coalesce(json_agg(json_build_array(setrole::regrole::text, setconfig)
                               ORDER BY setrole::regrole::text), '[]')
      FROM pg_db_role_setting WHERE setdatabase = 0)::text
  AS roles
"""


class ServerState(NamedTuple):
    """What a server is apart from its databases, as text.

    Attributes:
        settings: Its settings, encodings, tablespaces and the extensions that can be created.
        roles: Its roles with their memberships and settings; a password is not among it.
    """

    settings: str
    roles: str


async def server_state(asked: "asyncpg.Connection") -> ServerState:
    """Ask a server what it gives to a database that is made on it."""
    settings, roles = await asked.fetchrow(_STATE)
    version = ".".join(map(str, asked.get_server_version()))
    return ServerState(f"{version} {settings}", roles)
