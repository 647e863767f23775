"""`prod` commands on services whose histories share one database."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.db_runs import without_initdb
from tests.support.histories import add_history, root_and_two, write_revision
from tests.support.monorepo import Monorepo, Ran
from tests.support.postgres import ask

NAMES = ("orders", "stock", "root")
YES = ("--yes", "--host", "localhost")
ROLE, ROLE_PASSWORD, DATABASE = "shop_owner", "the-owners-own", "shop_live"


@dataclass
class Live:
    """Three histories, and an empty database of production."""

    monorepo: Monorepo
    variables: dict[str, str] = field(default_factory=dict)

    def invoke(self, *arguments: str) -> Ran:
        return self.monorepo.invoke(*arguments, env=self.variables)

    def at(self, name: str, table: str) -> str:
        url = self.monorepo.url(name, database=DATABASE)
        ((found,),) = ask(url, f"SELECT version_num FROM {table}")
        return str(found)


@pytest.fixture
def live() -> Iterator[Live]:
    with root_and_two() as monorepo:
        assert without_initdb(monorepo).invoke("db.up").code == 0
        server = monorepo.url("root", database="postgres")
        ask(server, f"CREATE ROLE {ROLE} LOGIN PASSWORD '{ROLE_PASSWORD}'")
        ask(server, f"CREATE DATABASE {DATABASE} OWNER {ROLE}")
        login = f"{ROLE}:{ROLE_PASSWORD}@localhost:{monorepo.port('root')}"
        url = f"postgresql+asyncpg://{login}/{DATABASE}?ssl=disable"
        overrides = {f"{name.upper()}_SERVICE_DATABASE_URL": url for name in NAMES}
        variables = {
            "HULEEDU_ENVIRONMENT": "production",
            "HULEEDU_DRIFT": "false",
            "HULEEDU_REHEARSAL": "false",
        }
        yield Live(monorepo, {**variables, **overrides})


def test_histories_of_one_database_are_migrated_in_their_order(live: Live, tmp_path: Path) -> None:
    plan = live.invoke("prod.plan", "--json")
    assert facts(plan, "to", "pending") == {
        "orders": ("a1", 1),
        "stock": ("a1", 1),
        "root": ("a2", 2),
    }
    ran = live.invoke("prod.migrate", "--json", "--backup-dir", str(tmp_path), *YES)
    assert ran.code == 0, ran.err + ran.out
    assert facts(ran, "from", "to")["root"] == ("no revision", "a2")
    assert live.at("root", "public.alembic_version") == "a2"
    assert live.at("orders", "orders.orders_version") == "a1"
    assert len(list(tmp_path.glob("*.dump"))) == 1

    write_revision(live.monorepo, "stock", "a2", "a1", "CREATE TABLE stock.more (id integer)")
    # The tables of the other histories, and the pending revision, are not drift.
    assert live.invoke("prod.drift", "--check").code == 0
    alone = live.invoke("prod.migrate", "--json", "--service", "stock", *YES)
    assert facts(alone, "from", "to") == {"stock": ("a1", "a2")}
    assert facts(live.invoke("prod.status", "--json", "--check"), "pending") == dict.fromkeys(
        NAMES, (0,)
    )


def test_a_history_after_a_failed_one_is_not_begun(live: Live) -> None:
    write_revision(live.monorepo, "root", "a2", "a1", "CREATE TABLE tenant ()", "SELECT 1 / 0")
    ran = live.invoke("prod.migrate", "--json", "--keep-going", *YES)
    assert ran.code == 1
    assert ran.statuses == {"orders": "ABORTED", "stock": "ABORTED", "root": "FAILED"}
    details = {row["service"]: row["detail"] for row in ran.json["services"]}
    assert details["orders"] == "not begun: root must be migrated first"
    assert set(facts(ran, "to").values()) == {("no revision",)}


def test_two_histories_in_one_version_table_are_an_error(live: Live) -> None:
    add_history(live.monorepo, "twin", directory="services/twin_service")
    entries = live.monorepo.services
    live.monorepo.register(*entries[2:])
    live.variables["TWIN_SERVICE_DATABASE_URL"] = live.variables["ROOT_SERVICE_DATABASE_URL"]
    ran = live.invoke("prod.validate", "--json")
    codes = {p.get("code") for row in ran.json["services"] for p in row["problems"]}
    assert (ran.code, "same-version-table" in codes) == (1, True)


def test_a_database_that_is_shared_by_accident_is_refused(live: Live) -> None:
    entries = [{**entry, "shared_database": False} for entry in live.monorepo.services]
    names = ("one", "two", "three")
    entries = [{**entry, "database": name} for entry, name in zip(entries, names, strict=True)]
    live.monorepo.register(*entries)
    ran = live.invoke("prod.migrate", *YES)
    assert ran.code == 2
    assert "has the same database as orders" in ran.err


def facts(ran: Ran, *names: str) -> dict[str, tuple[object, ...]]:
    return {row["service"]: tuple(row[name] for name in names) for row in ran.json["services"]}
