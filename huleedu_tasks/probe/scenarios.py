"""The environments in which a service's configuration is run, with the URL the resolver expects.

All values are made up, and no host in them exists (RFC 2606: `.invalid`), so that no password is
shown and no server is reached, regardless of what the service does with them.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial
from pathlib import Path

from huleedu_tasks.config.placeholders import fill_in
from huleedu_tasks.config.registry import Registry, Service
from huleedu_tasks.config.secret import Secret
from huleedu_tasks.config.settings import (
    EXTERNAL_PREFIX,
    PREFIX,
    SETTINGS,
    Environment,
    Settings,
    is_external_secret,
)
from huleedu_tasks.config.urls import DatabaseUrl, resolve
from huleedu_tasks.errors import ConfigurationError

USER = "check_user"
PLAIN_PASSWORD = "check-password"
DEVELOPMENT_PASSWORD = "check-development"
# It breaks ConfigParser, a URL without percent-encoding, and `quote_plus`.
SPECIAL_PASSWORD = "p@ss#w%rd/1 +"
EXTERNAL_HOST = "production.invalid"
EXTERNAL_PORT = "6432"
STAGING_HOST = "staging.invalid"
OVERRIDE = DatabaseUrl(
    user=USER,
    password=Secret(SPECIAL_PASSWORD),
    host="override.invalid",
    port=6543,
    database="check_override",
)
_CREDENTIALS = ("HULEEDU_DB_USER", "HULEEDU_DB_PASSWORD")
_PRODUCTION = EXTERNAL_PREFIX[Environment.PRODUCTION]
_STAGING = EXTERNAL_PREFIX[Environment.STAGING]
_IS_URL = re.compile(r"(postgres(?:ql)?(?:\+\w+)?)://.*", re.DOTALL)
HIDDEN_HOST = "hidden.invalid"
HIDDEN_URL = rf"\1://{USER}:{PLAIN_PASSWORD}@{HIDDEN_HOST}:5432/hidden"


class Situation(StrEnum):
    """One environment of a service."""

    HANDED_OVER = "with the override variable as the tasks set it"
    OVERRIDE = "with a password in its override variable"
    DEVELOPMENT = "in development"
    SPECIAL_PASSWORD = "in development, with special characters in the password"
    TESTING = "in testing"
    PRODUCTION = "in production"
    STAGING = "in staging, with the usual user and port"
    NO_CREDENTIALS = "in development without credentials"
    NO_PRODUCTION = "in production without host and password"
    UNKNOWN_ENVIRONMENT = "with an unknown HULEEDU_ENVIRONMENT"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One environment, and the URL that a service must have there.

    Attributes:
        variables: The variables to set besides the service's own environment; one with an empty
            value counts as not set.
        url: The URL that replaces the one in the service's Alembic configuration; empty string to
            keep it.
        password: The password that the service must use.
        expected: The URL of the resolver; `None` if the service must raise an error.
        hidden: Made-up values for variables that the service would load from a `.env`.
    """

    name: str
    variables: Mapping[str, str]
    url: str = ""
    password: str = PLAIN_PASSWORD
    expected: DatabaseUrl | None = None
    hidden: Mapping[str, str] = field(default_factory=dict)


def matrix(service: Service, hidden: Mapping[str, str], prefix: str = PREFIX) -> Iterator[Case]:
    """Yield a case for every situation of a service.

    Args:
        hidden: The values that replace those the service would load from a `.env` (`hiding`). In
            development nothing is replaced.
        prefix: The prefix of the settings in this repository; the default names are set too.
    """
    for case in _situations(service, prefix):
        shown = case.name in (Situation.DEVELOPMENT, Situation.HANDED_OVER)
        yield case if shown else replace(case, hidden=hidden)


def _situations(service: Service, prefix: str) -> Iterator[Case]:
    case = partial(_case, service, prefix)
    yield handed_over(service)
    stated = replace(OVERRIDE, scheme=service.url_scheme)
    override = dict.fromkeys(_variables(service), stated.reveal())
    yield case(Situation.OVERRIDE, override, SPECIAL_PASSWORD)
    plain = dict(zip(_CREDENTIALS, (USER, PLAIN_PASSWORD), strict=True))
    special = {**plain, "HULEEDU_DB_PASSWORD": SPECIAL_PASSWORD}
    production = {
        # Code that does not read HULEEDU_ENVIRONMENT uses these development credentials.
        "HULEEDU_DB_USER": USER,
        "HULEEDU_DB_PASSWORD": DEVELOPMENT_PASSWORD,
        "HULEEDU_ENVIRONMENT": str(Environment.PRODUCTION),
        f"{_PRODUCTION}_HOST": EXTERNAL_HOST,
        f"{_PRODUCTION}_PORT": EXTERNAL_PORT,
        f"{_PRODUCTION}_PASSWORD": PLAIN_PASSWORD,
    }
    staging = {
        "HULEEDU_DB_USER": "",
        "HULEEDU_DB_PASSWORD": DEVELOPMENT_PASSWORD,
        "HULEEDU_ENVIRONMENT": str(Environment.STAGING),
        f"{_STAGING}_HOST": STAGING_HOST,
        f"{_STAGING}_PASSWORD": PLAIN_PASSWORD,
    }
    nowhere = {**production, f"{_PRODUCTION}_HOST": "", f"{_PRODUCTION}_PASSWORD": ""}
    yield case(Situation.DEVELOPMENT, plain)
    yield case(Situation.SPECIAL_PASSWORD, special, SPECIAL_PASSWORD)
    yield case(Situation.TESTING, {**plain, "HULEEDU_ENVIRONMENT": str(Environment.TESTING)})
    yield case(Situation.PRODUCTION, production)
    yield case(Situation.STAGING, staging)
    yield case(Situation.NO_CREDENTIALS, dict.fromkeys(_CREDENTIALS, ""))
    yield case(Situation.NO_PRODUCTION, nowhere)
    yield case(Situation.UNKNOWN_ENVIRONMENT, {**plain, "HULEEDU_ENVIRONMENT": "prodution"})


def handed_over(
    service: Service, name: str = Situation.HANDED_OVER, *, password: str = SPECIAL_PASSWORD
) -> Case:
    """Return the case of a migration, with the variables that the tasks set."""
    stated = replace(OVERRIDE, scheme=service.url_scheme, password=Secret(password))
    url = stated.reveal()
    return Case(
        name=name,
        url=url,
        variables={
            **fill_in(service.environment, str(Environment.DEVELOPMENT), stated),
            "HULEEDU_ENVIRONMENT": str(Environment.DEVELOPMENT),
            "HULEEDU_DB_USER": USER,
            "HULEEDU_DB_PASSWORD": DEVELOPMENT_PASSWORD,
            **dict.fromkeys(_variables(service), url),
            "PGPASSWORD": password,
        },
        password=password,
        expected=stated,
    )


def without_databases(variables: Mapping[str, str], registry: Registry) -> dict[str, str]:
    """Return the variables without those that select a database."""
    return {name: v for name, v in variables.items() if not _selects_database(name, v, registry)}


def hiding(loaded: Mapping[str, str], registry: Registry) -> dict[str, str]:
    """Return values that override the variables in a `.env` that select a database.

    A service does not load a variable that is already set. The variables of the tasks become empty,
    which counts as not set; a URL becomes a valid one whose host does not exist.
    """
    return {
        name: _IS_URL.sub(HIDDEN_URL, value) if _IS_URL.match(value) else ""
        for name, value in loaded.items()
        if _selects_database(name, value, registry)
    }


def _selects_database(name: str, value: str, registry: Registry) -> bool:
    """Whether a variable selects a database."""
    ours = {setting.name for setting in SETTINGS}
    ours |= {f"{registry.prefix}{name.removeprefix(PREFIX)}" for name in ours}
    ours |= {name for service in registry.services for name in _variables(service)}
    return (
        name in ours
        or name.startswith("PG")
        or is_external_secret(name)
        or bool(_IS_URL.match(value))
    )


def _case(
    service: Service,
    prefix: str,
    name: str,
    variables: Mapping[str, str],
    password: str = PLAIN_PASSWORD,
) -> Case:
    variables = {"HULEEDU_ENVIRONMENT": str(Environment.DEVELOPMENT), **variables}
    ours = {n.removeprefix(PREFIX): value for n, value in variables.items() if n.startswith(PREFIX)}
    variables |= {f"{prefix}{rest}": value for rest, value in ours.items()}
    settings = Settings(root=Path(), process=variables, file={}, lines={}, prefix=prefix)
    try:
        expected = resolve(service, settings).url
    except (ConfigurationError, ValueError):
        # Settings reject an unknown environment before the URL is resolved.
        expected = None
    stated = fill_in(service.environment, variables["HULEEDU_ENVIRONMENT"], expected)
    return Case(name=name, variables={**stated, **variables}, password=password, expected=expected)


def _variables(service: Service) -> tuple[str, str]:
    return service.url_variable, service.alembic_url_variable
