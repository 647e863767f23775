"""The placeholders in a service's `environment`, for a service that reads the parts of its URL.

They are filled in from the URL of the current environment. A service that reads host, port, user,
password and database thus uses the same database as the tasks, in every environment.
"""

import re
from collections.abc import Mapping

from huleedu_tasks.config.registry import PLACEHOLDERS, Service
from huleedu_tasks.config.urls import DatabaseUrl

_PLACEHOLDER = re.compile(rf"\{{({'|'.join(PLACEHOLDERS)})\}}")


def fill_in(
    values: Mapping[str, str], environment: str, url: DatabaseUrl | None = None
) -> dict[str, str]:
    """Return variables with their placeholders filled in; other braces are kept.

    Args:
        values: The variables as the registry states them.
        environment: The name of the environment, for `{environment}`.
        url: The database, for the other placeholders; with None the variables that contain one
            are left out.
    """
    known = {"environment": environment}
    if url:
        known |= {
            "host": url.host,
            "port": str(url.port),
            "user": url.user,
            "password": url.password.reveal(),
            "database": url.database,
            "url": url.reveal(),
        }
    return {
        name: _PLACEHOLDER.sub(lambda found: known[found[1]], value)
        for name, value in values.items()
        if known.keys() >= set(_PLACEHOLDER.findall(value))
    }


def fills_in(values: Mapping[str, str], placeholder: str) -> bool:
    """Whether one of the variables contains a placeholder."""
    return any(f"{{{placeholder}}}" in value for value in values.values())


def url_variables(service: Service, url: DatabaseUrl, environment: str) -> dict[str, str]:
    """Return the variables that make a service's own code use a database, with the password.

    They are its override variables, and those of its `environment` that contain parts of the URL.
    """
    parts = {
        name: value
        for name, value in service.environment.items()
        if any(fills_in({name: value}, placeholder) for placeholder in PLACEHOLDERS)
    }
    return {
        service.alembic_url_variable: url.reveal(),
        service.url_variable: url.reveal(),
        **fill_in(parts, environment, url),
    }
