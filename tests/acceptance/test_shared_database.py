"""Services that keep their Alembic histories in one database, through the command line."""

import json
from collections.abc import Iterator

import pytest

from tests.support.histories import DATABASE, add_history, root_and_two, write_revision
from tests.support.monorepo import ALEMBIC_INI, ENV_PY, Monorepo, Ran, empty_monorepo
from tests.support.postgres import ask

RELATIONS = """\
SELECT format('%s.%s', schemaname, tablename) FROM pg_tables
WHERE schemaname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1"""


@pytest.fixture
def monorepo() -> Iterator[Monorepo]:
    with root_and_two() as made:
        yield made


def test_histories_of_one_database_are_reset_together(monorepo: Monorepo) -> None:
    first = monorepo.invoke("db.reset", "--json")
    assert (first.code, details(first)) == (0, dict.fromkeys(NAMES, "migrated, seeded"))
    assert tables(monorepo) == [
        "orders.item",
        "orders.orders_version",
        "public.alembic_version",
        "public.tenant",
        "stock.item",
        "stock.stock_version",
    ]

    # A template contains the tables of all services.
    again = monorepo.invoke("db.reset", "--json", "--service", "stock")
    assert (again.code, details(again)) == (0, dict.fromkeys(NAMES, "copied"))
    (note,) = again.json["notes"]
    assert note.startswith("orders, root: reset together with stock")
    assert facts(monorepo.invoke("db.status", "--json", "--check"), "current", "seeded") == {
        "orders": ("a1", "yes"),
        "stock": ("a1", "yes"),
        "root": ("a2", "yes"),
    }

    # A changed input of one service invalidates the template of all.
    write_revision(monorepo, "stock", "a2", "a1", "CREATE TABLE stock.more (id integer)")
    assert monorepo.invoke("db.status", "--check").code == 4
    third = monorepo.invoke("db.reset", "--json")
    assert (third.code, details(third)) == (0, dict.fromkeys(NAMES, "migrated, seeded"))
    (reset,) = set(facts(monorepo.invoke("db.status", "--json"), "reset").values())
    assert reset == ("rebuilt: its files changed",)


def test_in_testing_the_histories_share_a_database_of_their_own(monorepo: Monorepo) -> None:
    assert monorepo.invoke("db.migrate").code == 0
    before = tables(monorepo)
    testing = monorepo.invoke("db.reset", "--json", env={"HULEEDU_ENVIRONMENT": "testing"})
    assert (testing.code, details(testing)) == (0, dict.fromkeys(NAMES, "migrated, seeded"))
    assert tables(monorepo, f"{DATABASE}_test") == before
    tenants = "SELECT id FROM tenant"
    assert ask(monorepo.url("root", database=f"{DATABASE}_test"), tenants) == [(7,)]
    assert ask(monorepo.url("root", database=DATABASE), tenants) == []


def test_a_failed_service_aborts_those_that_share_its_database(monorepo: Monorepo) -> None:
    assert monorepo.invoke("db.reset").code == 0
    made = "CREATE TABLE stock.more (id integer)"
    write_revision(monorepo, "stock", "a2", "a1", made, "SELECT 1 / 0")
    failed = monorepo.invoke("db.reset", "--json")
    assert failed.code == 1
    assert failed.statuses == {"orders": "ABORTED", "stock": "FAILED", "root": "ABORTED"}
    because = "not finished: stock, which shares the database, did not succeed"
    assert details(failed)["orders"] == details(failed)["root"] == because
    assert any(f"{DATABASE}__old" in note for note in failed.json["notes"])

    write_revision(monorepo, "stock", "a2", "a1", made)
    assert monorepo.invoke("db.migrate").code == 0
    assert monorepo.invoke("db.seed").code == 0
    assert monorepo.invoke("db.status", "--check").code == 0
    # A database that was completed by `db.migrate` is not saved as a template.
    assert set(details(monorepo.invoke("db.reset", "--json")).values()) == {"migrated, seeded"}


def test_a_failed_root_history_aborts_the_others_before_they_begin(monorepo: Monorepo) -> None:
    write_revision(monorepo, "root", "a2", "a1", "SELECT 1 / 0")
    failed = monorepo.invoke("db.migrate", "--json")
    assert failed.statuses == {"orders": "ABORTED", "stock": "ABORTED", "root": "FAILED"}
    assert details(failed)["stock"] == "root did not succeed, and must run first"
    assert tables(monorepo) == []


def test_one_of_several_histories_is_migrated_alone(monorepo: Monorepo) -> None:
    assert monorepo.invoke("db.reset").code == 0
    write_revision(monorepo, "stock", "a2", "a1", "CREATE TABLE stock.more (id integer)")
    ran = monorepo.invoke("db.migrate", "--json", "--service", "stock")
    assert facts(ran, "from", "to") == {"stock": ("a1", "a2")}
    assert monorepo.invoke("db.status", "--check").code == 0


@pytest.mark.parametrize("computed", ["", "{}"], ids=["stated", "computed"])
def test_two_histories_in_one_version_table_are_refused(computed: str) -> None:
    with empty_monorepo() as monorepo:
        for name in ("orders", "stock"):
            add_history(monorepo, name, f"**{computed}" if computed else "")
            write_revision(monorepo, name, "a1", None, f"CREATE TABLE {name} (id integer)")
            monorepo.path(f"database/seed-scripts/seed_{name}.py").unlink()
        ran = monorepo.invoke("db.reset", "--json")
        refused = next(row for row in ran.json["services"] if row["code"])
        assert (ran.code, refused["code"]) == (3, "same-version-table")
        assert refused["detail"].startswith("orders and stock share the database 'shop'")
        assert "version_table" in refused["hint"]


def test_two_configurations_in_one_directory_with_one_variable_share_a_database() -> None:
    """As with `alembic -c orders.ini`: one directory, one DATABASE_URL, two histories."""
    with empty_monorepo() as monorepo:
        add_history(monorepo, "core", directory="app", url_variable="DATABASE_URL", seeds=[])
        shared = dict(monorepo.services[0])
        monorepo.register(
            {**shared, "alembic_config": "core.ini"},
            {**shared, "name": "audit", "alembic_config": "audit.ini", "migrate_after": ["core"]},
        )
        config = "import os\n\n\ndef database_url():\n    return os.environ['DATABASE_URL']\n"
        monorepo.write("app/config.py", config)
        for name in ("core", "audit"):
            ini = ALEMBIC_INI.replace("= alembic", f"= {name}")
            monorepo.write(f"app/{name}.ini", ini)
            configured = f'connection=connection, version_table="{name}"'
            env_py = ENV_PY.replace("connection=connection", configured)
            monorepo.write(f"app/{name}/env.py", env_py)
            monorepo.write(f"app/{name}/script.py.mako", "")
        write_revision(monorepo, "core", "a1", None, "CREATE TABLE tenant (id integer PRIMARY KEY)")
        references = "CREATE TABLE entry (tenant integer REFERENCES tenant (id))"
        write_revision(monorepo, "audit", "b1", None, references)
        for name in ("core", "audit"):
            versions = monorepo.path(f"services/{name}_service/alembic/versions")
            versions.rename(monorepo.path(f"app/{name}/versions"))

        assert monorepo.invoke("db.reset").code == 0
        ran = monorepo.invoke("db.status", "--json", "--check")
        assert (ran.code, facts(ran, "current")) == (0, {"core": ("a1",), "audit": ("b1",)})


def test_the_check_accepts_services_that_state_their_shared_database(monorepo: Monorepo) -> None:
    told = monorepo.invoke("services.check", "--json").json
    causes = [problem["cause"] for row in told["services"] for problem in row["problems"]]
    assert not [cause for cause in causes if "same database" in cause]


def test_a_database_that_is_shared_by_accident_is_refused(monorepo: Monorepo) -> None:
    entries = [{**entry, "shared_database": entry["name"] != "root"} for entry in monorepo.services]
    monorepo.write("services.json", json.dumps({"services": entries}))
    ran = monorepo.invoke("db.reset")
    assert ran.code == 2
    assert '"shared_database": true' in ran.err


NAMES = ("orders", "stock", "root")


def details(ran: Ran) -> dict[str, str]:
    return {row["service"]: row["detail"] for row in ran.json["services"]}


def facts(ran: Ran, *names: str) -> dict[str, tuple[object, ...]]:
    return {row["service"]: tuple(row[name] for name in names) for row in ran.json["services"]}


def tables(monorepo: Monorepo, database: str = DATABASE) -> list[str]:
    url = monorepo.url("root", database=database)
    return [name for (name,) in ask(url, RELATIONS)]
