"""`db.up` and `db.down`: only the registry's databases, which are ready when `db.up` returns.

TEST_FRESH_VOLUMES is the number of fresh volumes on which readiness is tested. The long campaign is
`TEST_FRESH_VOLUMES=20 pytest tests/docker -k before_its_init_script`.
"""

import os
import time
from collections.abc import Iterator

import pytest

from tests.support.docker import IDLE, SCRIPTS, Docked, database_service, new_docked
from tests.support.monorepo import free_ports
from tests.support.postgres import ask

FRESH_VOLUMES = int(os.environ.get("TEST_FRESH_VOLUMES", "1"))
AT_ONCE = 5
# Meanwhile the image's temporary server answers on its socket.
SLOW_SCRIPT = """\
run() { psql -v ON_ERROR_STOP=1 -U "$POSTGRES_USER" -d "$POSTGRES_DB" -c "$1"; }
run 'CREATE TABLE born (ended timestamptz)'
sleep 2
run 'INSERT INTO born VALUES (clock_timestamp())'
"""
READY = "SELECT current_user, current_database()"
ENDED = "SELECT extract(epoch FROM ended)::float8 FROM born"


@pytest.fixture(scope="module")
def crowd() -> Iterator[Docked]:
    """Two databases, another one, an application that depends on them, and a cache."""
    with new_docked("alpha", "beta", profiles=["databases"], depends_on=["cache"]) as made:
        made.define(
            cache={**IDLE},
            app={**IDLE, "depends_on": ["alpha_db", "cache"]},
            other_db=database_service(free_ports(1)[0], "other", "other_db_data"),
        )
        yield made


def test_only_the_registrys_databases_are_started_and_accept_their_users(crowd: Docked) -> None:
    ran = crowd.invoke("db.up")
    assert ran.code == 0, ran.err
    assert crowd.running() == {"alpha_db", "beta_db"}
    assert crowd.containers().keys() == crowd.running()
    for name in ("alpha", "beta"):
        assert ask(crowd.url(name), READY) == [("huleedu_user", f"huleedu_{name}")]


def test_one_service_is_stopped_and_started_alone_and_keeps_its_data(crowd: Docked) -> None:
    ask(crowd.url("alpha"), "CREATE TABLE kept AS SELECT 42 AS answer")
    beta = crowd.lives()["beta_db"]
    assert crowd.invoke("db.down", "--service", "alpha").code == 0
    assert crowd.running() == {"beta_db"}
    assert crowd.invoke("db.up", "--service", "alpha").code == 0
    assert ask(crowd.url("alpha"), "SELECT answer FROM kept") == [(42,)]
    assert crowd.lives()["beta_db"] == beta


def test_up_changes_nothing_if_the_servers_run(crowd: Docked) -> None:
    before = crowd.lives()
    assert crowd.invoke("db.up").code == 0
    assert crowd.lives() == before


def test_down_does_not_stop_other_containers(crowd: Docked) -> None:
    crowd.compose("--profile", "databases", "up", "--detach", "--no-deps", "cache")
    cache = crowd.lives()["cache"]
    assert crowd.invoke("db.down").code == 0
    assert crowd.running() == {"cache"}
    assert crowd.lives()["cache"] == cache
    assert "not running" in crowd.invoke("db.down").out


def test_a_shared_server_gets_the_database_of_each_service(crowd: Docked) -> None:
    alpha, beta = crowd.services
    crowd.register({**alpha, "compose_service": "alpha_db"}, beta)
    crowd.add_service("guest", crowd.port("alpha"), compose_service="alpha_db")
    ran = crowd.invoke("db.up", "--service", "alpha", "--service", "guest")
    assert ran.code == 0, ran.err
    assert ask(crowd.url("guest"), READY) == [("huleedu_user", "huleedu_guest")]


def test_nothing_is_started_if_the_compose_files_have_none_of_the_services() -> None:
    with new_docked("alpha") as docked:
        docked.define(alpha_db=None, stranger=dict(IDLE))
        ran = docked.invoke("db.up")
        assert ran.code == 2
        assert "have no service 'alpha_db' for alpha; they have stranger" in ran.out
        assert not docked.containers()


@pytest.mark.parametrize("first", range(0, FRESH_VOLUMES, AT_ONCE))
def test_a_fresh_volume_is_never_ready_before_its_init_script_has_ended(first: int) -> None:
    names = [f"fresh{number}" for number in range(first, min(first + AT_ONCE, FRESH_VOLUMES))]
    with new_docked(*names, mounts=[f"./scripts:{SCRIPTS}:ro"]) as docked:
        docked.write("scripts/slow.sh", SLOW_SCRIPT)
        ran = docked.invoke("db.up")
        reported = time.time()
        assert ran.code == 0, ran.err
        for name in names:
            ((ended,),) = ask(docked.url(name), ENDED)
            assert ended < reported
