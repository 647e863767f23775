"""`db.drift` on real servers, through the command line."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from huleedu_tasks.postgres.locks import LOCK
from tests.support.alembic_bench import AT_A1
from tests.support.db_runs import without_initdb
from tests.support.monorepo import PASSWORD, Monorepo, Ran, new_monorepo
from tests.support.postgres import SHUT_DOWN, ask, connect

ALPHA = ("--service", "alpha")


@pytest.fixture(scope="module")
def monorepo() -> Iterator[Monorepo]:
    """Return a monorepo whose databases are at head, with a pending revision that adds a table."""
    with new_monorepo(["alpha", "beta"]) as made:
        without_initdb(made)
        assert made.invoke("db.reset").code == 0
        made.add_revision("alpha", "b2", "a1")
        yield made


def row(ran: Ran, service: str = "alpha") -> dict[str, Any]:
    (found,) = [row for row in ran.json["services"] if row["service"] == service]
    return dict(found)


def names(ran: Ran, service: str = "alpha") -> list[str]:
    return [f"{found['object']}: {found['change']}" for found in row(ran, service)["drift"]]


def test_pending_revisions_are_not_drift(monorepo: Monorepo) -> None:
    ran = monorepo.invoke("db.drift", "--check", "--json")
    assert ran.code == 0
    assert (row(ran)["revision"], row(ran)["drift"]) == ("a1", [])


def test_drift_is_shown_as_a_diff_until_the_object_is_unmanaged(monorepo: Monorepo) -> None:
    ask(monorepo.url("alpha"), "CREATE INDEX by_hand ON note (text)")
    try:
        shown = monorepo.invoke("db.drift", "--check")
        assert shown.code == 4
        assert "alpha: index public.by_hand: extra\n    +CREATE INDEX by_hand ON" in shown.out
        assert "not every schema is that of its revisions" in shown.err
        assert "beta     OK" in shown.out
        registry = monorepo.root / "services.json"
        text = registry.read_text()
        stated = json.loads(text)
        stated["services"][0]["unmanaged"] = ["index public.by_*"]
        registry.write_text(json.dumps(stated))
        assert monorepo.invoke("db.drift", *ALPHA, "--check").code == 0
        registry.write_text(text)
    finally:
        ask(monorepo.url("alpha"), "DROP INDEX by_hand")


def test_a_dumped_and_restored_expression_is_not_drift(monorepo: Monorepo) -> None:
    """PostgreSQL shows a restored CHECK in other words than the original."""
    column = "ALTER TABLE note ADD state varchar(9) CHECK (state IN ('a', 'b'))"
    path = monorepo.root / "services/alpha_service/alembic/versions/a1.py"
    text = path.read_text()
    path.write_text(text.replace("def downgrade", f"    op.execute({column!r})\n\ndef downgrade"))
    restored = (
        "ALTER TABLE note ADD state varchar(9), ADD CONSTRAINT note_state_check CHECK "
        "(((state)::text = ANY (ARRAY[('a'::character varying)::text, "
        "('b'::character varying)::text])))"
    )
    ask(monorepo.url("alpha"), restored)
    try:
        assert names(monorepo.invoke("db.drift", *ALPHA, "--json")) == []
        ask(monorepo.url("alpha"), "ALTER TABLE note DROP CONSTRAINT note_state_check")
        ran = monorepo.invoke("db.drift", *ALPHA, "--json")
        assert names(ran) == ["constraint public.note.note_state_check: missing"]
    finally:
        ask(monorepo.url("alpha"), "ALTER TABLE note DROP state")
        path.write_text(text)


async def test_a_running_migration_is_not_drift(monorepo: Monorepo) -> None:
    other = await connect(monorepo.url("alpha"))
    await other.execute("CREATE TABLE half_done ()")
    await other.execute(f"SELECT pg_advisory_lock({LOCK[0]}, {LOCK[1]})")
    try:
        ran = await asyncio.to_thread(monorepo.invoke, "db.drift", "--check", "--json")
    finally:
        await other.execute("DROP TABLE half_done")
        await other.close()
    assert ran.code == 0
    assert (row(ran)["status"], row(ran)["state"]) == ("SKIPPED", "MIGRATING")
    assert "being migrated by the-test" in row(ran)["detail"]


def test_missing_privileges_are_named(monorepo: Monorepo) -> None:
    user = "weak"
    ask(
        monorepo.url("alpha"),
        f"CREATE ROLE {user} LOGIN PASSWORD '{PASSWORD}'",
        "CREATE SCHEMA hidden",
        "CREATE TABLE hidden.secret ()",
        f"GRANT SELECT ON alembic_version TO {user}",
    )
    try:
        url = monorepo.url("alpha").replace("huleedu_user", user)
        ran = monorepo.invoke("db.drift", *ALPHA, "--json", env={"ALPHA_SERVICE_DATABASE_URL": url})
    finally:
        ask(
            monorepo.url("alpha"),
            "DROP SCHEMA hidden CASCADE",
            f"DROP OWNED BY {user}",
            f"DROP ROLE {user}",
        )
    assert ran.code == 1
    assert row(ran)["code"] == "schema-unreadable"
    for lacking in ("schema hidden", "table public.note", "table hidden.secret"):
        assert lacking in row(ran)["output"] + row(ran)["detail"]


def test_a_database_without_a_version_table_is_compared_with_every_revision(
    monorepo: Monorepo,
) -> None:
    ask(monorepo.url("alpha"), "DROP TABLE alembic_version")
    try:
        found = row(monorepo.invoke("db.drift", *ALPHA, "--json"))
    finally:
        ask(monorepo.url("alpha"), *AT_A1)
    # The pending revision changes nothing.
    assert (found["nearest"], found["drift"]) == (["a1", "b2"], [])
    assert found["detail"] == "has no version table; its schema is that of a1, b2"


def test_a_database_at_two_branches_that_a_pending_revision_merges_is_compared(
    monorepo: Monorepo,
) -> None:
    parents = {"b1": "a1", "c1": "a1", "merged": "b1"}
    paths = [
        monorepo.add_revision("beta", revision, parent, f"CREATE TABLE {revision} ()")
        for revision, parent in parents.items()
    ]
    merged = paths[-1].read_text()
    paths[-1].write_text(merged.replace("down_revision = 'b1'", "down_revision = 'b1', 'c1'"))
    url = monorepo.url("beta")
    ask(url, "CREATE TABLE b1 ()", "CREATE TABLE c1 ()", "CREATE TABLE by_hand ()")
    ask(url, "UPDATE alembic_version SET version_num = 'b1'")
    ask(url, "INSERT INTO alembic_version VALUES ('c1')")
    try:
        ran = monorepo.invoke("db.drift", "--service", "beta", "--json")
    finally:
        ask(url, "DROP TABLE b1, c1, by_hand, alembic_version", *AT_A1)
        for path in paths:
            path.unlink()
    assert names(ran, "beta") == ["table public.by_hand: extra"]
    assert row(ran, "beta")["revision"] == "b1, c1"


def test_a_revision_that_the_files_do_not_have_is_an_error(monorepo: Monorepo) -> None:
    ask(monorepo.url("alpha"), "UPDATE alembic_version SET version_num = 'zz'")
    try:
        ran = monorepo.invoke("db.drift", *ALPHA, "--json")
    finally:
        ask(monorepo.url("alpha"), "UPDATE alembic_version SET version_num = 'a1'")
    assert (ran.code, row(ran)["code"]) == (1, "revision-unknown")


LACKS_EXTENSION = "CREATE EXTENSION nowhere"
NEEDS_ROWS = "SELECT 1 / count(*) FROM note"


@pytest.mark.parametrize(
    ("of_alpha", "of_beta"), [(LACKS_EXTENSION, NEEDS_ROWS), (SHUT_DOWN, "SELECT 1")]
)
def test_a_history_that_cannot_be_replayed_is_an_error_of_its_service(
    monorepo: Monorepo, of_alpha: str, of_beta: str
) -> None:
    wanted = {"alpha": of_alpha, "beta": of_beta}
    paths = [monorepo.add_revision(name, "b3", "a1", sql) for name, sql in wanted.items()]
    pending = monorepo.path("services/alpha_service/alembic/versions/b2.py")
    pending.rename(pending.with_suffix(".kept"))
    for name in wanted:
        ask(monorepo.url(name), "UPDATE alembic_version SET version_num = 'b3'")
    try:
        ran = monorepo.invoke("db.drift", "--json")
    finally:
        for name in wanted:
            ask(monorepo.url(name), "UPDATE alembic_version SET version_num = 'a1'")
        pending.with_suffix(".kept").rename(pending)
        for path in paths:
            path.unlink()
    assert ran.code == 1, ran.err
    assert "Traceback" not in ran.err
    failed = {name: row(ran, name) for name in wanted if row(ran, name)["status"] == "FAILED"}
    assert list(failed) == (["alpha"] if of_alpha == SHUT_DOWN else ["alpha", "beta"])
    assert {found["code"] for found in failed.values()} == {"migration-failed"}
    assert all("Revision b3 failed" in found["detail"] for found in failed.values())
    assert all(found["hint"] for found in failed.values())
    # The next command starts the server again, and drops what is left.
    assert monorepo.invoke("db.drift", "--check").code == 0
