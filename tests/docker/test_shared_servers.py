"""One server with the databases of several services, which an init script created.

The tests begin with a server that was started with `docker compose up` and used, as in a
repository that adopts the tasks. Those of `docked` continue where the previous one ended.
"""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.docker import SCRIPTS, Docked, database_service, new_docked
from tests.support.instant import COPIED, REBUILT
from tests.support.monorepo import Ran, free_ports
from tests.support.postgres import ask

SERVER = "shared_db"
BOTH = ("one", "two")
INIT_SCRIPT = """\
CREATE ROLE reader;
CREATE DATABASE one;
CREATE DATABASE two;
\\c one
CREATE EXTENSION pg_trgm;
CREATE SCHEMA legacy;
"""
REVISION = (
    "CREATE TABLE legacy.word (text text)",
    "CREATE INDEX ON legacy.word USING gin (text gin_trgm_ops)",
)
WORDS = "SELECT count(*) FROM legacy.word"
ROLES = "SELECT rolname FROM pg_roles WHERE rolname = 'reader'"
NOTES = "SELECT text FROM note ORDER BY text"
ADD_NOTE = "INSERT INTO note VALUES (99, 'by hand')"


TESTING = {"HULEEDU_ENVIRONMENT": "testing"}


@contextmanager
def shared_server(*, used: bool = True) -> Iterator[Docked]:
    with new_docked() as docked:
        (port,) = free_ports(1)
        for name in BOTH:
            docked.add_service(name, port, compose_service=SERVER, database=name)
        docked.add_revision("one", "b2", "a1", *REVISION)
        docked.write("init/01.sql", INIT_SCRIPT)
        server = database_service(port, "start", "shared_data")
        server["volumes"].append(f"./init:{SCRIPTS}:ro")
        docked.define(**{SERVER: server})
        if used:
            docked.up()
            ask(docked.url("one", database="start"), "COMMENT ON SCHEMA public IS 'used'")
        yield docked


@pytest.fixture(scope="module")
def docked() -> Iterator[Docked]:
    with shared_server() as made:
        yield made


def life(docked: Docked) -> tuple[str, str]:
    return docked.lives()[SERVER]


def reset(docked: Docked, *arguments: str, code: int = 0) -> Ran:
    ran = docked.invoke("db.reset", *arguments, "--json")
    assert ran.code == code, ran.out + ran.err
    return ran


def details(ran: Ran) -> dict[str, str]:
    return {row["service"]: row["detail"] for row in ran.json["services"]}


def notes(docked: Docked, name: str) -> list[str]:
    return [row[0] for row in ask(docked.url(name, database=name), NOTES)]


def notes_of(ran: Ran) -> list[str]:
    """Return the notes of a report, without those about undo snapshots."""
    return [note for note in ran.json["notes"] if "db.undo" not in note]


def test_a_service_that_fails_before_the_reset_keeps_its_server(docked: Docked) -> None:
    assert docked.invoke("db.migrate").code == 0
    broken = docked.add_revision("two", "b2", "nowhere", "CREATE TABLE more ()")
    before = life(docked)
    for arguments in ([], ["--volumes"]):
        one, two = reset(docked, *arguments, code=1).json["services"]
        assert (one["status"], one["code"]) == ("FAILED", "server-not-recreated")
        assert two["status"] == "FAILED"
    assert life(docked) == before
    assert notes(docked, "two") == []
    broken.unlink()


def test_a_reset_of_one_service_keeps_the_data_of_the_others(docked: Docked) -> None:
    assert docked.invoke("db.migrate", "db.seed").code == 0
    ask(docked.url("two", database="two"), ADD_NOTE)
    before = life(docked)
    # Its extension and its schema are missing in the new database; the note gives the reason.
    ran = reset(docked, "--service", "one", code=1)
    (note,) = notes_of(ran)
    assert any("one__old" in other for other in ran.json["notes"])
    assert "also has two" in note
    assert "`invoke db.reset --service one --service two`" in note
    assert life(docked) == before
    assert notes(docked, "two") == ["by hand", "first", "second"]


def test_a_reset_of_all_its_services_recreates_the_server_once(docked: Docked) -> None:
    before = life(docked)
    assert notes_of(reset(docked, "--service", "one", "--service", "two")) == []
    renewed = life(docked)
    assert renewed != before
    assert ask(docked.url("one", database="one"), ROLES) == [("reader",)]
    assert ask(docked.url("one", database="one"), WORDS) == [(0,)]
    assert notes(docked, "two") == ["first", "second"]
    # Each service has its own template.
    docked.add_revision("one", "c3", "b2", "CREATE TABLE more ()")
    assert details(reset(docked)) == {"one": REBUILT, "two": COPIED}
    reset(docked, "--service", "one", "--fresh")
    assert life(docked) == renewed
    assert ask(docked.url("one", database="one"), WORDS) == [(0,)]


def test_testing_begins_as_the_init_script_left_development(docked: Docked) -> None:
    before = life(docked)
    ask(docked.url("two", database="two"), f"{ADD_NOTE} ON CONFLICT DO NOTHING")
    for name in BOTH:
        dropped = f"DROP DATABASE IF EXISTS {name}_test"
        ask(docked.url("two", database="postgres"), dropped)
    for commands in (["db.migrate", "db.seed"], ["db.reset"]):
        ran = docked.invoke(*commands, env=TESTING)
        assert ran.code == 0, ran.out + ran.err
    assert ask(docked.url("one", database="one_test"), WORDS) == [(0,)]
    assert notes(docked, "two") == ["by hand", "first", "second"]
    assert ask(docked.url("two", database="two_test"), NOTES) == [("first",), ("second",)]
    assert life(docked) == before


def test_a_port_in_use_is_resolved_by_one_edit_of_the_compose_file(docked: Docked) -> None:
    taken, (free,) = docked.port("one"), free_ports(1)
    docked.register(
        *({key: entry[key] for key in entry if key != "port"} for entry in docked.services)
    )
    docked.compose("rm", "--stop", "--force")
    lines = docked.read("docker-compose.yml").splitlines()
    number = next(n for n, line in enumerate(lines, 1) if '"ports"' in line)
    with socket.create_server(("127.0.0.1", taken)):
        one, two = docked.invoke("db.up", "--json").json["services"]
    for service in (one, two):
        assert service["code"] == "port-in-use"
        assert service["hint"].endswith(
            f"publish another port for '{SERVER}' in docker-compose.yml, line {number}."
        )
    docked.define(**{SERVER: {"ports": [f"127.0.0.1:{free}:5432"]}})
    ran = docked.invoke("db.up")
    assert ran.code == 0, ran.out + ran.err


def test_a_new_server_may_begin_with_testing() -> None:
    with shared_server(used=False) as docked:
        ran = docked.invoke("db.migrate", env=TESTING)
        assert ran.code == 0, ran.out + ran.err
        before = life(docked)
        assert ask(docked.url("one", database="one_test"), WORDS) == [(0,)]
        reset(docked)
        assert life(docked) == before
        assert ask(docked.url("one", database="one"), WORDS) == [(0,)]


def test_a_database_of_no_service_is_never_destroyed_without_volumes() -> None:
    with shared_server() as docked:
        docked.path("services/one_service/alembic/versions/b2.py").unlink()
        ask(docked.url("one", database="start"), "CREATE TABLE realm AS SELECT 1 AS id")
        before = life(docked)
        (note,) = notes_of(reset(docked))
        assert "also has start" in note
        assert "`invoke db.reset --volumes --service one --service two`" in note
        assert life(docked) == before
        assert ask(docked.url("one", database="start"), "SELECT id FROM realm") == [(1,)]
        assert notes_of(reset(docked, "--volumes")) == []
        assert life(docked) != before
