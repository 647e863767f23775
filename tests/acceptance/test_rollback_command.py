"""`db.rollback`: back to an earlier revision, after showing what is lost."""

from collections.abc import Iterator

import pytest

from tests.support.monorepo import Monorepo
from tests.support.observe import database, log_in
from tests.support.prepared import running_monorepo
from tests.support.terminal import seen, typed

VERSIONS = "services/alpha_service/alembic/versions"
REVISION = """\
\"\"\"Revision {id}\"\"\"

from alembic import op

revision = {id!r}
down_revision = {parent!r}


def upgrade():
    op.execute({up!r})


{downgrade}
"""


def add(monorepo: Monorepo, name: str, parent: str, up: str, down: str | None) -> None:
    """Add a revision; `None` leaves its downgrade out, and an empty string leaves it empty."""
    body = f"op.execute({down!r})" if down else "pass"
    downgrade = "" if down is None else f"def downgrade():\n    {body}"
    text = REVISION.format(id=name, parent=parent, up=up, downgrade=downgrade)
    monorepo.write(f"{VERSIONS}/{name}.py", text)


@pytest.fixture(scope="module")
def reset() -> Iterator[Monorepo]:
    """Return a monorepo of one service at b2, after a1 and b1."""
    with running_monorepo(["alpha"]) as made:
        add(made, "b1", "a1", "ALTER TABLE note ADD lang text", "ALTER TABLE note DROP lang")
        add(made, "b2", "b1", "CREATE TABLE tag (name text)", "DROP TABLE tag")
        assert made.invoke("db.reset").code == 0
        yield made


@pytest.fixture
def alpha(reset: Monorepo) -> Iterator[Monorepo]:
    """Return that monorepo, at b2 again."""
    yield reset
    for path in reset.path(VERSIONS).glob("c*.py"):
        path.unlink()
    if database(reset, "alpha").revision != "b2":
        assert reset.invoke("db.reset").code == 0
    log_in(reset.url("alpha"), "DELETE FROM tag")
    log_in(reset.url("alpha"), "UPDATE note SET lang = NULL")


def revision(monorepo: Monorepo) -> str:
    return database(monorepo, "alpha").revision


def undo_snapshot(monorepo: Monorepo) -> str:
    """Return the OID of the undo snapshot; an empty string if there is none."""
    sql = "SELECT string_agg(oid::text, ' ') FROM pg_database WHERE datname LIKE '%undo'"
    return log_in(monorepo.url("alpha"), sql) or ""


def throwaways(monorepo: Monorepo) -> int:
    sql = "SELECT count(*) FROM pg_database WHERE datname LIKE '%throwaway%'"
    return int(log_in(monorepo.url("alpha"), sql))


def test_one_step_is_rolled_back_and_migrated_again(alpha: Monorepo) -> None:
    ran = alpha.invoke_afresh("db.rollback", "--service", "alpha", "--json")
    assert ran.code == 0, ran.err
    (row,) = ran.json["services"]
    assert (row["from"], row["to"]) == ("b2", "b1")
    assert [r["revision"] for r in row["revisions"]] == ["b2"]
    assert [p["cause"] for p in row["problems"]] == ["drops the table 'tag' without rows"]
    assert (revision(alpha), throwaways(alpha)) == ("b1", 0)
    # The seeds may have been lost.
    (status,) = alpha.invoke("db.status", "--json").json["services"]
    assert (status["pending"], status["seeded"]) == (1, "no")
    again = alpha.invoke("db.migrate", "--service", "alpha")
    assert again.code == 0, again.err
    assert "alpha: b1 -> b2" in again.out
    assert "b2" in again.out.splitlines()[-1]
    assert "Revision b2" in again.out.splitlines()[-1]


def test_lost_rows_are_shown_and_need_yes_without_a_terminal(alpha: Monorepo) -> None:
    log_in(alpha.url("alpha"), "INSERT INTO tag VALUES ('x'), ('y')")
    log_in(alpha.url("alpha"), "UPDATE note SET lang = 'sv' WHERE id = 1")
    kept = undo_snapshot(alpha)
    words = ("drops the table 'tag' with 2 rows", "drops the column 'lang' of 'note' with 1 value")
    refused = alpha.invoke("db.rollback", "--service", "alpha", "--steps", "2")
    assert refused.code == 3
    assert "[terminal-required]" in refused.err
    assert all(word in refused.err for word in words)
    document = alpha.invoke("db.rollback", "--service", "alpha", "--steps", "2", "--json").json
    assert {finding["problem"] for finding in document["error"]["findings"]} == set(words)
    assert "`invoke db.undo` brings it back" in document["error"]["hint"]
    assert (revision(alpha), undo_snapshot(alpha)) == ("b2", kept)
    ran = alpha.invoke("db.rollback", "--service", "alpha", "--steps", "2", "--yes")
    assert ran.code == 0, ran.err
    assert "rolled back 2 revisions" in ran.out
    shown = ran.err + ran.out
    assert [shown.count(word) for word in ("SKIPPED", *words)] == [0, 1, 1]
    assert "`invoke db.undo` brings it back" in ran.out + ran.err
    assert revision(alpha) == "a1"
    assert alpha.invoke("db.undo").code == 0
    assert revision(alpha) == "b2"
    rows = "SELECT (SELECT count(*) FROM tag) || ' ' || (SELECT lang FROM note WHERE id = 1)"
    assert log_in(alpha.url("alpha"), rows) == "2 sv"


@pytest.mark.parametrize(("key", "code", "ends_at"), [("n", 3, "b2"), ("y", 0, "b1")])
def test_a_terminal_asks_before_anything_is_lost(
    alpha: Monorepo, key: str, code: int, ends_at: str
) -> None:
    log_in(alpha.url("alpha"), "INSERT INTO tag VALUES ('x')")
    kept = undo_snapshot(alpha)
    child = typed(alpha, "db.rollback", "--service", "alpha")
    child.expect("drops the table 'tag' with 1 row")
    child.expect("Roll it back")
    child.send(key)
    ran = seen(child)
    assert (ran.code, revision(alpha)) == (code, ends_at), ran.out
    assert (undo_snapshot(alpha) == kept) == (key == "n")


def test_a_renamed_column_is_no_loss(alpha: Monorepo) -> None:
    rename = "ALTER TABLE note RENAME {} TO {}"
    add(alpha, "c1", "b2", rename.format("lang", "code"), rename.format("code", "lang"))
    assert alpha.invoke("db.migrate").code == 0
    ran = alpha.invoke("db.rollback", "--service", "alpha", "--json")
    (row,) = ran.json["services"]
    assert (ran.code, row["problems"], revision(alpha)) == (0, [], "b2")


def test_a_revision_can_be_named(alpha: Monorepo) -> None:
    rollback, kept = ("db.rollback", "--service", "alpha", "--revision"), undo_snapshot(alpha)
    ran = alpha.invoke(*rollback, "b1", "--no-undo")
    assert (ran.code, revision(alpha)) == (0, "b1"), ran.err
    ran = alpha.invoke(*rollback, "a1", "--json", env={"HULEEDU_UNDO_LIMIT": "1"})
    (row,) = ran.json["services"]
    assert (ran.code, row["code"], revision(alpha)) == (3, "undo-not-kept", "b1"), ran.err
    assert "exceed HULEEDU_UNDO_LIMIT" in row["detail"]
    assert undo_snapshot(alpha) == kept


def test_a_dry_run_shows_the_losses_and_changes_nothing(alpha: Monorepo) -> None:
    ran = alpha.invoke("db.rollback", "--service", "alpha", "--dry-run", "--json")
    assert (ran.code, ran.json["dry_run"]) == (0, True), ran.err
    (row,) = ran.json["services"]
    assert (row["status"], row["from"], row["to"]) == ("SKIPPED", "b2", "b1")
    assert len(row["problems"]) == 1
    assert (revision(alpha), throwaways(alpha)) == ("b2", 0)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--revision", "b2"], "revision-not-earlier"),
        (["--revision", "zz"], "revision-not-earlier"),
        (["--steps", "4"], "revision-not-earlier"),
    ],
)
def test_a_revision_that_is_not_earlier_is_refused(
    alpha: Monorepo, arguments: list[str], code: str
) -> None:
    ran = alpha.invoke("db.rollback", "--service", "alpha", *arguments, "--json")
    assert (ran.code, ran.json["services"][0]["code"]) == (2, code)
    assert revision(alpha) == "b2"


@pytest.mark.parametrize(
    ("arguments", "environment", "code", "exit_code"),
    [
        (["--steps", "0"], {}, "argument-invalid", 2),
        (["--steps", "1", "--revision", "a1"], {}, "argument-conflict", 2),
        ([], {"HULEEDU_ENVIRONMENT": "staging"}, "environment-refused", 3),
    ],
)
def test_wrong_arguments_are_refused(
    alpha: Monorepo, arguments: list[str], environment: dict[str, str], code: str, exit_code: int
) -> None:
    ran = alpha.invoke("db.rollback", *arguments, "--json", env=environment)
    error = ran.json["error"]
    assert (ran.code, error["code"]) == (exit_code, code)
    assert not environment or "only go forward" in error["hint"]


def test_a_downgrade_that_raises_is_tried_out_before(alpha: Monorepo) -> None:
    add(alpha, "c1", "b2", "CREATE TABLE more (id integer)", "DROP TABLE unknown")
    assert alpha.invoke("db.migrate").code == 0
    kept = undo_snapshot(alpha)
    ran = alpha.invoke("db.rollback", "--service", "alpha", "--json")
    (row,) = ran.json["services"]
    assert (ran.code, row["code"]) == (1, "downgrade-failed")
    assert "is unchanged, at c1" in row["detail"]
    assert (revision(alpha), throwaways(alpha), undo_snapshot(alpha)) == ("c1", 0, kept)


@pytest.mark.parametrize("down", [None, ""])
def test_a_missing_downgrade_is_refused(alpha: Monorepo, down: str | None) -> None:
    add(alpha, "c1", "b2", "CREATE TABLE more (id integer)", down)
    assert alpha.invoke("db.migrate").code == 0
    ran = alpha.invoke("db.rollback", "--service", "alpha", "--json")
    (row,) = ran.json["services"]
    assert (ran.code, row["code"]) == (1, "downgrade-missing")
    assert revision(alpha) == "c1"


def test_a_downgrade_that_fails_on_real_rows_says_where_the_database_is(alpha: Monorepo) -> None:
    add(
        alpha,
        "c1",
        "b2",
        "ALTER TABLE tag ADD weight integer",
        "ALTER TABLE tag ALTER weight SET NOT NULL",
    )
    assert alpha.invoke("db.migrate").code == 0
    log_in(alpha.url("alpha"), "INSERT INTO tag (name) VALUES ('x')")
    ran = alpha.invoke("db.rollback", "--service", "alpha", "--yes", "--json")
    (row,) = ran.json["services"]
    assert (ran.code, row["code"]) == (1, "downgrade-failed")
    assert "The downgrade of c1 failed and was rolled back" in row["detail"]
    assert "huleedu_alpha is at c1" in row["detail"]
    assert revision(alpha) == "c1"


def test_migrate_names_the_command_that_goes_back(alpha: Monorepo) -> None:
    ran = alpha.invoke("db.migrate", "--service", "alpha", "--revision", "a1", "--json")
    (row,) = ran.json["services"]
    assert row["code"] == "downgrade-unsupported"
    assert "invoke db.rollback --service alpha --revision a1" in row["hint"]


def test_a_dry_run_of_migrate_shows_the_sql_of_pending_revisions(alpha: Monorepo) -> None:
    add(alpha, "c1", "b2", "CREATE TABLE more (id integer)", "DROP TABLE more")
    ran = alpha.invoke("db.migrate", "--dry-run", "--sql")
    assert ran.code == 0, ran.err
    assert "CREATE TABLE more (id integer)" in ran.out
    (row,) = alpha.invoke("db.migrate", "--dry-run", "--sql", "--json").json["services"]
    assert (row["status"], row["from"], row["to"]) == ("SKIPPED", "b2", "c1")
    assert "CREATE TABLE more" in row["revisions"][0]["sql"]
    assert revision(alpha) == "b2"
    refused = alpha.invoke("db.migrate", "--sql", "--json")
    assert (refused.code, refused.json["error"]["code"]) == (2, "argument-conflict")
    assert revision(alpha) == "b2"
