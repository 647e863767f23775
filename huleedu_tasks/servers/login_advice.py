"""The cause of a login that a container's server refused, and what to do.

The PostgreSQL image reads `POSTGRES_USER`, `POSTGRES_PASSWORD` and `POSTGRES_PASSWORD_FILE` only
when it initialises an empty data directory. A refused login therefore has one of two causes: `.env`
and the container are configured differently, or they agree and the volume was initialised with
other credentials. Only in the second case does removing the volume help.
"""

from collections.abc import Callable

from huleedu_tasks.compose.container_state import ContainerState
from huleedu_tasks.compose.project_containers import empty_directory
from huleedu_tasks.config.urls import DatabaseUrl
from huleedu_tasks.postgres.connections import LoginRefused

USER = "POSTGRES_USER"
PASSWORD = "POSTGRES_PASSWORD"  # the name of a variable
PASSWORD_FILE = "POSTGRES_PASSWORD_FILE"  # the name of a variable
OUR_USER = "HULEEDU_DB_USER"
OUR_PASSWORD = "HULEEDU_DB_PASSWORD"  # the name of a variable


def explain_login(
    error: LoginRefused,
    container: ContainerState,
    url: DatabaseUrl,
    *,
    read_file: Callable[[str], str | None],
    sharing: tuple[str, ...],
) -> LoginRefused:
    """Return the error with its cause and a hint.

    Args:
        container: The container whose server refused the login.
        url: The login that was refused.
        read_file: Returns the content of a file in the container; None if it cannot be read.
        sharing: The names of all services on this server.
    """
    variables = container.variables
    user = variables.get(USER) or "postgres"
    message = error.message.rstrip(".")
    if user != url.user:
        return LoginRefused(
            f"{message}. The compose service {container.service!r} creates the user {user!r}, and "
            f"{OUR_USER} is {url.user!r}.",
            code="credentials-differ",
            hint=f"Set {OUR_USER}={user} in .env, and {OUR_PASSWORD} to the "
            f"{_password_variable(container)} of that compose service.",
        )
    if (file := variables.get(PASSWORD_FILE)) and not variables.get(PASSWORD):
        content = read_file(file)
        if content is None or content.rstrip("\n") != url.password.reveal():
            return LoginRefused(
                f"{message}. The compose service {container.service!r} takes its password from "
                f"{PASSWORD_FILE} ({file}), and {OUR_PASSWORD} differs from it.",
                code="credentials-differ",
                hint=f"Set {OUR_PASSWORD} in .env to the content of that secret's file.",
            )
    elif variables.get(PASSWORD, "") != url.password.reveal():
        return LoginRefused(
            f"{message}. The {PASSWORD} of the compose service {container.service!r} differs from "
            f"{OUR_PASSWORD}.",
            code="credentials-differ",
            hint=f"Set {OUR_PASSWORD} in .env to the {PASSWORD} of that compose service.",
        )
    if directory := container.host_directory:
        return LoginRefused(
            f"{message}. The data in the directory {directory} was initialised with another user "
            f"or password: the image uses {USER} and {PASSWORD} only for an empty directory.",
            code="volume-credentials",
            hint="Set the previous user and password in .env and the compose file. "
            + empty_directory(container, directory),
        )
    selected = "".join(f" --service {name}" for name in sharing)
    return LoginRefused(
        f"{message}. The volume of {container.name} was initialised with another user or password: "
        f"the image uses {USER} and {PASSWORD} only for an empty volume.",
        code="volume-credentials",
        hint="Set the previous user and password in .env and the compose file, or delete the "
        f"volume's data: `invoke db.reset --volumes{selected}`.",
    )


def _password_variable(container: ContainerState) -> str:
    has_file = PASSWORD_FILE in container.variables and PASSWORD not in container.variables
    return PASSWORD_FILE if has_file else PASSWORD
