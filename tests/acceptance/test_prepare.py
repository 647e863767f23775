"""`db.prepare`: whatever there is becomes a working state, and nothing is destroyed."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.db_runs import without_initdb
from tests.support.histories import DATABASE, root_and_two
from tests.support.monorepo import PROJECT, Monorepo, Ran, clean_environment
from tests.support.observe import notes
from tests.support.postgres import ask

PAGE = PROJECT / "docs/development.md"
NAMES = ("alpha", "beta", "gamma")


def test_a_new_clone_is_prepared_and_a_second_time_changes_nothing(monorepo: Monorepo) -> None:
    dry = monorepo.invoke("db.prepare", "--json", "--dry-run")
    assert (dry.code, set(dry.statuses.values())) == (0, {"SKIPPED"})
    assert not monorepo.data_directories()

    first = monorepo.invoke("db.prepare", "--json")
    assert (first.code, details(first)) == (0, dict.fromkeys(NAMES, "migrated, seeded"))
    before = transactions(monorepo)
    again = monorepo.invoke("db.prepare", "--json")
    assert (again.code, details(again)) == (0, dict.fromkeys(NAMES, "nothing to do"))
    assert transactions(monorepo) == before
    assert (row(again, "alpha")["from"], row(again, "alpha")["to"]) == ("a1", "a1")


def test_each_database_gets_what_it_lacks_and_keeps_its_rows(ready: Monorepo) -> None:
    own = "INSERT INTO note VALUES (99, 'mine')"
    ask(ready.url("alpha"), own)
    ask(ready.url("beta"), own)
    ready.add_revision("alpha", "b2", "a1", "CREATE TABLE more (id integer)")
    seed = "database/seed-scripts/seed_beta.py"
    ready.write(seed, f"{ready.read(seed)}# Changed.\n")
    ask(ready.url("gamma", database="postgres"), "DROP DATABASE huleedu_gamma WITH (FORCE)")

    dry = details(ready.invoke("db.prepare", "--json", "--dry-run"))
    assert dry["alpha"] == "dry run: would migrate its database"
    assert dry["beta"] == "dry run: would apply its seeds"
    ran = ready.invoke("db.prepare", "--json")
    assert ran.code == 0
    assert details(ran) == {"alpha": "migrated", "beta": "already there, seeded", "gamma": "copied"}
    assert "mine" in notes(ready, "alpha")
    assert "mine" in notes(ready, "beta")
    assert ready.invoke("db.status", "--check").code == 0


def test_a_stopped_server_is_started(ready: Monorepo) -> None:
    assert ready.invoke("db.down").code == 0
    ran = ready.invoke("db.prepare", "--json")
    assert (ran.code, details(ran)) == (0, dict.fromkeys(NAMES, "nothing to do"))


def test_a_database_of_another_branch_is_left_alone_and_the_others_are_prepared(
    ready: Monorepo,
) -> None:
    added = ready.add_revision("alpha", "b2", "a1", "CREATE TABLE more (id integer)")
    assert ready.invoke("db.migrate", "--service", "alpha").code == 0
    added.unlink()
    ready.add_revision("beta", "b2", "a1", "CREATE TABLE more (id integer)")
    ready.add_revision("gamma", "b2", "a1", "CREATE TABLE more (id integer)")
    ready.register(
        *[
            entry | ({"migrate_after": ["alpha"]} if entry["name"] == "gamma" else {})
            for entry in ready.services
        ]
    )
    ran = ready.invoke("db.prepare", "--json")
    assert (ran.code, ran.statuses["beta"]) == (4, "OK")
    found = row(ran, "alpha")
    assert (found["status"], found["state"]) == ("SKIPPED", "UNKNOWN REVISION")
    assert "not prepared: revision b2 is not in the code" in found["detail"]
    assert "`invoke db.reset --service alpha`" in found["hint"]
    waits = "not prepared: alpha, which must come first, was not prepared"
    assert details(ran)["gamma"] == waits
    status = ready.invoke("db.status", "--json")
    assert [r["current"] for r in status.json["services"]] == ["b2", "b2", "a1"]


def test_only_selected_services_are_prepared(monorepo: Monorepo) -> None:
    ran = without_initdb(monorepo).invoke("db.prepare", "--json", "--service", "beta")
    assert (ran.code, details(ran)) == (0, {"beta": "migrated, seeded"})
    servers = {data.parent.name for data in monorepo.data_directories()}
    assert {"alpha_db", "beta_db", "gamma_db"} & servers == {"beta_db"}


def test_a_revision_that_fails_does_not_keep_the_others_from_being_prepared(
    ready: Monorepo,
) -> None:
    ready.add_revision("beta", "b2", "a1", "SELECT 1 / 0")
    ran = ready.invoke("db.prepare", "--json")
    assert (ran.code, ran.statuses["beta"], ran.statuses["gamma"]) == (1, "FAILED", "OK")
    ready.write("services/alpha_service/alembic/versions/c3.py", "revision = (")
    ready.add_revision("gamma", "b2", "a1", "CREATE TABLE more (id integer)")
    ran = ready.invoke("db.prepare", "--json")
    assert (ran.code, row(ran, "alpha")["code"]) == (1, "revisions-unreadable")
    assert (row(ran, "gamma")["status"], row(ran, "gamma")["to"]) == ("OK", "b2")


def test_a_missing_database_of_several_services_is_copied_from_a_template() -> None:
    with root_and_two() as monorepo:
        assert monorepo.invoke("db.reset").code == 0
        admin = monorepo.url("root", database="postgres")
        for flags, detail in (((), "copied"), (("--service", "root"), "migrated, seeded")):
            ask(admin, f"DROP DATABASE {DATABASE} WITH (FORCE)")
            ran = monorepo.invoke("db.prepare", "--json", *flags)
            assert (ran.code, set(details(ran).values())) == (0, {detail})
        assert monorepo.invoke("db.prepare").code == 0
        assert monorepo.invoke("db.status", "--check").code == 0


def test_the_hook_on_the_page_prepares_after_a_checkout(ready: Monorepo) -> None:
    (hook,) = re.findall(r"^```sh\n(#!.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)

    def git(*arguments: str) -> str:
        who = ("-c", "user.name=test", "-c", "user.email=test@localhost")
        environment = {**clean_environment(), **ready.environment}
        environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
        ran = subprocess.run(
            ["git", *who, *arguments],
            cwd=ready.root,
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        )
        return ran.stdout + ran.stderr

    git("init", "--initial-branch", "main")
    git("add", ".")
    git("commit", "-m", "Begin")
    git("switch", "-c", "more")
    ready.add_revision("alpha", "b2", "a1", "CREATE TABLE more (id integer)")
    git("add", ".")
    git("commit", "-m", "Add more")
    git("switch", "main")
    for name in ("post-checkout", "post-merge"):
        path = ready.write(f".git/hooks/{name}", hook)
        path.chmod(0o755)
    assert "nothing to do" in git("switch", "-c", "other")
    assert "db.prepare" not in git("checkout", "--", "services.json")
    assert row(ready.invoke("db.status", "--json"), "alpha")["current"] == "a1"
    assert "migrated" in git("merge", "more")
    assert "UNKNOWN REVISION" in git("switch", "main")


def details(ran: Ran) -> dict[str, str]:
    """Return the detail of each service."""
    return {service["service"]: service["detail"] for service in ran.json["services"]}


def row(ran: Ran, name: str) -> dict[str, Any]:
    """Return the object of a service in a JSON document."""
    (found,) = [service for service in ran.json["services"] if service["service"] == name]
    return dict(found)


def transactions(monorepo: Monorepo) -> list[int]:
    """Return the number of transactions that changed each server."""
    sql = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text"
    return [int(ask(monorepo.url(name), sql)[0][0]) for name in NAMES]
