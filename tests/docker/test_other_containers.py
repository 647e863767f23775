"""Other containers of the project keep running and keep their mounts during a reset."""

from collections.abc import Iterator

import pytest

from tests.support.docker import IDLE, Docked, inside, new_docked
from tests.support.monorepo import PASSWORD, USER, wait_until
from tests.support.postgres import ask

# Keeps a session open and reconnects when it is lost, as a connection pool does.
APPLICATION = """\
while true; do
    psql -h "$1" -c 'SELECT pg_sleep(86400)'
    sleep 0.1
done
"""
SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'application'"
MOUNTED = "/application/version"


@pytest.fixture(scope="module")
def project() -> Iterator[Docked]:
    """Two databases, an application that is connected to one of them, and a cache."""
    with new_docked("alpha", "beta") as made:
        made.write("application/version", "one")
        made.define(
            app={
                **IDLE,
                "command": ["sh", "-c", APPLICATION, "-", "alpha_db"],
                "environment": {
                    "PGUSER": USER,
                    "PGPASSWORD": PASSWORD.replace("$", "$$"),
                    "PGDATABASE": "huleedu_alpha",
                    "PGAPPNAME": "application",
                },
                "volumes": ["./application:/application:ro"],
                "depends_on": {"alpha_db": {"condition": "service_started", "restart": True}},
            },
            cache=dict(IDLE),
        )
        made.compose("up", "--detach")
        assert made.invoke("db.reset").code == 0
        yield made


def is_connected(project: Docked) -> bool:
    return ask(project.url("alpha"), SESSIONS) == [(1,)]


@pytest.mark.parametrize("arguments", [(), ("--volumes", "--service", "alpha")])
def test_a_reset_keeps_applications_and_caches_running(
    project: Docked, arguments: tuple[str, ...]
) -> None:
    wait_until(lambda: is_connected(project))
    before = project.lives()
    ran = project.invoke("db.reset", *arguments)
    assert ran.code == 0, ran.out + ran.err
    after = project.lives()
    assert {name: after[name] for name in ("app", "cache")} == {
        name: before[name] for name in ("app", "cache")
    }
    wait_until(lambda: is_connected(project))


def test_a_new_password_recreates_only_the_container_of_the_database(project: Docked) -> None:
    """With `depends_on: restart`, Compose would stop the application and not start it again."""
    project.write("application/version", "two")
    before = project.lives()
    another = {"HULEEDU_DB_PASSWORD": "another"}
    ran = project.invoke("db.reset", "--volumes", "--service", "alpha", env=another)
    after = project.lives()
    assert ran.code == 0, ran.out + ran.err
    assert ask(project.url("alpha", password="another"), "SELECT count(*) FROM note") == [(2,)]
    assert (after["app"], after["cache"]) == (before["app"], before["cache"])
    assert after["alpha_db"] != before["alpha_db"]
    assert project.running() == {"alpha_db", "beta_db", "app", "cache"}
    # The mounts stay live, and `docker compose up` changes nothing.
    assert inside(project.container("app"), "cat", MOUNTED) == "two"
    project.compose("up", "--detach", "alpha_db", "app", "cache", **another)
    assert project.lives() == after
