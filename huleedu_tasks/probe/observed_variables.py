"""Observes which variables each service's `env.py` takes its URL from.

Every variable that may hold the URL, or a part of it, is set to a unique made-up value. The address
to which `env.py` would connect then shows which variables it uses. `child/address_probe.py`
prevents connections.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from huleedu_tasks.config.dotenv import ENV_FILE, assignments, read_env_file
from huleedu_tasks.config.registry import Registry, Service
from huleedu_tasks.config.settings import Settings
from huleedu_tasks.config.variable_names import OTHERS, URL_NAME
from huleedu_tasks.errors import HuleEduError
from huleedu_tasks.migrations.modules import (
    MISSING_MODULE,
    PYTHONPATH,
    import_directory,
    python_path,
)
from huleedu_tasks.probe import addresses
from huleedu_tasks.probe.addresses import Address, Answer, Failure
from huleedu_tasks.probe.scenarios import Case, hiding, without_databases
from huleedu_tasks.repository import text_of

EXAMPLES = (".env.example", "env.example", ".env.sample", ".env.template")
# The schemes to try: env.py may be synchronous or asynchronous.
SCHEMES = ("postgresql+asyncpg", "postgresql+psycopg", "postgresql+psycopg2", "postgresql")
USER, PASSWORD = "asked_user", "asked-password"
INI = "ini.invalid"
FIRST_PORT = 20_000
# The maximum number of missing modules that are searched for, one after another.
MOST_MODULES = 5
_OF_DATABASE = re.compile(r"DB|DATABASE|POSTGRES|PG|SQL", re.IGNORECASE)
_PARTS = {
    "host": re.compile(r"(HOST|HOSTNAME|SERVER)$", re.IGNORECASE),
    "port": re.compile(r"PORT$", re.IGNORECASE),
    "user": re.compile(r"(USER|USERNAME)$", re.IGNORECASE),
    "password": re.compile(r"(PASSWORD|PASS|PASSWD|PWD)$", re.IGNORECASE),
    "database": re.compile(r"(NAME|DB|DATABASE)$", re.IGNORECASE),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What running one service's `env.py` has shown.

    Attributes:
        variable: The variable whose URL it used; empty string if it used none.
        parts: The variables that it took parts of the URL from, each with its placeholder.
        scheme: The scheme of the URL that it could use; empty string if it did not use one.
        python_path: The PYTHONPATH that its interpreter needs; empty string if none.
        follows_ini: Whether it used the URL of its Alembic configuration.
        failure: Why nothing was observed, in one line; empty string if something was.
    """

    variable: str = ""
    parts: Mapping[str, str] = field(default_factory=dict)
    scheme: str = ""
    python_path: str = ""
    follows_ini: bool = False
    failure: str = ""


async def observe(
    service: Service, names: Iterable[str], variables: Mapping[str, str], loaded: Mapping[str, str]
) -> Observed:
    """Run a service's `env.py` and observe which variables it uses.

    Args:
        service: The service as far as it is known.
        names: The variables that its files read.
        variables: The environment of this process.
        loaded: The variables that the service may load from a `.env`.
    """
    candidates = _Candidates(sorted({*names}))
    registry = Registry(path=service.directory / "unused", services=(service,))
    environment = {
        **_example(service),
        **without_databases({**loaded, **variables}, registry),
        **hiding(loaded, registry),
        **dict.fromkeys(candidates.names, ""),
    }
    paths: list[str] = []
    while True:
        asked = replace(service, environment={**service.environment, **_path(paths)})
        answer, scheme = await _ask(asked, candidates, {**environment, **_path(paths)}, loaded)
        directory = _directory_of_missing_module(answer, service)
        found = python_path(asked, directory) if directory else ""
        if not found or found in paths or len(paths) == MOST_MODULES:
            break
        paths.append(found)
    observed = candidates.judge(answer)
    led_by_url = observed.variable or observed.follows_ini
    return replace(
        observed, scheme=scheme if led_by_url else "", python_path=paths[-1] if paths else ""
    )


async def _ask(
    service: Service,
    candidates: "_Candidates",
    environment: Mapping[str, str],
    loaded: Mapping[str, str],
) -> tuple[Answer, str]:
    """Return where `env.py` would connect, and the scheme of the URLs that were set."""
    schemes = list(dict.fromkeys((service.url_scheme, *SCHEMES)))
    found: list[Answer] = []
    for scheme in schemes:
        case = candidates.case(scheme)
        try:
            answers = await addresses.ask(service, [case], environment, loaded)
        except HuleEduError as error:
            return Failure(error=error.message), scheme
        answer = answers[case.name].env
        if not (_lacks_driver(answer) or (isinstance(answer, Address) and not answer.fits)):
            return answer, scheme
        found.append(answer)
    return found[0], schemes[0]


def _lacks_driver(answer: Answer) -> bool:
    """Whether the interpreter lacks the driver of the URL."""
    missing = MISSING_MODULE.search(answer.error) if isinstance(answer, Failure) else None
    return missing is not None and any(scheme.endswith(f"+{missing[1]}") for scheme in SCHEMES)


@dataclass(frozen=True, slots=True)
class _Candidates:
    """Variables that may select the database, each with a unique made-up value."""

    every: Sequence[str]

    @property
    def names(self) -> list[str]:
        return [*self._urls, *(name for name, _ in self._parts)]

    @property
    def _urls(self) -> list[str]:
        return [
            name for name in self.every if URL_NAME.search(name) and not _is_of_other_system(name)
        ]

    @property
    def _parts(self) -> Iterator[tuple[str, str]]:
        for name in self.every:
            if name in self._urls or _is_of_other_system(name) or not _OF_DATABASE.search(name):
                continue
            if part := next((p for p, pattern in _PARTS.items() if pattern.search(name)), ""):
                yield name, part

    def case(self, scheme: str) -> Case:
        """Return the case with the made-up values for a scheme."""
        urls = {
            name: f"{scheme}://{USER}:{PASSWORD}@url{number}.invalid/url{number}"
            for number, name in enumerate(self._urls)
        }
        parts = {name: _made_up(part, number) for number, (name, part) in enumerate(self._parts)}
        return Case(
            name=scheme,
            variables={**urls, **parts},
            url=f"{scheme}://{USER}:{PASSWORD}@{INI}/ini",
            password=PASSWORD,
        )

    def judge(self, answer: Answer) -> Observed:
        """Return which variables an answer shows to be used."""
        if isinstance(answer, Failure):
            return Observed(failure=answer.error)
        if answer is None:
            return Observed(failure="it did not connect")
        for number, name in enumerate(self._urls):
            if answer.host == f"url{number}.invalid":
                return Observed(variable=name)
        if answer.host == INI:
            return Observed(follows_ini=True)
        seen = {
            "host": answer.host,
            "port": str(answer.port or ""),
            "user": answer.user,
            "database": answer.database,
            "password": PASSWORD if answer.password else "",
        }
        parts = {
            name: f"{{{part}}}"
            for number, (name, part) in enumerate(self._parts)
            if _made_up(part, number) == seen[part]
        }
        if not parts:
            return Observed(failure=f"it would connect to {answer}, regardless of its variables")
        order = [f"{{{part}}}" for part in _PARTS]
        return Observed(parts=dict(sorted(parts.items(), key=lambda item: order.index(item[1]))))


def _made_up(part: str, number: int) -> str:
    values = {
        "host": f"part{number}.invalid",
        "port": str(FIRST_PORT + number),
        "user": f"user{number}",
        "database": f"database{number}",
    }
    # The child process reports only whether the password is the expected one.
    return values.get(part, PASSWORD)


def _is_of_other_system(name: str) -> bool:
    return bool(OTHERS.search(name.upper()))


def _path(paths: Sequence[str]) -> dict[str, str]:
    return {PYTHONPATH: paths[-1]} if paths else {}


def _directory_of_missing_module(answer: Answer, service: Service) -> Path | None:
    missing = MISSING_MODULE.search(answer.error) if isinstance(answer, Failure) else None
    return import_directory(missing[1], service.directory) if missing else None


def loaded_by(service: Service, settings: Settings) -> dict[str, str]:
    """Return the variables of the `.env` files in a service's directory and its parents."""
    directories = [service.directory, *service.directory.parents]
    last = next((n for n, directory in enumerate(directories) if (directory / ".git").exists()), 0)
    loaded = dict(settings.file)
    for directory in directories[: last + 1]:
        loaded |= read_env_file(directory / ENV_FILE, settings.process).values
    return loaded


def _example(service: Service) -> dict[str, str]:
    """Return the values in an example of the service's `.env`, which its code may require."""
    files = (service.directory / name for name in EXAMPLES)
    return {
        assignment.name: assignment.value
        for file in files
        for assignment in assignments(text_of(file))
    }
