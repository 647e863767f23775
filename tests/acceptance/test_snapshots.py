"""Named snapshots through the command line: saved and restored for all services, or for none."""

import json
from collections.abc import Iterator
from contextlib import suppress

import asyncpg
import pytest

from tests.support.instant import maintain, tag_of
from tests.support.monorepo import Monorepo
from tests.support.observe import notes
from tests.support.postgres import ask
from tests.support.prepared import running_monorepo

NAMES = ("alpha", "beta")
SEEDED = "first second"
ADD = "INSERT INTO note VALUES ({}, '{}')"


@pytest.fixture(scope="module")
def servers() -> Iterator[Monorepo]:
    with running_monorepo(NAMES) as made:
        yield made


@pytest.fixture
def pair(servers: Monorepo) -> Iterator[Monorepo]:
    """Two services at head; their snapshots are dropped afterwards."""
    assert servers.invoke("db.reset", "--no-undo").code == 0
    yield servers
    for name in NAMES:
        for copy in copies(servers, name):
            maintain(servers, name, f'DROP DATABASE "{copy}"')


def copies(monorepo: Monorepo, name: str) -> list[str]:
    """Return the databases of a service other than its own and its templates."""
    sql = f"SELECT datname FROM pg_database WHERE datname LIKE 'huleedu\\_{name}\\_\\_%' ORDER BY 1"
    found = [copy for (copy,) in maintain(monorepo, name, sql)]
    return [copy for copy in found if "__made_" not in copy]


def add(monorepo: Monorepo, number: int, text: str, *names: str) -> None:
    for name in names or NAMES:
        ask(monorepo.url(name), ADD.format(number, text))


def texts(monorepo: Monorepo) -> list[str]:
    return [notes(monorepo, name) for name in NAMES]


def test_a_snapshot_restores_the_data_of_all_services(pair: Monorepo) -> None:
    add(pair, 9, "saved")
    saved = pair.invoke_afresh("db.snapshot", "before-merge", "--json")
    assert (saved.code, saved.statuses) == (0, dict.fromkeys(NAMES, "OK")), saved.err
    assert [row["revision"] for row in saved.json["services"]] == ["a1", "a1"]
    add(pair, 10, "later")
    restored = pair.invoke_afresh("db.restore", "before-merge", "--json")
    assert restored.code == 0, restored.out
    assert [row["current"] for row in restored.json["services"]] == ["a1", "a1"]
    assert texts(pair) == [f"{SEEDED} saved"] * 2
    # The tag of the copy is that of the database, and not that of the snapshot.
    assert tag_of(pair, "alpha", "huleedu_alpha").keys() >= {"seeds", "environment", "untouched"}
    assert "snapshot" not in tag_of(pair, "alpha", "huleedu_alpha")
    (note,) = restored.json["notes"]
    assert "`invoke db.undo`" in note
    assert pair.invoke_afresh("db.undo").code == 0
    assert texts(pair) == [f"{SEEDED} saved later"] * 2


def test_the_list_shows_each_snapshot_and_the_undo_snapshot(pair: Monorepo) -> None:
    assert pair.invoke("db.snapshot", "first").code == 0
    assert pair.invoke("db.snapshot", "second", "--service", "beta").code == 0
    add(pair, 9, "by hand", "alpha")
    assert pair.invoke("db.reset").code == 0
    rows = pair.invoke("db.snapshots", "--json").json["snapshots"]
    assert [(row["kind"], row["name"], row["service"]) for row in rows] == [
        ("undo", "", "alpha"),
        ("named", "first", "alpha"),
        ("named", "first", "beta"),
        ("named", "second", "beta"),
    ]
    assert {row["revision"] for row in rows[1:]} == {"a1"}
    assert all(row["bytes"] > 1_000_000 and row["age"] for row in rows)
    assert "second" in pair.invoke_afresh("db.snapshots").out


def test_a_deleted_snapshot_is_gone(pair: Monorepo) -> None:
    assert pair.invoke("db.snapshot", "gone").code == 0
    ran = pair.invoke("db.snapshots", "--delete", "gone", "--json")
    assert (ran.code, {row["detail"] for row in ran.json["services"]}) == (0, {"deleted"})
    assert pair.invoke("db.restore", "gone", "--json").json["error"]["code"] == "snapshot-unknown"


def test_templates_are_collected_and_snapshots_survive(pair: Monorepo) -> None:
    assert pair.invoke("db.snapshot", "survivor", "--service", "alpha").code == 0
    # One more than are kept.
    for number in range(4):
        pair.write("services/alpha_service/data.txt", str(number))
        assert pair.invoke("db.reset", "--service", "alpha").code == 0
    assert "huleedu_alpha__snap_survivor" in copies(pair, "alpha")
    assert pair.invoke("db.down", "db.up", "db.restore", "survivor", "--service", "alpha").code == 0


@pytest.mark.parametrize("name", ["db.reset", "a b", "x" * 31, "", "ä"])
def test_an_invalid_name_is_refused(pair: Monorepo, name: str) -> None:
    ran = pair.invoke("db.snapshot", name, "--json")
    assert (ran.code, ran.json["error"]["code"]) == (2, "snapshot-name-invalid")


def test_a_taken_name_changes_nothing(pair: Monorepo) -> None:
    assert pair.invoke("db.snapshot", "taken", "--service", "beta").code == 0
    ran = pair.invoke("db.snapshot", "taken", "--json")
    assert (ran.code, ran.json["error"]["code"]) == (2, "snapshot-exists")
    assert copies(pair, "alpha") == []
    assert copies(pair, "beta") == ["huleedu_beta__snap_taken"]


def test_an_unknown_name_suggests_the_closest(pair: Monorepo) -> None:
    assert pair.invoke("db.snapshot", "before-merge").code == 0
    ran = pair.invoke("db.restore", "before-mrege", "--json")
    assert (ran.code, ran.json["error"]["code"]) == (2, "snapshot-unknown")
    assert "before-merge" in ran.json["error"]["hint"]


def test_a_snapshot_without_a_selected_service_is_not_restored(pair: Monorepo) -> None:
    assert pair.invoke("db.snapshot", "half", "--service", "beta").code == 0
    add(pair, 9, "kept")
    ran = pair.invoke("db.restore", "half", "--json")
    assert (ran.code, ran.json["error"]["code"]) == (2, "snapshot-partial")
    assert "--service beta" in ran.json["error"]["hint"]
    assert texts(pair) == [f"{SEEDED} kept"] * 2


def test_a_snapshot_of_another_service_is_refused(pair: Monorepo) -> None:
    assert pair.invoke("db.snapshot", "mine", "--service", "alpha").code == 0
    copy = "huleedu_alpha__snap_mine"
    tag = tag_of(pair, "alpha", copy)
    tag["snapshot"]["service"] = "other"
    maintain(pair, "alpha", f"COMMENT ON DATABASE {copy} IS 'huleedu-tasks {json.dumps(tag)}'")
    ran = pair.invoke("db.restore", "mine", "--service", "alpha", "--json")
    (row,) = ran.json["services"]
    assert (ran.code, row["code"]) == (3, "snapshot-mismatch")


def test_a_snapshot_of_an_unknown_revision_is_restored_and_reported(pair: Monorepo) -> None:
    revision = pair.add_revision("alpha", "b2", "a1", "SELECT 1")
    assert pair.invoke("db.migrate", "--service", "alpha").code == 0
    assert pair.invoke("db.snapshot", "ahead", "--service", "alpha").code == 0
    revision.unlink()
    ran = pair.invoke("db.restore", "ahead", "--service", "alpha", "--json")
    (row,) = ran.json["services"]
    assert (ran.code, row["state"], row["current"]) == (0, "UNKNOWN REVISION", "b2")
    assert "Switch to the branch" in row["hint"]


def test_sessions_on_the_database_are_ended(pair: Monorepo) -> None:
    held = "BEGIN; INSERT INTO note VALUES (9, 'prepared'); PREPARE TRANSACTION 'mine'"
    with suppress(asyncpg.PostgresError):
        # Prepared transactions are off by default; the session itself is ended with its block.
        ask(pair.url("alpha"), held)
    assert pair.invoke("db.snapshot", "alone", "--service", "alpha").code == 0


def test_if_one_database_cannot_be_copied_none_is(pair: Monorepo) -> None:
    maintain(pair, "beta", "ALTER DATABASE huleedu_beta RENAME TO huleedu_beta_away")
    maintain(pair, "beta", "CREATE DATABASE huleedu_beta ALLOW_CONNECTIONS true")
    maintain(pair, "beta", "CREATE DATABASE huleedu_beta__snap_x")
    ran = pair.invoke("db.snapshot", "x", "--json")
    maintain(pair, "beta", "DROP DATABASE huleedu_beta__snap_x")
    maintain(pair, "beta", "DROP DATABASE huleedu_beta WITH (FORCE)")
    maintain(pair, "beta", "ALTER DATABASE huleedu_beta_away RENAME TO huleedu_beta")
    assert (ran.code, ran.statuses) == (1, {"alpha": "ABORTED", "beta": "FAILED"})
    assert copies(pair, "alpha") == []


def test_a_server_with_snapshots_is_not_recreated(pair: Monorepo) -> None:
    assert pair.invoke("db.snapshot", "dear", "--service", "alpha").code == 0
    ran = pair.invoke("db.reset", "--volumes", "--json")
    assert (ran.code, ran.statuses) == (3, {"alpha": "FAILED", "beta": "ABORTED"})
    row = ran.json["services"][0]
    assert row["code"] == "snapshots-lost"
    assert "huleedu_alpha__snap_dear" in row["detail"]
    assert pair.invoke("db.reset", "--volumes", "--no-undo").code == 0
    assert copies(pair, "alpha") == []


def test_a_dry_run_changes_nothing(pair: Monorepo) -> None:
    for command in (("db.snapshot", "dry"), ("db.restore", "dry"), ("db.undo",)):
        ran = pair.invoke(*command, "--dry-run", "--json")
        assert (ran.code, set(ran.statuses.values())) == (0, {"SKIPPED"})
    assert copies(pair, "alpha") == []


def test_staging_is_refused(pair: Monorepo) -> None:
    for command in (("db.snapshot", "x"), ("db.restore", "x"), ("db.snapshots",), ("db.undo",)):
        ran = pair.invoke(*command, "--json", env={"HULEEDU_ENVIRONMENT": "staging"})
        assert (ran.code, ran.json["error"]["code"]) == (3, "environment-refused")
