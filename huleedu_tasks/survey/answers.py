"""What a service's own `config.py` and `env.py` answer, asked in a child process."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from huleedu_tasks import process
from huleedu_tasks.config.registry import Service
from huleedu_tasks.errors import MigrationError
from huleedu_tasks.migrations import runner
from huleedu_tasks.survey.files import repository_files
from huleedu_tasks.survey.matrix import Case

PROBE = Path(runner.__file__).with_name("probe.py")
INSTRUCTIONS = "HULEEDU_PROBE"
# Seconds for all cases of a service together; each imports what the service imports.
TIMEOUT = 120.0
CONFIG_NAMES = ("config.py", "settings.py")
DEPTH = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where somebody would connect.

    Attributes:
        port: None if none is stated.
        password: Whether the password is the one it had to come to.
        fits: Whether the code around it can use the driver at all.
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
        return f"{self.host}:{self.port or 5432}/{self.database}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why there is no address.

    Attributes:
        error: The exception, in one line.
        output: Its traceback, the service's own frames.
    """

    error: str
    output: str = ""


Answer = Address | Failure | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What a service says in one case.

    Attributes:
        env: Where its `env.py` connects.
        config: The URL of its `config.py`; None if there is no file with a URL.
    """

    env: Answer
    config: Answer


async def ask(
    service: Service, cases: Sequence[Case], environment: Mapping[str, str]
) -> dict[str, Answers]:
    """Ask a service in each case, by the cases' names.

    Args:
        environment: The service's, with nothing in it that says where a database is.

    Raises:
        MigrationError: If it cannot be asked at all.
    """
    with process.scratch_folder() as scratch:
        file = scratch / "answers"
        file.touch()
        instructions = {
            "answers": str(file),
            "configs": [str(path) for path in config_files(service.directory)],
            "cases": [
                {"name": case.name, "variables": dict(case.variables), "password": case.password}
                for case in cases
            ],
        }
        done = await runner.run_script(
            service,
            PROBE,
            ["-c", str(service.alembic_config)],
            environment={**environment, INSTRUCTIONS: json.dumps(instructions)},
            timeout=TIMEOUT,
        )
        lines = file.read_text(encoding="utf-8").splitlines()
    found = {each["case"]: each for each in map(json.loads, lines)}
    if len(found) < len(cases):
        cause = f"took longer than {TIMEOUT:g} s" if done.timed_out else "ended before its time"
        raise MigrationError(
            f"Its interpreter {cause} when its env.py was asked: {runner.cause_in(done.output)}",
            hint="Correct 'python' or 'alembic' of this service in the registry, if it is the "
            "wrong one or lacks a library.",
            output=done.output,
        )
    return {
        name: Answers(env=_answer(each["env"]), config=_answer(each["config"]))
        for name, each in found.items()
    }


def config_files(folder: Path) -> list[Path]:
    """Return the files that may say where a service's database is, the likeliest first.

    Args:
        folder: The service's.
    """
    found = [
        path
        for path in repository_files(folder)
        if path.name in CONFIG_NAMES and len(path.relative_to(folder).parts) <= DEPTH
    ]
    return sorted(found, key=lambda path: (len(path.parts), CONFIG_NAMES.index(path.name)))


def _answer(told: Mapping[str, object] | None) -> Answer:
    if told is None:
        return None
    return Failure(**told) if "error" in told else Address(**told)  # type: ignore[arg-type]
