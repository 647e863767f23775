"""The problems that follow from the state of a database, and their presentation."""

from dataclasses import replace
from typing import Any

import pytest

from huleedu_tasks.postgres.inspection import Facts, Identity
from huleedu_tasks.prod.problems import (
    FEW_CONNECTIONS,
    OLDEST_VERSION,
    Validated,
    judge,
    same_database,
)
from huleedu_tasks.report import Level, Outcome, Problem, Report, Status
from huleedu_tasks.screen.console import Screen
from tests.support.values import service, target

TAG = 'huleedu-tasks {"environment": "production"}'
SOUND = Facts(
    identity=Identity(system_identifier=1, started="0", database_oid=1),
    version=OLDEST_VERSION,
    encrypted=True,
    in_recovery=False,
    read_only=False,
    through_pooler=False,
    schema="public",
    may_create=True,
    not_owned=(),
    extensions_missing=(),
    extensions_forbidden=(),
    invalid_indexes=(),
    old_sessions=(),
    hidden_sessions=0,
    free_connections=FEW_CONNECTIONS,
    comment=TAG,
    may_tag=True,
)


def judged(revisions: tuple[str, ...] = ("a1",), **facts: Any) -> list[tuple[Level, str]]:
    found = judge(target(), replace(SOUND, **facts), revisions)
    return [(problem.level, problem.cause) for problem in found]


def test_facts_at_every_threshold_are_not_a_problem() -> None:
    assert judged() == []


@pytest.mark.parametrize("version", [OLDEST_VERSION - 1, 9])
def test_an_old_server_is_a_warning(version: int) -> None:
    cause = f"PostgreSQL {version} is older than {OLDEST_VERSION}"
    assert judged(version=version) == [(Level.WARNING, cause)]


@pytest.mark.parametrize(("free", "said"), [(FEW_CONNECTIONS - 1, FEW_CONNECTIONS - 1), (-3, 0)])
def test_few_connections_are_a_warning(free: int, said: int) -> None:
    cause = f"only {said} more connections are allowed"
    assert judged(free_connections=free) == [(Level.WARNING, cause)]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("a",), "a"),
        (("a", "b", "c"), "a, b, c"),
        (("a", "b", "c", "d", "e"), "a, b, c and 2 more"),
    ],
)
def test_of_many_names_only_a_few_are_shown(names: tuple[str, ...], said: str) -> None:
    assert judged(not_owned=names) == [
        (Level.ERROR, f"'u' does not own {said}, and only the owner may alter them")
    ]


def test_for_a_role_without_any_schema_the_hint_names_one() -> None:
    ((level, cause),) = judged(schema="", may_create=False)
    assert (level, cause) == (
        Level.ERROR,
        "'u' may not create tables in any schema of its search path",
    )


def test_every_problem_is_reported() -> None:
    found = judged(in_recovery=True, read_only=True, comment="", revisions=(), free_connections=0)
    assert [level for level, _ in found] == [
        Level.ERROR,
        Level.ERROR,
        Level.WARNING,
        Level.INFO,
        Level.INFO,
    ]


@pytest.mark.parametrize(
    ("second", "same"),
    [
        ({}, True),
        ({"database_oid": 2}, False),
        # A server restored from a backup of the first.
        ({"started": "1"}, False),
        ({"system_identifier": None}, False),
    ],
)
def test_databases_are_compared_by_identity(second: dict[str, Any], same: bool) -> None:
    other = replace(SOUND, identity=replace(SOUND.identity, **second))
    validated = [
        Validated(target=target("a"), problems=(), facts=SOUND),
        Validated(target=target("unreached"), problems=()),
        Validated(target=target("b"), problems=(), facts=other),
    ]
    assert list(same_database(validated)) == (["b"] if same else [])


# The presentation.


def report(**problems: tuple[Problem, ...]) -> Report:
    return Report(
        command="prod.validate",
        environment="staging",
        provider="external",
        provider_reason="db.example.com:5432",
        outcomes=tuple(Outcome(service=name, problems=found) for name, found in problems.items()),
        places={"db.example.com:5432": list(problems)},
    )


def test_problems_are_listed_below_the_table_once_most_severe_first(
    capsys: pytest.CaptureFixture[str],
) -> None:
    info = Problem(level=Level.INFO, cause="[no] environment tag yet")
    error = Problem(level=Level.ERROR, cause="a standby", remedy="Name the primary.")
    Screen().show(report(a=(info,), b=(), c=(info, error)))
    assert capsys.readouterr().out.splitlines() == [
        "STAGING: db.example.com:5432",
        "",
        "service  status  detail",
        "a        OK",
        "b        OK",
        "c        OK",
        "",
        "ERROR  c: a standby",
        "  Name the primary.",
        "INFO  a, c: [no] environment tag yet",
    ]


def test_several_servers_are_listed_with_their_services(
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {"one:5432": ["a", "c"], "two:5432": ["b"]}
    shown = replace(report(a=(), b=(), c=()), provider_reason="2 servers", places=places)
    Screen().show(shown)
    assert capsys.readouterr().out.startswith(
        "STAGING: 2 servers\n  one:5432: a, c\n  two:5432: b\n\nservice "
    )


def test_in_json_each_service_has_its_problems_and_an_unvalidated_one_none() -> None:
    error = Problem(level=Level.ERROR, cause="a standby", remedy="Name the primary.")
    document = {"level": "ERROR", "cause": "a standby", "remedy": "Name the primary."}
    assert Outcome(service="a", problems=(error,)).as_json()["problems"] == [document]
    assert Outcome(service="a", problems=()).as_json()["problems"] == []
    assert "problems" not in Outcome(service="a", status=Status.OK).as_json()


# The variable of the direct URL.


@pytest.mark.parametrize(
    ("usual", "direct"),
    [
        ("ORDERS_SERVICE_DATABASE_URL", "ORDERS_SERVICE_DIRECT_DATABASE_URL"),
        ("BCS_DATABASE_URL", "BCS_DIRECT_DATABASE_URL"),
        ("DATABASE_URL", "DIRECT_DATABASE_URL"),
        ("CONDUCTOR_DSN", "CONDUCTOR_DSN_DIRECT_DATABASE_URL"),
    ],
)
def test_the_direct_url_variable_is_named_after_the_usual_one(usual: str, direct: str) -> None:
    assert service(url_variable=usual).direct_url_variable == direct
