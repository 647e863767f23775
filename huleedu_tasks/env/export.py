"""What `env.export` prints: shell commands that make the services and psql use the databases."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from huleedu_tasks.config.placeholders import url_variables
from huleedu_tasks.config.registry import Service
from huleedu_tasks.config.urls import ResolvedUrl
from huleedu_tasks.postgres.psql import connection_variables


def exported(
    services: Sequence[Service], urls: Mapping[str, ResolvedUrl], environment: str
) -> tuple[dict[str, str], list[str]]:
    """Return the variables of services, and the names of those that would need several values.

    For one service, libpq's variables are among them.

    Args:
        services: The services.
        urls: The URL of each service, by its name.
        environment: The name of the environment.
    """
    values: dict[str, set[str]] = {}
    for service in services:
        variables = url_variables(service, urls[service.name].url, environment)
        # An override is passed on exactly as it is stated.
        variables[service.url_variable] = urls[service.name].reveal()
        for name, value in variables.items():
            values.setdefault(name, set()).add(value)
    single = {name: found.pop() for name, found in values.items() if len(found) == 1}
    if len(services) == 1:
        single |= connection_variables(urls[services[0].name].url)
    return single, sorted(values.keys() - single.keys())


def shell_text(variables: Mapping[str, str]) -> str:
    """Return the commands that export variables in a POSIX shell."""
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in variables.items())


def direnv_text(command: str, inputs: Sequence[Path], names: Sequence[str]) -> str:
    """Return the content of an `.envrc`, which runs `env.export` and contains no password.

    Args:
        command: The command that runs `env.export`.
        inputs: The files after whose change direnv runs it again; they need not exist.
        names: The names of the selected services; empty for all.
    """
    selected = "".join(f" --service {shlex.quote(name)}" for name in names)
    watched = shlex.join(map(str, inputs))
    # `eval "$(...)"` would hide a failure of the command. direnv loads the file in a shell of its
    # own, and reports its exit code.
    return f'watch_file {watched}\nvariables="$({command}{selected})" || exit 1\neval "$variables"'


def own_command(argv: Sequence[str], task: str) -> str:
    """Return the command that runs a task again, with absolute paths.

    Args:
        argv: The command line of this process.
        task: The task, as it was typed.
    """
    program = Path(argv[0])
    if program.name == "__main__.py":
        words = [sys.executable, "-m", program.parent.name]
    else:
        words = [str(program.absolute())]
    return shlex.join([*words, task])
