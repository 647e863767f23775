"""Translates the error output of Docker and Compose into errors with a code and a hint.

The exit codes do not tell the causes apart; the patterns here match the programs' messages.
"""

import re
import shutil
from collections.abc import Callable, Sequence

from huleedu_tasks.compose.engine import USE_EMBEDDED, Engine
from huleedu_tasks.errors import ConfigurationError, HuleEduError, Refused, ServerError
from huleedu_tasks.ports import holder

# A pattern, and a function that makes the error from its match and the whole output.
Translation = tuple[str, Callable[[re.Match[str], str], HuleEduError]]

INSTALL_COMPOSE = "Install Compose v2, the plugin behind `docker compose`. " + USE_EMBEDDED


def explain_config(output: str) -> HuleEduError:
    """Return the error for the output of a failed `docker compose config`."""
    return _explain(output, [*_GENERAL, *_OF_FILES]) or ConfigurationError(
        f"Docker Compose rejected the compose files: {_last_line(output)}",
        code="compose-file-invalid",
        hint="Run `docker compose config`, which shows the error and the file.",
    )


def explain_command(output: str) -> HuleEduError:
    """Return the error for the output of another failed command of Compose."""
    return _explain(output, _GENERAL) or ServerError(
        f"Docker Compose failed: {_last_line(output)}",
        code="compose-failed",
        hint="Correct the cause that its output names.",
        output=output,
    )


def explain_up(
    output: str, engine: Engine, *, image: str, port: int, place: str
) -> HuleEduError | None:
    """Return the error for a container that could not be started; None if no pattern matches.

    Args:
        output: The output of the failed `docker compose up`.
        engine: The engine, to name the container that has the port or the name.
        image: The container's image.
        port: The port that it publishes.
        place: Where the port can be changed, as an imperative.
    """

    def port_taken_error(found: re.Match[str], output: str) -> HuleEduError:
        other = engine.publisher(port)
        stop = f"Stop it: `docker stop {other.name}`" if other else "Stop it"
        return ServerError(
            f"Port {port} is taken by {_holder(engine, port)}.",
            code="port-in-use",
            hint=f"{stop}; or {place}.",
        )

    def name_taken_error(found: re.Match[str], output: str) -> HuleEduError:
        other = engine.find_by_name(found[1])
        whose = f" of the checkout {other.directory}" if other and other.directory else ""
        return Refused(
            f"The container name {found[1]} is taken by a container{whose}.",
            code="container-name-taken",
            hint="Run `docker compose down` in the other checkout: the compose file states "
            "'container_name', so only one checkout can run at a time.",
        )

    def no_image(found: re.Match[str], output: str) -> HuleEduError:
        return ServerError(
            f"The image {image} is not on this machine and could not be pulled: "
            f"{_last_line(output)}",
            code="image-unavailable",
            hint="Check its name in the compose file, the network, and `docker login`.",
        )

    return _explain(
        output,
        [
            (r"port is already allocated|address already in use", port_taken_error),
            (r'The container name "/([^"]+)" is already in use', name_taken_error),
            (r'Get "https?://\S+/v2/|pull access denied|manifest unknown|no such image', no_image),
            (r"manifest for \S+ not found|failed to resolve reference", no_image),
        ],
    )


def _explain(output: str, translations: Sequence[Translation]) -> HuleEduError | None:
    for pattern, make in translations:
        if found := re.search(pattern, output, re.IGNORECASE):
            return make(found, output)
    return None


def _holder(engine: Engine, port: int) -> str:
    container = engine.publisher(port)
    if container is None:
        return holder(port)
    whose = f" of {container.directory}" if container.directory else ""
    return f"the container {container.name}{whose}"


def _no_compose(found: re.Match[str], output: str) -> HuleEduError:
    if shutil.which("docker-compose"):
        return ServerError(
            "Only Compose v1 (`docker-compose`) is installed, which is not supported.",
            code="compose-missing",
            hint=INSTALL_COMPOSE,
        )
    return ServerError(
        "Docker is installed without Compose.", code="compose-missing", hint=INSTALL_COMPOSE
    )


def _no_permission(found: re.Match[str], output: str) -> HuleEduError:
    return ServerError(
        "This account may not use the Docker Engine's socket.",
        code="docker-permission-denied",
        hint="Join the group that owns it: `sudo usermod -aG docker $USER`, then log in again. "
        + USE_EMBEDDED,
    )


def _no_engine(found: re.Match[str], output: str) -> HuleEduError:
    return ServerError(
        f"The Docker Engine did not answer: {_last_line(output)}",
        code="docker-unreachable",
        hint=f"Start Docker. {USE_EMBEDDED}",
    )


def _missing_variable(found: re.Match[str], output: str) -> HuleEduError:
    return ConfigurationError(
        f"The compose files require the variable {found[1]}: {_last_line(output)}",
        code="compose-variable-unset",
        hint="Run `invoke env.init`, or set it in .env or the environment.",
    )


def _missing_env_file(found: re.Match[str], output: str) -> HuleEduError:
    return ConfigurationError(
        f"The compose files name the 'env_file' {found[1]}, which does not exist.",
        code="compose-env-file-missing",
        hint="Run `invoke env.init`, which writes .env. In a linked worktree, link that of the "
        "main worktree with `ln -s`, or state the file with `required: false`.",
    )


def _missing_file(found: re.Match[str], output: str) -> HuleEduError:
    return ConfigurationError(
        f"The compose file {found[1]} does not exist.",
        code="compose-file-missing",
        hint="Correct 'compose_files' in the registry, or COMPOSE_FILE.",
    )


_GENERAL: Sequence[Translation] = (
    # Without the plugin, `docker` parses the flags of Compose as its own.
    (
        r"unknown command: docker compose|'compose' is not a docker command"
        r"|unknown flag: --ansi",
        _no_compose,
    ),
    (r"permission denied while trying to connect", _no_permission),
    (r"cannot connect to the docker daemon|error during connect", _no_engine),
)
_OF_FILES: Sequence[Translation] = (
    (r"required variable (\w+) is missing a value", _missing_variable),
    (r"env file (.+) not found", _missing_env_file),
    (r"(?:open|stat) (\S+): no such file", _missing_file),
)


def _last_line(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1] if lines else "no output"
