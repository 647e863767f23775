"""Arguments and environment of `psql`: the connection is passed by environment variables."""

from collections.abc import Mapping

from huleedu_tasks.config.urls import DatabaseUrl
from huleedu_tasks.postgres.connections import APPLICATION_NAME


def psql_arguments(program: str, sql: str) -> list[str]:
    """Return the arguments of psql.

    Args:
        program: The path of psql.
        sql: The SQL to run, which stops at the first error; an empty string for an interactive
            session.
    """
    return [program, "-v", "ON_ERROR_STOP=1", "-c", sql] if sql else [program]


def psql_environment(url: DatabaseUrl, inherited: Mapping[str, str]) -> dict[str, str]:
    """Return the environment that makes libpq connect to a database, and to no other.

    The names are libpq's (PostgreSQL, 34.15 Environment Variables). Inherited PG* variables are
    removed, because PGSERVICE and PGHOSTADDR take precedence over PGHOST.
    """
    others = {name: value for name, value in inherited.items() if not name.startswith("PG")}
    return {**others, **connection_variables(url), "PGAPPNAME": APPLICATION_NAME}


def connection_variables(url: DatabaseUrl) -> dict[str, str]:
    """Return libpq's variables for a connection to a database, with the password."""
    tls = {f"PG{name.upper()}": value for name, value in url.tls.items()}
    return {
        "PGHOST": url.host,
        "PGPORT": str(url.port),
        "PGUSER": url.user,
        "PGDATABASE": url.database,
        "PGPASSWORD": url.password.reveal(),
        **tls,
    }
