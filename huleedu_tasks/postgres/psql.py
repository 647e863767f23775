"""How `psql` is started: everything by environment variables, nothing in its arguments."""

from huleedu_tasks.config.urls import DatabaseUrl
from huleedu_tasks.postgres.connections import APPLICATION_NAME


def psql_arguments(program: str, sql: str) -> list[str]:
    """Return the arguments of psql: interactive, or for one command that stops at an error."""
    return [program, "-v", "ON_ERROR_STOP=1", "-c", sql] if sql else [program]


def psql_environment(url: DatabaseUrl) -> dict[str, str]:
    """Return the variables that connect psql to a database.

    Their names are libpq's (PostgreSQL, 34.15 Environment Variables).
    """
    tls = {f"PG{name.upper()}": value for name, value in url.tls.items()}
    return {
        "PGHOST": url.host,
        "PGPORT": str(url.port),
        "PGUSER": url.user,
        "PGDATABASE": url.database,
        "PGPASSWORD": url.password.reveal(),
        "PGAPPNAME": APPLICATION_NAME,
        **tls,
    }
