"""Undo through the command line: what a reset replaced comes back, if it was written to."""

from collections.abc import Iterator

import pytest

from tests.support.instant import COPIED, REBUILT, maintain, reset
from tests.support.monorepo import Monorepo
from tests.support.observe import notes
from tests.support.postgres import ask
from tests.support.prepared import running_monorepo

NAMES = ("alpha", "beta")
SEEDED = "first second"
UNDO = "huleedu_alpha__undo"
BY_HAND = "INSERT INTO note VALUES (9, 'mine')"

WRITES = (
    "INSERT INTO note VALUES (9, 'x')",
    "UPDATE note SET text = 'x'",
    "DELETE FROM note",
    "TRUNCATE note",
    "CREATE TABLE mine (id integer)",
    "DROP TABLE note",
    "COMMENT ON TABLE note IS 'mine'",
    "SELECT lo_from_bytea(0, 'mine')",
)


@pytest.fixture(scope="module")
def servers() -> Iterator[Monorepo]:
    with running_monorepo(NAMES) as made:
        yield made


@pytest.fixture
def pair(servers: Monorepo) -> Monorepo:
    """Two services at head, without undo snapshots."""
    for name in NAMES:
        maintain(servers, name, f"DROP DATABASE IF EXISTS huleedu_{name}__undo")
    assert servers.invoke("db.reset", "--no-undo").code == 0
    return servers


def has_undo(monorepo: Monorepo, name: str = "alpha") -> bool:
    sql = f"SELECT datname FROM pg_database WHERE datname = 'huleedu_{name}__undo'"
    return bool(maintain(monorepo, name, sql))


@pytest.mark.parametrize(
    ("flags", "detail"), [((), COPIED), (("--fresh",), REBUILT)], ids=["copied", "rebuilt"]
)
def test_undo_brings_back_what_a_reset_replaced_and_undo_again_redoes(
    pair: Monorepo, flags: tuple[str, ...], detail: str
) -> None:
    ask(pair.url("alpha"), BY_HAND)
    ran = pair.invoke("db.reset", "--json", *flags)
    assert ran.code == 0
    (note,) = ran.json["notes"]
    assert note.startswith("alpha: ")
    assert "`invoke db.undo`" in note
    assert notes(pair, "alpha") == SEEDED
    first = pair.invoke("db.undo", "--json")
    assert first.code == 0, first.out
    assert [row["detail"] for row in first.json["services"]] == ["undone", "nothing to undo"]
    assert notes(pair, "alpha") == f"{SEEDED} mine"
    assert pair.invoke("db.undo").code == 0
    assert notes(pair, "alpha") == SEEDED
    assert pair.invoke("db.undo").code == 0
    assert notes(pair, "alpha") == f"{SEEDED} mine"


@pytest.mark.parametrize("flags", [(), ("--fresh",)], ids=["copied", "rebuilt"])
def test_an_untouched_database_is_not_kept(pair: Monorepo, flags: tuple[str, ...]) -> None:
    for arguments in (flags, ()):
        ran = pair.invoke("db.reset", "--json", *arguments)
        assert (ran.code, ran.json["notes"]) == (0, [])
        # Autovacuum does it too, for catalogs that databases share.
        ask(pair.url("alpha"), "SELECT * FROM note", "ANALYZE")
    assert not any(has_undo(pair, name) for name in NAMES)
    ran = pair.invoke("db.undo", "--json")
    assert ran.code == 2, ran.out + ran.err
    assert ran.json["error"]["code"] == "nothing-to-undo"


def test_any_write_is_noticed(pair: Monorepo) -> None:
    for statement in WRITES:
        ask(pair.url("alpha"), "ANALYZE", statement)
        assert pair.invoke("db.reset", "--service", "alpha").code == 0
        assert has_undo(pair), statement
        maintain(pair, "alpha", f"DROP DATABASE {UNDO}")


@pytest.mark.parametrize("command", [("db.migrate",), ("db.seed",)], ids=" ".join)
def test_a_database_that_a_task_has_changed_is_kept(
    pair: Monorepo, command: tuple[str, ...]
) -> None:
    assert pair.invoke(*command).code == 0
    assert pair.invoke("db.reset").code == 0
    assert has_undo(pair)


def test_writes_are_noticed_after_the_server_lost_its_counters(pair: Monorepo) -> None:
    ask(pair.url("alpha"), BY_HAND)
    ask(pair.url("alpha"), "SELECT pg_stat_reset()")
    assert pair.invoke("db.reset", "--service", "alpha").code == 0
    assert has_undo(pair)


def test_writes_are_noticed_after_a_crash_of_the_server(pair: Monorepo) -> None:
    ask(pair.url("alpha"), BY_HAND)
    crash(pair)
    assert pair.invoke("db.up").code == 0
    assert pair.invoke("db.reset", "--service", "alpha").code == 0
    assert has_undo(pair)


def crash(monorepo: Monorepo) -> None:
    import psutil

    server = psutil.Process(monorepo.server_pid("alpha"))
    children = server.children(recursive=True)
    server.kill()
    for child in (server, *children):
        if child.is_running():
            child.kill()
    psutil.wait_procs([server, *children], timeout=20)


@pytest.mark.parametrize(
    ("flags", "env"), [(("--no-undo",), {}), ((), {"HULEEDU_UNDO": "false"})], ids=["flag", "env"]
)
def test_undo_can_be_switched_off(
    pair: Monorepo, flags: tuple[str, ...], env: dict[str, str]
) -> None:
    ask(pair.url("alpha"), BY_HAND)
    ran = pair.invoke("db.reset", "--json", *flags, env=env)
    assert (ran.code, ran.json["notes"]) == (0, [])
    assert not has_undo(pair)


def test_undo_without_services_leaves_what_an_earlier_command_replaced(pair: Monorepo) -> None:
    ask(pair.url("beta"), BY_HAND)
    assert pair.invoke("db.reset").code == 0
    ask(pair.url("alpha"), BY_HAND)
    assert pair.invoke("db.reset").code == 0
    assert pair.invoke("db.undo").code == 0
    assert [notes(pair, name) for name in NAMES] == [f"{SEEDED} mine", SEEDED]
    assert pair.invoke("db.undo", "--service", "beta").code == 0
    assert notes(pair, "beta") == f"{SEEDED} mine"


def test_a_snapshot_beyond_the_limit_is_dropped_and_reported(pair: Monorepo) -> None:
    ask(pair.url("alpha"), BY_HAND)
    ran = pair.invoke("db.reset", "--json", env={"HULEEDU_UNDO_LIMIT": "1"})
    (note,) = ran.json["notes"]
    assert "HULEEDU_UNDO_LIMIT" in note
    assert not has_undo(pair)


def test_undo_brings_back_the_predecessor_of_a_failed_reset(pair: Monorepo) -> None:
    ask(pair.url("alpha"), BY_HAND)
    revision = pair.add_revision("alpha", "b2", "a1", "SELECT nothing")
    assert pair.invoke("db.reset", "--service", "alpha").code == 1
    revision.unlink()
    ran = pair.invoke("db.undo", "--service", "alpha", "--json")
    assert ran.code == 0, ran.out
    assert notes(pair, "alpha") == f"{SEEDED} mine"
    assert reset(pair, "alpha").detail == COPIED


def test_a_restored_database_is_kept_once_its_snapshot_was_deleted(pair: Monorepo) -> None:
    ask(pair.url("alpha"), BY_HAND)
    assert pair.invoke("db.snapshot", "base", "--service", "alpha").code == 0
    ask(pair.url("alpha"), "INSERT INTO note VALUES (10, 'later')")
    # The second time, the replaced database is still in the snapshot.
    assert pair.invoke(*("db.restore", "base", "--service", "alpha") * 2).code == 0
    assert notes(pair, "alpha") == f"{SEEDED} mine"
    assert pair.invoke("db.undo", "--service", "alpha").code == 0
    assert notes(pair, "alpha") == f"{SEEDED} mine later"
    assert pair.invoke("db.undo", "--service", "alpha").code == 0
    assert pair.invoke("db.snapshots", "--delete", "base", "db.reset").code == 0
    assert notes(pair, "alpha") == SEEDED
    assert pair.invoke("db.undo").code == 0
    assert notes(pair, "alpha") == f"{SEEDED} mine"
