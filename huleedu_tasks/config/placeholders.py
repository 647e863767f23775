"""The placeholders in a service's `environment`: the parts of its URL, for code that reads parts.

They are filled from the URL of whatever environment it is, so that a service that is configured by
host, port, user, password and database follows that URL in production as in development.
"""

import re
from collections.abc import Mapping

from huleedu_tasks.config.registry import PLACEHOLDERS
from huleedu_tasks.config.urls import DatabaseUrl

_PLACEHOLDER = re.compile(rf"\{{({'|'.join(PLACEHOLDERS)})\}}")


def fill_in(
    values: Mapping[str, str], environment: str, url: DatabaseUrl | None = None
) -> dict[str, str]:
    """Return variables with their placeholders filled in; other braces are kept.

    Args:
        environment: Its name, for `{environment}`.
        url: The database, for the other placeholders; None leaves out each variable that has one.
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
    """Whether one of the variables holds a placeholder."""
    return any(f"{{{placeholder}}}" in value for value in values.values())
