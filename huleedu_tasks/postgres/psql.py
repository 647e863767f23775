"""How `psql` is started: everything by environment variables, nothing in its arguments."""

from collections.abc import Mapping

from huleedu_tasks.config.urls import DatabaseUrl
from huleedu_tasks.postgres.connections import APPLICATION_NAME


def psql_arguments(program: str, sql: str) -> list[str]:
    """Return the arguments of psql: interactive, or for one command that stops at an error."""
    return [program, "-v", "ON_ERROR_STOP=1", "-c", sql] if sql else [program]


def psql_environment(url: DatabaseUrl, inherited: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a program that libpq connects to a database, and to no other.

    The names are libpq's (PostgreSQL, 34.15 Environment Variables); those that are inherited are
    left out, since PGSERVICE and PGHOSTADDR would win over what is said here.
    """
    others = {name: value for name, value in inherited.items() if not name.startswith("PG")}
    tls = {f"PG{name.upper()}": value for name, value in url.tls.items()}
    return {
        **others,
        "PGHOST": url.host,
        "PGPORT": str(url.port),
        "PGUSER": url.user,
        "PGDATABASE": url.database,
        "PGPASSWORD": url.password.reveal(),
        "PGAPPNAME": APPLICATION_NAME,
        **tls,
    }
