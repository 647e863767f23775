"""Compares the registry with the databases that a service's own code connects to.

The tasks pass the URL to a migration, so most differences do not affect migrations. They are
reported because the service itself gets no URL from the tasks.
"""

import re
import sys
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from huleedu_tasks.config.placeholders import fills_in
from huleedu_tasks.config.registry import Service
from huleedu_tasks.config.settings import PREFIX
from huleedu_tasks.config.urls import DatabaseUrl
from huleedu_tasks.migrations.alembic_config import option_hint
from huleedu_tasks.migrations.modules import missing_module_hint
from huleedu_tasks.probe.addresses import Address, Answer, Answers, Failure
from huleedu_tasks.probe.scenarios import HIDDEN_HOST, OVERRIDE, USER, Case, Situation
from huleedu_tasks.report import Level, Problem

# Part of the placeholder URL in the alembic.ini that `alembic init` writes.
NO_URL_YET = "sqlalchemy.dialects:driver"
PATTERN = (
    "Let config.py read the override variable first, then HULEEDU_ENVIRONMENT, and raise an error "
    "if a variable is missing."
)
# In characters; the messages of some libraries are long.
SHOWN_ERROR = 150
# Part of the message of ConfigParser about a percent sign.
INTERPOLATION = "interpolation"


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """Values for the registry with which a service's `env.py` uses the URL it gets."""

    variable: str
    url_scheme: str


def action_required(cause: str, remedy: str) -> Problem:
    """Return a finding that requires action by the user."""
    return Problem(level=Level.ERROR, cause=cause, remedy=remedy, handled=False)


def handled(cause: str, remedy: str, level: Level = Level.WARNING) -> Problem:
    """Return a finding that the tasks handle automatically."""
    return Problem(level=level, cause=cause, remedy=remedy, handled=True)


def follows(answer: Answer) -> bool:
    """Whether an `env.py` connects to the database that the tasks pass to it."""
    return (
        isinstance(answer, Address)
        and answer.fits
        and answer.password
        and _is_same(answer, OVERRIDE)
    )


def differences(
    service: Service,
    cases: Mapping[str, Case],
    answers: Mapping[str, Answers],
    suggestion: Suggestion | None = None,
) -> Iterator[Problem]:
    """Compare the answers of a service in each case with the result of the resolver.

    Args:
        cases: The cases, by name.
        answers: The answers, by the name of the case.
        suggestion: The values with which its `env.py` uses the URL; `None` if none were found.
    """
    handed_over = answers[Situation.HANDED_OVER].env
    if not follows(handed_over):
        yield _not_followed(service, handed_over, suggestion)
    else:
        yield from _env_problems(service, cases, answers)
    if answers[Situation.HANDED_OVER].config or answers[Situation.DEVELOPMENT].config:
        yield from _config_problems(service, cases, answers)


def _not_followed(service: Service, answer: Answer, suggestion: Suggestion | None) -> Problem:
    cause, remedy = _cause_and_remedy(service, answer)
    if hint := option_hint(service, cause):
        return action_required(cause, hint)
    if suggestion:
        field = _field(service, suggestion.variable)
        stated = {
            field: (suggestion.variable, service.alembic_url_variable),
            "url_scheme": (suggestion.url_scheme, service.url_scheme),
        }
        fields = [f'"{name}": "{new}"' for name, (new, old) in stated.items() if new != old]
        remedy = f"State {', '.join(fields)} in the registry: with that, env.py uses its URL."
    return action_required(cause, remedy)


def password_not_encoded(service: Service) -> Problem:
    """Return the finding for an `env.py` that does not percent-encode the password."""
    return handled(
        "env.py does not percent-encode the password in its URL; passwords with special "
        "characters such as @, #, % or / will fail",
        f"Encode it in the code of {service.name}: urllib.parse.quote(password, safe='').",
    )


def _cause_and_remedy(service: Service, answer: Answer) -> tuple[str, str]:
    variable = service.alembic_url_variable
    if isinstance(answer, Failure):
        cause = f"env.py failed with its URL in {variable}: {_shortened(answer)}"
        return cause, _remedy_of(service, answer)
    if isinstance(answer, Address) and _is_same(answer, OVERRIDE):
        if not answer.fits:
            return (
                f"env.py is synchronous, but its URL has the driver {answer.scheme}",
                "State its driver as 'url_scheme' in the registry, such as postgresql+psycopg.",
            )
        return (
            "env.py does not connect with the password in its URL and in PGPASSWORD",
            f"Use the URL in {variable} unchanged; it includes the password.",
        )
    return (
        f"env.py does not read {variable}: it would connect to {answer}",
        "Read that variable in env.py, or state the one that it reads as 'alembic_url_variable'.",
    )


def _remedy_of(service: Service, failure: Failure) -> str:
    if hint := missing_module_hint(service, failure.error):
        return hint
    python = " ".join(service.python) or sys.executable
    return f"Correct env.py; `{python} -m alembic current` in its directory shows the same error."


def _field(service: Service, variable: str) -> str:
    """Return the field for a variable.

    It is `url_variable` if the variable contains the service's name. Any other variable may be
    shared with other services: `alembic_url_variable`.
    """
    words = re.split(r"[^A-Z0-9]+", service.name.upper())
    own = any(word in variable for word in words if len(word) > 1)
    return "url_variable" if own else "alembic_url_variable"


def _env_problems(
    service: Service, cases: Mapping[str, Case], answers: Mapping[str, Answers]
) -> Iterator[Problem]:
    override = answers[Situation.OVERRIDE].env
    if _reads_no_variable(answers):
        place = override if isinstance(override, Address) else "no database"
        yield handled(
            f"env.py takes its URL from {service.alembic_config.name}, which resolves to {place}; "
            "the tasks replace it",
            "Before you run `alembic` yourself, put the URL of `invoke db.url --show-password` "
            "there.",
            Level.INFO,
        )
        return
    yield from _override_problems(service, override)
    configs = {situation: answers[situation].config for situation in Situation}
    needs_it = _needs_its_variable(_envs(answers))
    if needs_it and _needs_its_variable(configs):
        # The findings of config.py report the same.
        return
    if needs_it and configs[Situation.DEVELOPMENT] is None:
        yield handled(
            "env.py connects only if its variable is set, and no config.py was found",
            "Before you run `alembic` yourself, set it to the URL of `invoke db.url "
            "--show-password`.",
            Level.INFO,
        )
        return
    yield from _own_url_problems(service, cases, answers)


def _override_problems(service: Service, answer: Answer) -> Iterator[Problem]:
    """Report an `env.py` that fails with its override variable, or without its password."""
    if isinstance(answer, Failure) and INTERPOLATION in answer.error:
        yield handled(
            "env.py failed with a percent sign in the URL, which ConfigParser interprets; "
            "passwords with special characters will fail",
            'In env.py: config.set_main_option("sqlalchemy.url", url.replace("%", "%%")).',
        )
    elif isinstance(answer, Failure):
        yield handled(
            f"env.py failed {Situation.OVERRIDE}: {_shortened(answer)}",
            "Correct env.py; `alembic current` with that variable shows the same error.",
        )
    elif isinstance(answer, Address) and not answer.password and not _takes_parts(service):
        yield handled(
            "env.py does not use the password of its override variable",
            "str() of a SQLAlchemy URL masks it: use render_as_string(hide_password=False).",
        )


def _own_url_problems(
    service: Service, cases: Mapping[str, Case], answers: Mapping[str, Answers]
) -> Iterator[Problem]:
    """Report an `env.py` that connects to another database without its override variable."""
    configs = {situation: answers[situation].config for situation in Situation}
    situations = [Situation.DEVELOPMENT, Situation.PRODUCTION]
    if not any(_knows_environments(service, found) for found in (_envs(answers), configs)):
        situations.remove(Situation.PRODUCTION)
        if configs[Situation.DEVELOPMENT] is None and _uses_own_database(service, cases, answers):
            yield _selected_by_variable_only(service, "env.py")
            return
    for situation in situations:
        expected, answer = cases[situation].expected, answers[situation]
        if (
            expected
            and not _agrees(answer.env, expected)
            and not _is_same_answer(answer.env, answer.config)
        ):
            source = "does not use config.py" if answer.config else "builds its own URL"
            yield handled(
                f"env.py {source}: {situation} it {_behaviour(answer.env)}",
                "Take the URL from config.py in env.py, or set "
                f"{service.alembic_url_variable} before you run `alembic` yourself.",
            )


def _config_problems(
    service: Service, cases: Mapping[str, Case], answers: Mapping[str, Answers]
) -> Iterator[Problem]:
    found = {situation: answers[situation].config for situation in Situation}
    override = found[Situation.HANDED_OVER]
    if isinstance(override, Failure) and _needs_its_variable(found):
        yield handled(
            f"config.py failed: {_shortened(override)}",
            "Correct it, or install the missing package.",
        )
        return
    if not (isinstance(override, Address) and _is_same(override, OVERRIDE)):
        yield handled(
            f"config.py does not read {service.alembic_url_variable}: it {_behaviour(override)}",
            PATTERN,
        )
    elif _needs_its_variable(found):
        yield from _overridden_by_env_file(service, cases, found[Situation.DEVELOPMENT])
        yield handled(
            "config.py takes its URL only from its override variable; HULEEDU_ENVIRONMENT has no "
            "effect",
            "Set that variable in every environment of the service.",
            Level.INFO,
        )
        return
    yield from _place_in_development(service, cases, found)
    if not _knows_environments(service, found):
        if isinstance(override, Address) and _is_same(override, OVERRIDE):
            yield _selected_by_variable_only(service, "config.py")
        return
    yield from _in_development(service, cases, found)
    yield from _in_production(cases, found)
    for situation in (Situation.NO_CREDENTIALS, Situation.NO_PRODUCTION):
        yield from _without_variables(situation, cases[situation], found[situation])
    unknown = found[Situation.UNKNOWN_ENVIRONMENT]
    if isinstance(unknown, Address):
        yield handled("config.py treats an unknown HULEEDU_ENVIRONMENT as development", PATTERN)


def _selected_by_variable_only(service: Service, file: str) -> Problem:
    """Return the finding for code that does not read HULEEDU_ENVIRONMENT, which is allowed."""
    by_parts = fills_in(service.environment, "host")
    # The same words for all services, so that the report has one finding for them.
    source = "the variables of 'environment'" if by_parts else "its override variable"
    return handled(
        f"{file} takes its URL from {source} or its own default; HULEEDU_ENVIRONMENT has no effect",
        "Set the variables that it reads in every environment of the service.",
        Level.INFO,
    )


def _overridden_by_env_file(
    service: Service, cases: Mapping[str, Case], answer: Answer
) -> Iterator[Problem]:
    """Report a `.env` of the service that sets a different database in development."""
    expected = cases[Situation.DEVELOPMENT].expected
    if not isinstance(answer, Address) or expected is None:
        return
    place = f"{expected.address}/{expected.database}"
    if answer.host == service.compose_service or answer.place[1:] == (
        expected.port,
        expected.database,
    ):
        return
    variable = service.alembic_url_variable
    yield handled(
        f"config.py resolves to {answer} in development, the registry to {place}",
        f"Correct {variable} in the .env file that sets it, or correct the registry.",
    )


def _place_in_development(
    service: Service, cases: Mapping[str, Case], found: Mapping[Situation, Answer]
) -> Iterator[Problem]:
    answer, expected = found[Situation.DEVELOPMENT], cases[Situation.DEVELOPMENT].expected
    if not isinstance(answer, Address) or expected is None:
        yield handled(f"config.py {_behaviour(answer)} in development", PATTERN)
        return
    if not answer.is_local:
        knows = _knows_environments(service, found)
        # The default of code that gets its URL from a variable may be meant for containers.
        if knows or answer.host != service.compose_service:
            yield handled(
                f"config.py resolves to {answer} in development, which is not on this machine",
                PATTERN,
            )
        return
    if answer.place[1:] != (expected.port, expected.database):
        yield action_required(
            f"config.py resolves to {answer} in development, the registry to {expected.address}/"
            f"{expected.database}",
            f"Correct 'port' or 'database' in the registry, or {_file(answer, service)}.",
        )


def _in_testing(
    service: Service, cases: Mapping[str, Case], found: Mapping[Situation, Answer]
) -> Iterator[Problem]:
    """Report a service whose tests use another database than the tasks in testing."""
    development, answer = found[Situation.DEVELOPMENT], found[Situation.TESTING]
    expected = cases[Situation.TESTING].expected
    if not isinstance(answer, Address) or not answer.is_local:
        yield _unsupported("testing", answer)
    elif expected is None or answer.place[1:] == (expected.port, expected.database):
        return
    elif not _is_same_answer(answer, development):
        yield handled(
            f"config.py resolves to {answer} in testing, the registry to {expected.address}/"
            f"{expected.database}",
            f'State "testing_database": "{answer.database}" in the registry, or correct config.py.',
        )
    elif answer.database == service.database:
        yield handled(
            # The same words for all services, so that the report has one finding for them.
            "config.py uses the database of development in testing as well; the tasks use a "
            "separate one there",
            "Let config.py use it (`HULEEDU_ENVIRONMENT=testing invoke db.url` shows its name), or "
            "state the name of 'database' as 'testing_database' in the registry: then testing may "
            "destroy the data of development.",
        )


def _in_development(
    service: Service, cases: Mapping[str, Case], found: Mapping[Situation, Answer]
) -> Iterator[Problem]:
    answer, expected = found[Situation.DEVELOPMENT], cases[Situation.DEVELOPMENT].expected
    if not isinstance(answer, Address) or not answer.is_local or expected is None:
        return
    if answer.place[1:] == (expected.port, expected.database):
        yield from _in_testing(service, cases, found)
    elif isinstance(found[Situation.TESTING], Failure):
        yield _unsupported("testing", found[Situation.TESTING])
    special = found[Situation.SPECIAL_PASSWORD]
    if answer.user != expected.user or not answer.password:
        yield handled(
            "config.py does not take its development user and password from HULEEDU_DB_USER and "
            "HULEEDU_DB_PASSWORD",
            PATTERN,
        )
    elif (
        not isinstance(special, Address)
        or not special.password
        or not _is_same_answer(special, answer)
    ):
        yield handled(
            "config.py does not percent-encode the password; passwords containing @, #, % or / "
            "will fail",
            "Encode user and password: urllib.parse.quote(password, safe='').",
        )


def _in_production(
    cases: Mapping[str, Case], found: Mapping[Situation, Answer]
) -> Iterator[Problem]:
    answer, expected = found[Situation.PRODUCTION], cases[Situation.PRODUCTION].expected
    staging, due = found[Situation.STAGING], cases[Situation.STAGING].expected
    if expected is None or due is None:
        return
    if not isinstance(answer, Address):
        yield handled(f"config.py {_behaviour(answer)} in production", PATTERN)
        return
    if answer.host != expected.host:
        yield handled(
            f"config.py ignores HULEEDU_ENVIRONMENT: in production it resolves to {answer.host}",
            PATTERN,
        )
        return
    if answer.database != expected.database:
        yield action_required(
            f"config.py resolves to the database {answer.database!r} in production, the registry "
            f"to {expected.database!r}",
            "Correct 'database' in the registry, or config.py.",
        )
    elif not _agrees(answer, expected):
        yield handled(
            "config.py does not use HULEEDU_DB_USER, HULEEDU_PROD_DB_PORT and "
            "HULEEDU_PROD_DB_PASSWORD in production",
            PATTERN,
        )
    if not isinstance(staging, Address) or staging.host != due.host:
        yield _unsupported("staging", staging)
    elif not _agrees(staging, replace(due, database=staging.database)):
        yield handled(
            f"config.py does not default to the user {due.user} and port {due.port} in staging",
            PATTERN,
        )


def _unsupported(environment: str, answer: Answer) -> Problem:
    """Report an environment that a service does not support; raising an error is acceptable."""
    level = Level.INFO if isinstance(answer, Failure) else Level.WARNING
    return handled(
        f"config.py does not support {environment}: there it {_behaviour(answer)}", PATTERN, level
    )


def _without_variables(situation: Situation, case: Case, answer: Answer) -> Iterator[Problem]:
    if isinstance(answer, Address):
        yield handled(f"config.py returns a URL {situation}, where it must fail", PATTERN)
        return
    missing = [n for n, value in case.variables.items() if not value and n.startswith(PREFIX)]
    # Without the prefix, which the repository may replace.
    parts = [name.removeprefix(PREFIX) for name in missing]
    if isinstance(answer, Failure) and not all(part in answer.error for part in parts):
        yield handled(
            f"config.py does not name the missing variables {situation}: {' and '.join(missing)}",
            PATTERN,
            Level.INFO,
        )


def _file(answer: Address, service: Service) -> str:
    path = Path(answer.file)
    directory = service.directory
    return str(path.relative_to(directory) if path.is_relative_to(directory) else path)


def _envs(answers: Mapping[str, Answers]) -> dict[Situation, Answer]:
    return {situation: answers[situation].env for situation in Situation}


def _takes_parts(service: Service) -> bool:
    """Whether the tasks pass the password to a service in a separate variable."""
    return fills_in(service.environment, "password")


def _reads_no_variable(answers: Mapping[str, Answers]) -> bool:
    """Whether an `env.py` connects to the same database, or to none, in every environment."""
    others = [answers[name].env for name in set(Situation) - {Situation.HANDED_OVER}]
    if all(isinstance(other, Failure) and NO_URL_YET in other.error for other in others):
        return True
    return len({other.place if isinstance(other, Address) else None for other in others}) == 1 and (
        isinstance(others[0], Address)
    )


def _knows_environments(service: Service, found: Mapping[Situation, Answer]) -> bool:
    """Whether the answers of a service depend on the variables of the tasks.

    False if the tasks pass the parts of the URL to it, because its answers then always differ.
    """
    answer = found[Situation.DEVELOPMENT]
    if _takes_parts(service):
        return False
    if isinstance(answer, Address) and (answer.user == USER or answer.password):
        return True
    # In all of these cases the variables of the service's `.env` are hidden.
    situations = [
        Situation.SPECIAL_PASSWORD,
        Situation.TESTING,
        Situation.STAGING,
        Situation.PRODUCTION,
        Situation.UNKNOWN_ENVIRONMENT,
    ]
    if fills_in(service.environment, "database"):
        # There the tasks pass another name to it.
        situations.remove(Situation.TESTING)
    first, *others = (found[situation] for situation in situations)
    return not all(first == other or _is_same_answer(first, other) for other in others)


def _uses_own_database(
    service: Service, cases: Mapping[str, Case], answers: Mapping[str, Answers]
) -> bool:
    """Whether an `env.py` connects to the service's own database in development by default."""
    answer, expected = answers[Situation.DEVELOPMENT].env, cases[Situation.DEVELOPMENT].expected
    if not isinstance(answer, Address) or expected is None:
        return False
    if answer.host == service.compose_service:
        return answer.database == expected.database
    return answer.is_local and answer.place[1:] == (expected.port, expected.database)


def _needs_its_variable(found: Mapping[Situation, Answer]) -> bool:
    """Whether a service has no URL without the override variable.

    Development does not count: a `.env` of the service may set the variable there.
    """
    others = set(Situation) - {Situation.HANDED_OVER, Situation.OVERRIDE, Situation.DEVELOPMENT}
    return all(_has_no_url(found[situation]) for situation in others)


def _has_no_url(answer: Answer) -> bool:
    is_hidden = isinstance(answer, Address) and answer.host == HIDDEN_HOST
    return is_hidden or isinstance(answer, Failure)


def _is_same(answer: Address, expected: DatabaseUrl) -> bool:
    where = (answer.user, answer.host, answer.port, answer.database)
    return where == (expected.user, expected.host, expected.port, expected.database)


def _agrees(answer: Answer, expected: DatabaseUrl) -> bool:
    return isinstance(answer, Address) and _is_same(answer, expected) and answer.password


def _is_same_answer(one: Answer, other: Answer) -> bool:
    """Whether two answers name the same database, or both are failures."""
    if isinstance(one, Address) and isinstance(other, Address):
        return one.place == other.place
    return isinstance(one, Failure) and isinstance(other, Failure)


def _behaviour(answer: Answer) -> str:
    if isinstance(answer, Failure):
        return f"fails: {_shortened(answer)}"
    return f"resolves to {answer}" if answer else "returns no URL"


def _shortened(failure: Failure) -> str:
    return textwrap.shorten(failure.error, SHOWN_ERROR, placeholder=" ...")
