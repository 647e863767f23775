"""The state of a server that every database created on it inherits, and every session in one."""

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import asyncpg

# `reset_val` is the value at the start of a session; settings of this session are excluded.
_STATE = """\
SELECT
  (SELECT json_agg(json_build_array(name, reset_val) ORDER BY name)
   FROM pg_settings
   WHERE category LIKE 'Client Connection Defaults%'
      OR category LIKE 'Version and Platform Compatibility%'
      -- Extensions register their settings when a session first uses them.
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
    """The state of a server outside its databases, as strings to compare.

    Attributes:
        settings: Version, settings, encodings, tablespaces and available extensions.
        roles: Roles with their memberships and settings, without passwords.
    """

    settings: str
    roles: str


async def server_state(asked: "asyncpg.Connection") -> ServerState:
    """Read the state of a server that a database created on it inherits."""
    settings, roles = await asked.fetchrow(_STATE)
    version = ".".join(map(str, asked.get_server_version()))
    return ServerState(f"{version} {settings}", roles)
