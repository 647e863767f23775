"""Check whether each service's `env.py` connects to its URL, and whether the driver accepts it."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from huleedu_tasks.config.registry import Service
from huleedu_tasks.config.settings import EXTERNAL_PREFIX, Settings
from huleedu_tasks.config.urls import ResolvedUrl
from huleedu_tasks.errors import HuleEduError
from huleedu_tasks.migrations.child_process import Alembic
from huleedu_tasks.migrations.forkserver import WarmWorkers
from huleedu_tasks.migrations.modules import hint_of, missing_module_hint
from huleedu_tasks.migrations.results import ReportedConnection
from huleedu_tasks.migrations.runner import report_connection
from huleedu_tasks.report import Level, Problem

# The codes of the problems that fail in every case, whatever else env.py does.
PARAMETER_REFUSED, DRIVER_UNKNOWN = "url-parameter-refused", "url-driver-unknown"
# SQLAlchemy's messages about an unknown dialect and a driver that is not installed.
UNKNOWN_DRIVER = re.compile(r"Can't load plugin: sqlalchemy\.dialects:([\w.+]+)")
MISSING_DRIVER = re.compile(r"No module named '(asyncpg|psycopg2?|pg8000)\b")
# For each driver: the parameter it does not accept, and its own name for it.
TLS_NAMES = {"asyncpg": ("sslmode", "ssl"), "psycopg": ("ssl", "sslmode")}


async def following_problems(
    service: Service,
    resolved: ResolvedUrl,
    settings: Settings,
    workers: WarmWorkers,
    *,
    known: Sequence[Problem] = (),
) -> tuple[Problem, ...]:
    """Run a service's `env.py` with its URL, and compare the connection it would open.

    No connection is opened.

    Args:
        resolved: The URL of the service, with its source.
        known: The problems already found; a complaint that one of them contains is not repeated.

    Returns:
        The problems; empty if `env.py` connects to the URL.
    """
    variable = resolved.source if resolved.is_override else service.alembic_url_variable
    try:
        found = await report_connection(
            Alembic(service=service, url=resolved.url, settings=settings, workers=workers)
        )
    except HuleEduError as error:
        cause = f"env.py could not be asked where it connects: {error.message.rstrip('.')}"
        return (_problem(Level.WARNING, cause, hint_of(service, error), "env-py-not-asked"),)
    said = found.complaint.partition(": ")[2].rstrip(".")
    if said and any(said in " ".join(problem.cause.split()) for problem in known):
        found = replace(found, complaint="")
    return tuple(_judge(service, resolved, settings, found, variable))


def as_of_a_plan(problem: Problem) -> Problem:
    """Return a problem as a warning, unless the migration fails in every case.

    For plans and migrations: a migration compares its connections itself before any change.
    """
    is_certain = problem.code in (PARAMETER_REFUSED, DRIVER_UNKNOWN)
    return problem if is_certain else replace(problem, level=Level.WARNING)


def _judge(
    service: Service,
    resolved: ResolvedUrl,
    settings: Settings,
    found: ReportedConnection,
    variable: str,
) -> Iterator[Problem]:
    if not found.address:
        yield _without_connection(service, resolved, found, variable)
        return
    if not found.follows:
        place = f"{found.database} on {found.address}"
        cause = f"env.py would connect to {place}, not to {resolved.url.place}"
        yield _error(cause, found.how_to_follow, "target-mismatch")
    if found.complaint:
        yield _error(
            f"{found.driver} does not accept the URL in {variable}: {found.complaint}",
            _other_parameter(found, resolved, settings),
            PARAMETER_REFUSED,
        )


def _without_connection(
    service: Service, resolved: ResolvedUrl, found: ReportedConnection, variable: str
) -> Problem:
    by_hand = "`alembic current` in the service's directory shows the same."
    if found.refused:
        return _problem(
            Level.WARNING,
            f"env.py needs {found.refused} before it connects to its database, so that it could "
            "not be asked where it connects",
            "No action is required: the migration itself compares every connection.",
            "env-py-not-asked",
        )
    if not found.failure:
        return _error("env.py exited without connecting to a database", by_hand, "env-py-failed")
    cause = f"env.py fails with the URL in {variable}: {found.failure}"
    if UNKNOWN_DRIVER.search(found.failure):
        remedy = f"SQLAlchemy does not know {resolved.url.scheme}://: {_state_scheme(resolved)}"
        return _error(cause, remedy, DRIVER_UNKNOWN)
    if missing := MISSING_DRIVER.search(found.failure):
        remedy = (
            f"Install {missing[1]} where its migrations run, or "
            f"{_state_scheme(resolved)[0].lower()}{_state_scheme(resolved)[1:]}"
        )
        return _error(cause, remedy, "env-py-failed")
    if hint := missing_module_hint(service, found.failure):
        return _error(cause, hint, "env-py-failed")
    return _error(cause, f"Correct env.py or {variable}; {by_hand}", "env-py-failed")


def _state_scheme(resolved: ResolvedUrl) -> str:
    if resolved.is_override:
        return (
            f"Begin {resolved.source} with postgresql+asyncpg:// or the scheme of the driver that "
            "env.py uses."
        )
    return "Set 'url_scheme' in the registry to that of the driver that env.py uses."


def _other_parameter(found: ReportedConnection, resolved: ResolvedUrl, settings: Settings) -> str:
    variable = resolved.source
    if not resolved.is_override:
        prefix = EXTERNAL_PREFIX.get(settings.environment, "")
        return (
            f"Correct {prefix}_SSLMODE and {prefix}_SSLROOTCERT, which put it into the URL, or "
            "'url_scheme' in the registry."
        )
    wrong, right = TLS_NAMES.get(found.driver, TLS_NAMES["psycopg"])
    if re.search(rf"['\"]{wrong}['\"]", found.complaint):
        return f"Write {right}= instead of {wrong}= in {variable}: {found.driver} calls it {right}."
    return f"Remove the parameter from {variable}, or from the URL in env.py."


def _error(cause: str, remedy: str, code: str) -> Problem:
    return _problem(Level.ERROR, cause, remedy, code)


def _problem(level: Level, cause: str, remedy: str, code: str) -> Problem:
    return Problem(level=level, cause=cause, remedy=remedy, code=code)
