"""In testing each service has a database of its own, beside that of development."""

import json
from collections.abc import Iterator

import pytest

from tests.support.monorepo import Monorepo, Ran
from tests.support.postgres import ask
from tests.support.prepared import running_monorepo

TESTING = {"HULEEDU_ENVIRONMENT": "testing"}
COUNT = "SELECT count(*) FROM note"
OWN_ROW = "INSERT INTO note VALUES (3, 'by hand')"
SEEDED, CHANGED = [(2,)], [(3,)]
TESTS = "huleedu_alpha_test"
VARIABLE = "ALPHA_SERVICE_DATABASE_URL"


@pytest.fixture(scope="module")
def school() -> Iterator[Monorepo]:
    """One service that has both databases."""
    with running_monorepo(["alpha"]) as monorepo:
        assert reset(monorepo, **TESTING).code == 0
        yield monorepo


def reset(monorepo: Monorepo, *arguments: str, **variables: str) -> Ran:
    return monorepo.invoke("db.reset", "--json", *arguments, env=variables)


def own_url(monorepo: Monorepo, database: str) -> str:
    return monorepo.url("alpha", database=database).replace("postgresql", "postgresql+asyncpg")


def error_of(ran: Ran) -> str:
    (outcome,) = ran.json["services"]
    return str(outcome["code"])


def tag_of(monorepo: Monorepo, database: str) -> str:
    comments = "SELECT shobj_description(oid, 'pg_database') FROM pg_database"
    ((comment,),) = ask(monorepo.url("alpha"), f"{comments} WHERE datname = '{database}'")
    return str(json.loads(comment.partition(" ")[2])["environment"])


def test_a_reset_changes_only_the_database_of_its_environment(school: Monorepo) -> None:
    development, testing = school.url("alpha"), school.url("alpha", database=TESTS)
    ask(development, OWN_ROW)
    ask(testing, OWN_ROW)
    assert reset(school, **TESTING).code == 0
    assert ask(testing, COUNT) == SEEDED
    assert ask(development, COUNT) == CHANGED
    ask(testing, OWN_ROW)
    assert reset(school).code == 0
    assert ask(development, COUNT) == SEEDED
    assert ask(testing, COUNT) == CHANGED
    assert tag_of(school, "huleedu_alpha") == "development"
    assert tag_of(school, TESTS) == "testing"
    assert reset(school, **TESTING).code == 0


@pytest.mark.parametrize(("command", "rows"), [("db.reset", 2), ("db.migrate", 0)])
def test_the_first_command_in_testing_creates_the_database(
    school: Monorepo, command: str, rows: int
) -> None:
    ask(school.url("alpha", database="postgres"), f"DROP DATABASE {TESTS}")
    ran = school.invoke(command, env=TESTING)
    assert ran.code == 0, ran.err
    assert ask(school.url("alpha", database=TESTS), COUNT) == [(rows,)]
    assert reset(school, **TESTING).code == 0


def test_an_existing_server_gets_the_database(school: Monorepo) -> None:
    ask(school.url("alpha", database="postgres"), f"DROP DATABASE {TESTS}")
    ran = reset(school, **TESTING, HULEEDU_PROVIDER="existing")
    assert ran.code == 0, ran.out
    assert ask(school.url("alpha", database=TESTS), COUNT) == SEEDED


def test_an_override_names_the_database_in_testing_as_well(school: Monorepo) -> None:
    ran = reset(school, **TESTING, **{VARIABLE: own_url(school, "other_tests")})
    assert ran.code == 0, ran.out
    assert ask(school.url("alpha", database="other_tests"), COUNT) == SEEDED


@pytest.mark.parametrize("command", ["db.reset", "db.migrate", "db.seed"])
@pytest.mark.parametrize("provider", ["auto", "existing"])
@pytest.mark.parametrize(
    ("environment", "database"), [("testing", "huleedu_alpha"), ("development", TESTS)]
)
def test_the_database_of_the_other_environment_is_refused(
    school: Monorepo, command: str, provider: str, environment: str, database: str
) -> None:
    ask(school.url("alpha", database=database), f"{OWN_ROW} ON CONFLICT DO NOTHING")
    ran = school.invoke(
        command,
        "--json",
        env={
            "HULEEDU_ENVIRONMENT": environment,
            "HULEEDU_PROVIDER": provider,
            VARIABLE: own_url(school, database),
        },
    )
    assert (ran.code, error_of(ran)) == (3, "other-environment"), ran.out
    assert ask(school.url("alpha", database=database), COUNT) == CHANGED


def test_a_database_tagged_development_is_refused_in_testing(school: Monorepo) -> None:
    assert reset(school, **{VARIABLE: own_url(school, "third")}).code == 0
    ran = reset(school, **TESTING, **{VARIABLE: own_url(school, "third")})
    assert (ran.code, error_of(ran)) == (3, "environment-tag-mismatch"), ran.out
    assert ask(school.url("alpha", database="third"), COUNT) == SEEDED


def test_the_servers_data_is_kept_in_testing(school: Monorepo) -> None:
    ran = reset(school, "--volumes", **TESTING)
    assert (ran.code, error_of(ran)) == (3, "other-environment"), ran.out
    ask(school.url("alpha"), COUNT)


@pytest.mark.parametrize("command", ["db.migrate", "db.seed", "db.reset"])
def test_a_database_that_an_earlier_version_tagged_testing_is_tagged_again(
    school: Monorepo, command: str
) -> None:
    tag = json.dumps({"environment": "testing", "seeds": ""})
    ask(school.url("alpha"), f"COMMENT ON DATABASE huleedu_alpha IS 'huleedu-tasks {tag}'")
    assert school.invoke(command).code == 0
    assert tag_of(school, "huleedu_alpha") == "development"


def test_the_two_environments_may_share_one_database() -> None:
    with running_monorepo(["alpha"]) as monorepo:
        (alpha,) = monorepo.services
        monorepo.register({**alpha, "testing_database": "huleedu_alpha"})
        for variables in ({}, TESTING, {}):
            ran = reset(monorepo, **variables)
            assert ran.code == 0, ran.out
            ask(monorepo.url("alpha"), OWN_ROW)
        assert reset(monorepo, "--volumes", **TESTING).code == 0
        assert ask(monorepo.url("alpha"), COUNT) == SEEDED
