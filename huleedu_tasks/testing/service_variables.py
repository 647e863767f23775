"""The environment variables from which code under test reads the URL of its database."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from huleedu_tasks.config.placeholders import url_variables
from huleedu_tasks.config.registry import Service
from huleedu_tasks.config.settings import Settings
from huleedu_tasks.config.urls import DatabaseUrl

_NOT_REQUESTED = "not_requested_by_this_test_"


def variables_of(service: Service, url: DatabaseUrl, settings: Settings) -> Mapping[str, str]:
    """Return the variables from which a service's code reads its URL, or parts of it."""
    environment = str(settings.environment)
    return {
        "HULEEDU_ENVIRONMENT": environment,
        settings.own_name("HULEEDU_ENVIRONMENT"): environment,
        **url_variables(service, url, environment),
    }


def without_database(services: Iterable[Service], url: DatabaseUrl) -> Mapping[str, str]:
    """Return URLs of a database that does not exist, for services without one in a test.

    Without them, code under test would use the developer's own databases.

    Args:
        services: The services.
        url: A URL of the test, with a server and a login.
    """
    return {
        service.url_variable: replace(
            url, scheme=service.url_scheme, database=f"{_NOT_REQUESTED}{service.name}"
        ).reveal()
        for service in services
    }
