"""The hints after a container's server refused a login."""

from datetime import UTC, datetime

import pytest

from huleedu_tasks.compose.container_state import ContainerState
from huleedu_tasks.config.secret import Secret
from huleedu_tasks.config.urls import DatabaseUrl
from huleedu_tasks.postgres.connections import LoginRefused
from huleedu_tasks.servers.login_advice import explain_login

URL = DatabaseUrl(
    user="dev", password=Secret("ours-1"), host="localhost", port=5433, database="shop"
)


def container(variables: dict[str, str]) -> ContainerState:
    return ContainerState(
        id="1",
        name="shop-db-1",
        status="running",
        exit_code=0,
        started=datetime(2026, 1, 1, tzinfo=UTC),
        directory="/shop",
        service="db",
        config_hash="",
        image="",
        published=(("127.0.0.1", 5433),),
        variables=variables,
        mounts=(),
    )


def advice(variables: dict[str, str], *, file: str | None = None) -> LoginRefused:
    return explain_login(
        LoginRefused("localhost:5433 refused the login of 'dev'."),
        container(variables),
        URL,
        read_file=lambda path: file,
        sharing=("orders", "shop"),
    )


FILE = {"POSTGRES_USER": "dev", "POSTGRES_PASSWORD_FILE": "/run/secrets/db"}


@pytest.mark.parametrize(
    ("variables", "file", "named"),
    [
        ({}, None, "HULEEDU_DB_USER=postgres"),
        ({"POSTGRES_USER": "root", "POSTGRES_PASSWORD": "ours-1"}, None, "HULEEDU_DB_USER=root"),
        ({"POSTGRES_USER": "dev", "POSTGRES_PASSWORD": "theirs-1"}, None, "POSTGRES_PASSWORD"),
        (FILE, None, "secret"),
        (FILE, "theirs-1\n", "secret"),
    ],
)
def test_a_login_that_differs_from_the_containers_own_is_corrected_in_env(
    variables: dict[str, str], file: str | None, named: str
) -> None:
    error = advice(variables, file=file)
    assert error.code == "credentials-differ"
    assert named in error.hint
    assert "--volumes" not in error.hint
    assert "theirs-1" not in f"{error} {error.hint}"


@pytest.mark.parametrize(
    ("variables", "file"),
    [({"POSTGRES_USER": "dev", "POSTGRES_PASSWORD": "ours-1"}, None), (FILE, "ours-1\n")],
)
def test_a_volume_is_blamed_only_where_the_containers_login_is_ours(
    variables: dict[str, str], file: str | None
) -> None:
    error = advice(variables, file=file)
    assert error.code == "volume-credentials"
    assert "db.reset --volumes --service orders --service shop" in error.hint
