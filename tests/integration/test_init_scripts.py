"""Objects that only an init script of the compose file creates, on embedded servers."""

import json
from collections.abc import Iterator

import pytest

from tests.support.db_runs import without_initdb
from tests.support.monorepo import Monorepo, new_monorepo

SCRIPT = """\
-- CREATE ROLE commented;
CREATE DATABASE huleedu_alpha;
CREATE USER "Reader" NOLOGIN;
CREATE EXTENSION IF NOT EXISTS pg_trgm;
CREATE SCHEMA IF NOT EXISTS legacy;
"""
NOT_RUN = "init-scripts-not-run"


@pytest.fixture(scope="module")
def monorepo() -> Iterator[Monorepo]:
    with new_monorepo(["alpha"]) as made:
        without_initdb(made).write("init/01.sql", SCRIPT)
        server = {
            "image": "postgres:15",
            "ports": [f"127.0.0.1:{made.port('alpha')}:5432"],
            "volumes": ["./init:/docker-entrypoint-initdb.d:ro"],
        }
        made.write("compose.yaml", json.dumps({"services": {"alpha_db": server}}))
        yield made


@pytest.mark.parametrize(
    ("statement", "created", "remedy"),
    [
        ('GRANT ALL ON SCHEMA public TO "Reader"', "role 'Reader'", "Create each role in a"),
        ("CREATE TABLE legacy.word ()", "schema 'legacy'", "Create each schema in a revision"),
        (
            "CREATE INDEX ON t USING gin (relname gin_trgm_ops)",
            "extension 'pg_trgm'",
            'State "extensions": ["pg_trgm"] for alpha',
        ),
        ("SELECT * FROM nowhere", "", ""),
        ("CREATE TABLE nowhere.word ()", "", ""),
    ],
)
def test_a_migration_that_fails_without_such_an_object_names_the_script(
    monorepo: Monorepo, statement: str, created: str, remedy: str
) -> None:
    monorepo.add_revision("alpha", "b2", "a1", "CREATE TABLE t (relname text)", statement)
    ran = monorepo.invoke("db.reset", "--json")
    assert ran.code == 1
    (alpha,) = ran.json["services"]
    assert (alpha["code"] == NOT_RUN) is bool(created)
    if created:
        assert f"init/01.sql creates {created}, and embedded" in alpha["hint"]
        assert remedy in alpha["hint"]


def test_services_check_lists_the_objects(monorepo: Monorepo) -> None:
    (alpha,) = monorepo.invoke("services.check", "--json").json["services"]
    (found,) = [problem for problem in alpha["problems"] if problem.get("code") == NOT_RUN]
    assert found["level"] == "WARNING"
    assert "role 'Reader', extension 'pg_trgm', schema 'legacy'" in found["cause"]
    assert "commented" not in found["cause"]
