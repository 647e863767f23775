"""Runs a service's `config.py` and `env.py` in a child process and reads the answers."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

from huleedu_tasks import process
from huleedu_tasks.config.hosts import LOOPBACK, THIS_MACHINE
from huleedu_tasks.config.registry import Service
from huleedu_tasks.config.secret import Redactor, secrets_in
from huleedu_tasks.config.urls import POSTGRES_PORT
from huleedu_tasks.errors import MigrationError
from huleedu_tasks.migrations.alembic_failures import cause_in
from huleedu_tasks.migrations.child_process import WORKER, run_script
from huleedu_tasks.migrations.results import Used, read_used
from huleedu_tasks.probe.scenarios import Case
from huleedu_tasks.repository import repository_files, text_of

CHILD = WORKER.with_name("address_probe.py")
INSTRUCTIONS = "HULEEDU_ADDRESSES"
# Seconds for all cases of a service together; every case imports the service's code.
TIMEOUT = 120.0
CONFIG_NAMES = ("config.py", "settings.py")
DEPTH = 5
# Directories whose code is not part of the running service.
_BESIDE = frozenset({"tests", "test", "scripts", "tools", "examples", "docs", "versions"})
_NAMES_DATABASE = re.compile(r"postgres|(DATABASE|DB|PG|SQLALCHEMY)_?(UR[IL]|DSN|HOST)", re.I)


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where `env.py` or `config.py` would connect.

    Attributes:
        port: `None` if the URL states no port.
        password: Whether the password is the expected one.
        fits: False if the driver is asynchronous and the code around it is not.
        file: The file with the URL; empty string for `env.py`.
    """

    user: str
    host: str
    port: int | None
    database: str
    password: bool
    scheme: str
    fits: bool = True
    file: str = ""

    def __str__(self) -> str:
        return f"{self.host}:{self.port or POSTGRES_PORT}/{self.database}"

    @property
    def is_local(self) -> bool:
        """Whether the host is this machine."""
        return self.host in THIS_MACHINE

    @property
    def place(self) -> tuple[str, int, str]:
        """Host, port and database, normalised for comparison."""
        host = LOOPBACK[0] if self.is_local else self.host
        return host, self.port or POSTGRES_PORT, self.database


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why `env.py` or `config.py` returned no address.

    Attributes:
        error: The exception, in one line.
        output: Its traceback, with the frames of the service's own code.
    """

    error: str
    output: str = ""


Answer = Address | Failure | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """The answers of a service in one case.

    Attributes:
        env: Where its `env.py` connects.
        config: The URL in its `config.py`; `None` if no such file with a URL was found.
    """

    env: Answer
    config: Answer

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Answers":
        """Return the answers of a JSON object."""
        return cls(env=_stated_answer(document["env"]), config=_stated_answer(document["config"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The answers of a service in several cases.

    Attributes:
        answers: The answers, by the name of the case.
        used: The inputs of all cases; `None` if a case did not report them.
    """

    answers: dict[str, Answers]
    used: Used | None


async def ask(
    service: Service,
    cases: Sequence[Case],
    environment: Mapping[str, str],
    loaded: Mapping[str, str],
) -> dict[str, Answers]:
    """Run `env.py` and `config.py` of a service in each case.

    Args:
        environment: The variables of the service, without those that select a database.
        loaded: The variables that the service may load from a `.env`; their secrets are masked.

    Returns:
        The answers, by the name of the case.

    Raises:
        MigrationError: If the interpreter fails or exceeds the time limit.
    """
    questions = questions_of(service, cases, environment)
    return (await ask_questions(service, questions, environment, loaded)).answers


def questions_of(
    service: Service, cases: Sequence[Case], environment: Mapping[str, str]
) -> dict[str, Any]:
    """Return what a service's code is asked, as `address_probe.py` reads it.

    The arguments are those of `ask`.
    """
    return {
        "configs": [str(path) for path in config_files(service.directory)],
        # Read only if `env.py` has imported them; they are not imported for it itself.
        "loaded_configs": [str(path) for path in _settings_files(service.directory)],
        "cases": [
            {
                "name": case.name,
                # A variable is unset instead of empty, unless the environment has it.
                "variables": {
                    **case.hidden,
                    **{n: v for n, v in case.variables.items() if v or n in environment},
                },
                "password": case.password,
                "url": case.url,
            }
            for case in cases
        ],
    }


async def ask_questions(
    service: Service,
    questions: Mapping[str, Any],
    environment: Mapping[str, str],
    loaded: Mapping[str, str],
    *,
    records_inputs: bool = False,
) -> Asked:
    """Ask a service's code; the other arguments and the exceptions are those of `ask`.

    Args:
        questions: The questions, from `questions_of`.
        records_inputs: Whether the inputs are recorded, which takes longer.
    """
    cases = questions["cases"]
    with process.scratch_directory() as scratch:
        file = scratch / "answers"
        file.touch()
        inputs = [scratch / f"inputs-{number}" for number in range(len(cases))]
        instructions = {
            **questions,
            "answers": str(file),
            "inputs": [str(path) for path in inputs] if records_inputs else [],
        }
        done = await run_script(
            service,
            CHILD,
            service.alembic_arguments,
            environment={**environment, INSTRUCTIONS: json.dumps(instructions)},
            timeout=TIMEOUT,
        )
        lines = file.read_text(encoding="utf-8").splitlines()
        used = _sum_of([read_used(path, None) for path in inputs])
    found = {answer["case"]: answer for answer in map(json.loads, lines)}
    mask = _mask(service, {**loaded, **environment})
    if len(found) < len(cases):
        cause = f"took longer than {TIMEOUT:g} s" if done.timed_out else "exited"
        raise MigrationError(
            f"Its interpreter {cause} while it ran env.py: {mask(cause_in(done.output))}",
            code="env-py-failed",
            hint="Correct 'python' or 'alembic' of this service in the registry, or install the "
            "missing library.",
            output=mask(done.output),
        )
    answers = {
        name: Answers(
            env=_answer(answer["env"], service, loaded),
            config=_answer(answer["config"], service, loaded),
        )
        for name, answer in found.items()
    }
    return Asked(answers=answers, used=used)


def _sum_of(reported: Sequence[Used | None]) -> Used | None:
    known = [used for used in reported if used is not None]
    own = [str(path) for path in sorted(CHILD.parent.glob("*.py"))]
    return reduce(add, known, Used(files=own)) if len(known) == len(reported) else None


def _stated_answer(stated: Mapping[str, Any] | None) -> Answer:
    if stated is None:
        return None
    return Failure(**stated) if "error" in stated else Address(**stated)


def config_files(directory: Path) -> list[Path]:
    """Return the settings files that may contain the URL of a database, the most likely first.

    Args:
        directory: The directory of the service.
    """
    telling = [path for path in _settings_files(directory) if _NAMES_DATABASE.search(text_of(path))]
    return sorted(telling, key=lambda path: (len(path.parts), CONFIG_NAMES.index(path.name)))


def _settings_files(directory: Path) -> list[Path]:
    return [
        path
        for path in repository_files(directory)
        if path.name in CONFIG_NAMES and _is_settings(path.relative_to(directory).parts)
    ]


def _is_settings(parts: tuple[str, ...]) -> bool:
    return len(parts) <= DEPTH and _BESIDE.isdisjoint(parts[:-1])


def _mask(service: Service, variables: Mapping[str, str]) -> Redactor:
    return Redactor(secrets_in(variables), [*service.names, str(Path.cwd())])


def _answer(
    answer: Mapping[str, Any] | None, service: Service, loaded: Mapping[str, str]
) -> Answer:
    if answer is None:
        return None
    if "error" not in answer:
        return Address(**answer)
    stated = {name: value for name, value in answer.get("variables", {}).items() if value}
    mask = _mask(service, {**loaded, **stated})
    return Failure(error=mask(answer["error"]), output=mask(answer["output"]))
