"""Alembic's template multidb: one configuration, several databases, each one a service."""

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

from huleedu_tasks.config.urls import resolve
from huleedu_tasks.migrations import runner
from huleedu_tasks.migrations.child_process import Alembic
from huleedu_tasks.migrations.results import Rendered
from huleedu_tasks.process import scratch_directory
from tests.support.db_runs import app_of, without_initdb
from tests.support.migrating import observation_of
from tests.support.monorepo import Monorepo, empty_monorepo, free_ports
from tests.support.postgres import ask

DIRECTORY = "services/ledger"
ENGINES = ("accounts", "audit")
REVISION = """\
revision = "a1"
down_revision = None


def upgrade(engine_name):
    globals()[f"upgrade_{engine_name}"]()


def upgrade_accounts():
    op.execute("CREATE TABLE account (id integer)")


def upgrade_audit():
    op.execute("CREATE TABLE entry (id integer)")
"""
COMPOSE = """\
services:
  bank_db:
    image: postgres:15
    environment: { POSTGRES_USER: bank, POSTGRES_PASSWORD: bank }
    ports: ["PORT:5432"]
"""
TABLES = (
    "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
    " ORDER BY relname"
)


def entry(engine: str, port: int) -> dict[str, object]:
    return {
        "name": engine,
        "port": port,
        "directory": DIRECTORY,
        "alembic_engine": engine,
        "compose_service": "ledger_db",
        "url_scheme": "postgresql+psycopg",
    }


@pytest.fixture(scope="module")
def ledger() -> Iterator[Monorepo]:
    with empty_monorepo() as monorepo:
        without_initdb(monorepo)
        directory = monorepo.path(DIRECTORY)
        directory.mkdir(parents=True)
        command = [sys.executable, "-m", "alembic", "init", "--template", "multidb", "alembic"]
        subprocess.run(command, cwd=directory, check=True, stdout=subprocess.DEVNULL)
        ini = monorepo.read(f"{DIRECTORY}/alembic.ini")
        ini = ini.replace("databases = engine1, engine2", f"databases = {', '.join(ENGINES)}")
        for stock, engine in zip(("engine1", "engine2"), ENGINES, strict=True):
            ini = ini.replace(f"[{stock}]", f"[{engine}]")
        monorepo.write(f"{DIRECTORY}/alembic.ini", ini)
        monorepo.write(
            f"{DIRECTORY}/alembic/versions/a1.py", f"from alembic import op\n\n{REVISION}"
        )
        (port,) = free_ports(1)
        monorepo.register(*(entry(engine, port) for engine in ENGINES))
        yield monorepo


@pytest.fixture(scope="module")
def reset(ledger: Monorepo) -> Monorepo:
    ran = ledger.invoke("db.reset", "--json")
    assert ran.code == 0, f"{ran.out}{ran.err}"
    return ledger


@pytest.mark.parametrize(("engine", "table"), [("accounts", "account"), ("audit", "entry")])
def test_each_database_has_its_own_tables_and_its_own_revision(
    reset: Monorepo, engine: str, table: str
) -> None:
    assert ask(reset.url(engine), TABLES) == sorted([(table,), ("alembic_version",)])
    assert ask(reset.url(engine), "SELECT version_num FROM alembic_version") == [("a1",)]


def test_a_second_reset_uses_templates_and_the_status_shows_both(reset: Monorepo) -> None:
    again = reset.invoke("db.reset", "--json")
    assert [row["detail"] for row in again.json["services"]] == ["copied", "copied"]
    assert reset.invoke("db.status", "--check").code == 0


def test_one_database_is_migrated_without_the_other(reset: Monorepo) -> None:
    ask(reset.url("audit"), "DROP TABLE entry")
    ask(reset.url("audit"), "DELETE FROM alembic_version")
    ran = reset.invoke("db.migrate", "--service", "audit", "--json")
    assert ran.statuses == {"audit": "OK"}
    assert ask(reset.url("audit"), TABLES) == [("alembic_version",), ("entry",)]


def test_services_check_asks_each_database(ledger: Monorepo) -> None:
    checked = ledger.invoke("services.check", "--json")
    assert checked.code == 0, checked.out
    assert [row["env.py"] for row in checked.json["services"]] == ["follows", "follows"]


def test_an_unknown_engine_is_reported(reset: Monorepo) -> None:
    first, second = reset.services
    kept = reset.read("services.json")
    reset.register(first, {**second, "alembic_engine": "audits"})
    ask(reset.url("audit"), "DELETE FROM alembic_version")
    ran = reset.invoke("db.migrate", "--service", "audit", "--json")
    reset.write("services.json", kept)
    assert ran.code == 1
    assert "has accounts, audit, not 'audits'" in ran.json["services"][0]["detail"]


@pytest.mark.parametrize("command", ["db.reset", "services.check"])
def test_one_entry_for_all_databases_has_a_hint_with_the_entries_to_write(
    ledger: Monorepo, command: str
) -> None:
    kept = ledger.read("services.json")
    (port,) = free_ports(1)
    stated = entry("accounts", port)
    del stated["alembic_engine"]
    whole = {"name": "whole", "url_variable": "WHOLE_URL", "compose_service": "whole_db"}
    ledger.register({**stated, **whole})
    ran = ledger.invoke(command, "--json")
    ledger.write("services.json", kept)
    assert ran.code in (1, 3)
    hints = json.dumps(ran.json["services"][0]).replace('\\"', '"')
    assert '"alembic_engine": "accounts" and "alembic_engine": "audit"' in hints


def test_rendering_the_sql_of_one_database_writes_no_file(
    reset: Monorepo,
) -> None:
    app = app_of(reset)
    (service,) = app.services(["audit"])
    url = resolve(service, app.settings).url

    async def render() -> Rendered:
        with scratch_directory() as directory:
            session = await observation_of(url, directory / "events")
            alembic = Alembic(service=service, url=url, settings=app.settings)
            return await runner.render(alembic, session, start=())

    rendered = asyncio.run(render())
    assert not rendered.problem
    assert "CREATE TABLE entry" in rendered.sql["a1"]
    assert not list(reset.path(DIRECTORY).glob("*.sql"))


def test_discovery_writes_an_entry_for_each_database(ledger: Monorepo) -> None:
    (port,) = free_ports(1)
    with empty_monorepo("bank") as bank:
        shutil.copytree(ledger.path(DIRECTORY), bank.path(DIRECTORY))
        ini = bank.read(f"{DIRECTORY}/alembic.ini").splitlines()
        for name, stock in zip(ENGINES, ("dbname", "dbname2"), strict=True):
            url = f"sqlalchemy.url = postgresql+psycopg://bank:bank@localhost:{port}/{name}"
            ini[ini.index(f"sqlalchemy.url = driver://user:pass@localhost/{stock}")] = url
        bank.write(f"{DIRECTORY}/alembic.ini", "\n".join(ini))
        bank.write("compose.yaml", COMPOSE.replace("PORT", str(port)))
        found = bank.invoke("services.discover")
        assert found.code == 0, found.out + found.err
        entries = {entry["alembic_engine"]: entry for entry in bank.services}
        assert entries.keys() == set(ENGINES)
        for name, stated in entries.items():
            assert (stated["name"], stated["port"]) == (name, port)
            assert stated["url_scheme"] == "postgresql+psycopg"
        reset = bank.invoke("db.reset", "--json")
        assert reset.code == 0, f"{reset.out}{reset.err}"
        again = bank.invoke("services.discover")
        assert again.code == 0, again.err
        assert {entry["alembic_engine"]: entry for entry in bank.services} == entries


def test_a_new_revision_has_functions_for_every_database(reset: Monorepo) -> None:
    env = reset.read(f"{DIRECTORY}/alembic/env.py")
    models = "import sqlalchemy as sa\nmetadata = sa.MetaData()\n"
    models += 'sa.Table("entry", metadata, sa.Column("id", sa.Integer), sa.Column("text", sa.Text))'
    reset.write(
        f"{DIRECTORY}/alembic/env.py",
        env.replace("target_metadata = {}", f'{models}\ntarget_metadata = {{"audit": metadata}}'),
    )
    try:
        ran = reset.invoke("db.revision", "--service", "audit", "-m", "add a text", "--json")
        assert ran.code == 0, f"{ran.out}{ran.err}"
        (row,) = ran.json["services"]
        assert "ADD COLUMN text TEXT" in row["revisions"][0]["sql"]
        path = reset.path(row["revisions"][0]["path"])
        assert {f"def upgrade_{engine}()" in path.read_text() for engine in ENGINES} == {True}
        path.unlink()
    finally:
        reset.write(f"{DIRECTORY}/alembic/env.py", env)
