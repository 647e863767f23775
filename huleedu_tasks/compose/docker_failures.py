"""What Docker and Compose complain of, told apart and said in words, with what to do next.

They answer with an exit code and a text; the texts here were read off the programs themselves.
"""

import re
import shutil
from collections.abc import Callable, Sequence

from huleedu_tasks.compose.engine import USE_EMBEDDED, Engine
from huleedu_tasks.errors import ConfigurationError, HuleEduError, Refused, ServerError
from huleedu_tasks.ports import holder

# Each pattern with what becomes of it, given what it found and the whole text.
Complaint = tuple[str, Callable[[re.Match[str], str], HuleEduError]]

INSTALL_COMPOSE = "Install Compose v2, the plugin behind `docker compose`. " + USE_EMBEDDED


def explain_config(output: str) -> HuleEduError:
    """Make an error of what Compose has against its files."""
    return _explain(output, [*_GENERAL, *_OF_FILES]) or ConfigurationError(
        f"Docker Compose cannot use the compose files: {_last_line(output)}",
        code="compose-file-invalid",
        hint="`docker compose config` shows what Compose makes of them.",
    )


def explain_command(output: str) -> HuleEduError:
    """Make an error of what Compose, or the engine behind it, complained of at work."""
    return _explain(output, _GENERAL) or ServerError(
        f"Docker Compose failed: {_last_line(output)}", code="compose-failed", output=output
    )


def explain_up(
    output: str, engine: Engine, *, image: str, port: int, place: str
) -> HuleEduError | None:
    """Make an error of why one container could not be started; None if nothing is known of it.

    Args:
        image: The container's image.
        port: The port it publishes.
        place: Where another port can be stated, in words.
    """

    def port_taken(found: re.Match[str], output: str) -> HuleEduError:
        other = engine.publisher(port)
        stop = f"Stop it: `docker stop {other.name}`" if other else "Stop it"
        return ServerError(
            f"Port {port} is taken by {_holder(engine, port)}.",
            code="port-in-use",
            hint=f"{stop}; or {place}.",
        )

    def name_taken(found: re.Match[str], output: str) -> HuleEduError:
        other = engine.named(found[1])
        whose = f" of the checkout {other.directory}" if other and other.directory else ""
        return Refused(
            f"The container name {found[1]} is taken by a container{whose}.",
            code="container-name-taken",
            hint="The compose file fixes that name with 'container_name', so only one checkout "
            "can run at a time: `docker compose down` in the other one.",
        )

    def no_image(found: re.Match[str], output: str) -> HuleEduError:
        return ServerError(
            f"The image {image} is not on this machine and cannot be pulled: {_last_line(output)}",
            code="image-unavailable",
            hint="Check its name in the compose file, the network, and `docker login`.",
        )

    return _explain(
        output,
        [
            (r"port is already allocated|address already in use", port_taken),
            (r'The container name "/([^"]+)" is already in use', name_taken),
            (r'Get "https?://\S+/v2/|pull access denied|manifest unknown|no such image', no_image),
            (r"manifest for \S+ not found|failed to resolve reference", no_image),
        ],
    )


def _explain(output: str, complaints: Sequence[Complaint]) -> HuleEduError | None:
    for pattern, make in complaints:
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
        "The Docker Engine's socket may not be used by this account.",
        code="docker-permission-denied",
        hint="Join its group (usually `sudo usermod -aG docker $USER`, then log in again). "
        + USE_EMBEDDED,
    )


def _no_engine(found: re.Match[str], output: str) -> HuleEduError:
    return ServerError(
        f"The Docker Engine does not answer: {_last_line(output)}",
        code="docker-unreachable",
        hint=f"Start Docker. {USE_EMBEDDED}",
    )


def _missing_variable(found: re.Match[str], output: str) -> HuleEduError:
    return ConfigurationError(
        f"The compose files need the variable {found[1]}: {_last_line(output)}",
        code="compose-variable-unset",
        hint="Run `invoke env.init`, or set it in .env or the environment.",
    )


def _missing_file(found: re.Match[str], output: str) -> HuleEduError:
    return ConfigurationError(
        f"The compose file {found[1]} does not exist.",
        code="compose-file-missing",
        hint="Correct 'compose_files' in the registry, or COMPOSE_FILE.",
    )


_GENERAL: Sequence[Complaint] = (
    # Without the plugin, `docker` takes Compose's flags for its own.
    (
        r"unknown command: docker compose|'compose' is not a docker command"
        r"|unknown flag: --ansi",
        _no_compose,
    ),
    (r"permission denied while trying to connect", _no_permission),
    (r"cannot connect to the docker daemon|error during connect", _no_engine),
)
_OF_FILES: Sequence[Complaint] = (
    (r"required variable (\w+) is missing a value", _missing_variable),
    (r"(?:open|stat) (\S+): no such file", _missing_file),
)


def _last_line(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1] if lines else "it printed nothing"
