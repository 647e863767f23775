"""Revisions that were edited after they were applied, through the command line."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.histories import DATABASE, root_and_two, write_revision
from tests.support.monorepo import Monorepo, Ran
from tests.support.postgres import ask
from tests.support.prepared import running_monorepo

ALPHA = "services/alpha_service/alembic/versions/a1.py"
RESET = "Run `invoke db.reset --service alpha`, or restore the file and put the change into"


@pytest.fixture
def monorepo() -> Iterator[Monorepo]:
    with running_monorepo(["alpha", "beta"]) as made:
        yield made


def test_an_edited_revision_is_reported_until_the_database_is_reset(monorepo: Monorepo) -> None:
    edit(monorepo, ALPHA, "text text NOT NULL", "text text")
    for command, code in (("db.status", 0), ("db.migrate", 4), ("db.prepare", 4)):
        ran = monorepo.invoke(command, "--json")
        found = row(ran, "alpha")
        assert (ran.code, found["state"]) == (code, "EDITED"), command
        assert "revision a1 was edited after it was applied on 20" in found["detail"]
        assert found["detail"].endswith(ALPHA)
        assert found["hint"].startswith(RESET)
        assert "state" not in row(ran, "beta")
    ran = monorepo.invoke("db.status", "--check", "--json")
    assert ran.code == 4
    assert [row(ran, name)["edited"] for name in ("alpha", "beta")] == [["a1"], []]
    shown = monorepo.invoke("db.migrate")
    assert "already there" not in shown.out.partition("beta")[0]
    assert RESET in " ".join((shown.out + shown.err).split())
    assert "applied revisions were edited" in shown.err

    assert monorepo.invoke("db.reset", "--service", "alpha").code == 0
    assert monorepo.invoke("db.status", "--check", "db.migrate").code == 0


def test_an_edit_of_comments_and_formatting_is_not_reported(monorepo: Monorepo) -> None:
    edit(monorepo, ALPHA, '"""Revision a1"""', '"""Make notes."""  # For the essays.\n\n')
    edit(monorepo, ALPHA, "revision = 'a1'", 'revision: str = "a1"'.replace(": str", ""))
    edit(monorepo, ALPHA, "    op.execute(", "    op.execute(\n        ")
    assert monorepo.invoke("db.status", "--check", "db.migrate").code == 0


def test_a_template_remembers_what_was_applied(monorepo: Monorepo) -> None:
    assert row(monorepo.invoke("db.reset", "--json"), "alpha")["detail"] == "copied"
    edit(monorepo, ALPHA, "text text NOT NULL", "text text")
    assert monorepo.invoke("db.status", "--check").code == 4


def test_revisions_of_an_earlier_version_and_of_alembic_itself_are_not_compared(
    monorepo: Monorepo,
) -> None:
    url = monorepo.url("alpha")
    tag = 'huleedu-tasks {"environment": "development"}'
    ask(url, f"COMMENT ON DATABASE huleedu_alpha IS '{tag}'")
    edit(monorepo, ALPHA, "text text NOT NULL", "text text")
    assert row(monorepo.invoke("db.status", "--json"), "alpha")["edited"] == []

    # A later revision is recorded, and the earlier one stays unknown.
    monorepo.add_revision("alpha", "b2", "a1", "CREATE TABLE more (id integer)")
    assert monorepo.invoke("db.migrate").code == 0
    edit(monorepo, ALPHA.replace("a1.py", "b2.py"), "id integer", "id bigint")
    assert row(monorepo.invoke("db.status", "--json"), "alpha")["edited"] == ["b2"]

    # As after `alembic downgrade`: what is not applied is not compared, and then forgotten.
    ask(url, "DROP TABLE more", "UPDATE alembic_version SET version_num = 'a1'")
    behind = row(monorepo.invoke("db.status", "--json"), "alpha")
    assert (behind["state"], behind["edited"]) == ("BEHIND", [])
    assert monorepo.invoke("db.migrate").code == 0
    assert monorepo.invoke("db.status", "--check").code == 0


def test_histories_of_one_database_are_recorded_apart() -> None:
    with root_and_two() as monorepo:
        assert monorepo.invoke("db.reset").code == 0
        # The revisions of all three have the same id.
        write_revision(monorepo, "stock", "a1", None, "CREATE TABLE stock.item (id bigint)")
        ran = monorepo.invoke("db.status", "--json")
        assert {r["service"]: r["edited"] for r in ran.json["services"]} == {
            "orders": [],
            "stock": ["a1"],
            "root": [],
        }
        ((comment,),) = ask(
            monorepo.url("root", database=DATABASE),
            "SELECT shobj_description(oid, 'pg_database') FROM pg_database"
            f" WHERE datname = '{DATABASE}'",
        )
        assert comment.count('"a1"') == 3


def edit(monorepo: Monorepo, path: str, old: str, new: str) -> None:
    """Replace a part of a file."""
    text = monorepo.read(path)
    assert old in text
    monorepo.write(path, text.replace(old, new))


def row(ran: Ran, name: str) -> dict[str, Any]:
    """Return the object of a service in a JSON document."""
    (found,) = [service for service in ran.json["services"] if service["service"] == name]
    return dict(found)
