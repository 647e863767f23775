"""The state of the services of a run, and how they refer to each other."""

import pytest

from huleedu_tasks.config.registry import Registry, Service
from huleedu_tasks.db.run import Run
from huleedu_tasks.db.service_run import Context, ServiceRun, begin
from huleedu_tasks.guard import Guard
from huleedu_tasks.migrations.alembic_history import AlembicHistories
from huleedu_tasks.migrations.inputs import Present
from huleedu_tasks.report import Silence
from huleedu_tasks.servers.existing import ExistingServers
from huleedu_tasks.templates.policy import TemplatePolicy
from tests.support.values import ROOT, service, settings

FIRST = service("first", database="common", shared_database=True, compose_service="db")
SECOND = service(
    "second",
    database="common",
    shared_database=True,
    compose_service="db",
    migrate_after=("first", "alone"),
    seed_after=("alone",),
)
ALONE = service("alone", compose_service="db")
ELSEWHERE = service("elsewhere", port=5434)
ALL = (FIRST, ALONE, SECOND, ELSEWHERE)


def context_of(*services: Service) -> Context:
    stated = settings(HULEEDU_DB_USER="user", HULEEDU_DB_PASSWORD="password")
    provider = ExistingServers(reason="a test")
    context = Context(
        settings=stated,
        provider=provider,
        registry=Registry(path=ROOT / "services.json", services=ALL),
        guard=Guard(settings=stated, provider=provider),
        templates=TemplatePolicy(
            settings=stated, present=Present.of(stated), keeps_templates=False, fresh=False
        ),
        histories=AlembicHistories(settings=stated, state=None),
    )
    begin(context, services)
    return context


def names(runs: "list[ServiceRun] | tuple[ServiceRun, ...]") -> list[str]:
    return [run.name for run in runs]


def test_services_that_share_a_database_have_the_same_object_and_the_first_one_leads() -> None:
    first, alone, second, _ = context_of(*ALL).services
    assert first.database is second.database
    assert alone.database is not first.database
    assert [run.is_leader for run in (first, alone, second)] == [True, True, False]


def test_services_on_one_server_have_the_same_object() -> None:
    first, alone, second, elsewhere = context_of(*ALL).services
    assert first.server is alone.server is second.server is not elsewhere.server
    assert names(first.server.runs) == ["first", "alone", "second"]


def test_services_that_are_not_selected_are_not_awaited() -> None:
    *_, second = context_of(FIRST, SECOND).services
    assert names(list(second.migrate_after)) == ["first"]
    assert names(list(second.seed_after)) == ["first"]


def test_a_service_of_a_shared_database_that_is_not_selected_is_a_member_outside_the_run() -> None:
    context = context_of(SECOND, ELSEWHERE)
    second, _ = context.services
    assert names(second.database.members) == ["first", "second"]
    assert names(second.server.runs) == ["second"]
    assert [outside.name for outside in second.server.outside] == ["first", "alone"]
    assert second.server.databases_outside(context.settings) == {"common", "huleedu_alone"}


@pytest.mark.parametrize("services", [(FIRST,), ALL])
def test_a_run_begins_with_an_outcome_for_each_service(services: tuple[Service, ...]) -> None:
    run = Run(context=context_of(*services), jobs=1, progress=Silence())
    assert [outcome.service for outcome in run.outcomes] == [one.name for one in services]
    assert all(run.outcomes)
