"""Plan entries: written to a file, read back, and compared with the current state."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from huleedu_tasks.errors import ConfigurationError, Refused
from huleedu_tasks.postgres.inspection import Identity
from huleedu_tasks.prod.plan import Planned
from huleedu_tasks.prod.plan_file import PlanEntry, plan_document, read_plan, stale, write_plan
from huleedu_tasks.report import Level, PlannedRevision, Problem
from tests.support.values import target

SERVER = "db.example.org:5432"
PIN = PlanEntry(
    service="orders",
    server=SERVER,
    database="huleedu_orders",
    database_oid=16384,
    # A floating-point number cannot represent it exactly.
    system_identifier="7431290183746512903",
    before=("a1",),
    after=("c3",),
    files={"b2": "2" * 64, "c3": "3" * 64},
)
REVISIONS = (
    PlannedRevision(
        revision="b2",
        message="Björn's revision",
        path="services/orders_service/alembic/versions/b2.py",
        sha256="2" * 64,
        sql="DROP TABLE note;",
        problems=(Problem(level=Level.WARNING, cause="drops 'note'", remedy="Wait."),),
    ),
    PlannedRevision(revision="c3", message="", path="c3.py", sha256="3" * 64),
)


def planned_for(pin: PlanEntry, **planned: Any) -> Planned:
    identity = Identity(system_identifier=None, started="0", database_oid=pin.database_oid)
    return Planned(target=target(pin.service), pin=pin, identity=identity, **planned)


PLANNED = planned_for(PIN, revisions=REVISIONS, tags=False)
FIRST = replace(PIN, service="first", system_identifier=None, before=(), after=("x", "y"))


def changes(**now: Any) -> list[str]:
    return list(PIN.changes_since(replace(PIN, **now)))


def written(path: Path, *planned: Planned) -> Path:
    services = [entry.as_json() for entry in planned]
    document = plan_document(services, environment="production", commit="abc-dirty", redact=str)
    write_plan(path, document)
    return path


# Stale entries.


def test_an_unchanged_entry_is_not_stale() -> None:
    assert changes() == []
    assert changes(files=dict(sorted(PIN.files.items(), reverse=True))) == []
    assert stale(PIN, PIN) == []


@pytest.mark.parametrize(
    ("now", "told"),
    [
        ({"server": "other:5432"}, "now resolves to huleedu_orders on other:5432"),
        (
            {"server": "db.example.org:5433"},
            "now resolves to huleedu_orders on db.example.org:5433",
        ),
        ({"database": "decoy"}, f"was planned for huleedu_orders on {SERVER}"),
        ({"database_oid": 16385}, f"huleedu_orders on {SERVER} is not the planned database"),
        ({"system_identifier": "1"}, "is not the planned database"),
        ({"system_identifier": None}, "is not the planned database"),
        ({"before": ("b2",), "files": {"c3": "3" * 64}}, "was at a1, and is at b2 now"),
        ({"before": ()}, "was at a1, and is at no revision now"),
        ({"before": ("a1", "x")}, "was at a1, and is at a1, x now"),
        ({"files": {**PIN.files, "c3": "edited"}}, "the file of revision c3 has been edited"),
        ({"files": {"c3": "3" * 64}}, "other revisions are pending now"),
        ({"files": {**PIN.files, "d4": "4" * 64}}, "other revisions are pending now"),
    ],
)
def test_every_change_is_reported_alone(now: dict[str, Any], told: str) -> None:
    (change,) = changes(**now)
    assert told in change


def test_another_head_is_reported_with_its_revisions() -> None:
    assert changes(after=("d4",), files={**PIN.files, "d4": "4" * 64}) == [
        "was planned up to c3, and the head is d4 now",
        "other revisions are pending now: b2, c3, d4",
    ]


def test_another_server_is_reported_once() -> None:
    (change,) = changes(server="other:5432", database_oid=1, system_identifier="1")
    assert "resolves to" in change


def test_all_changes_are_reported_together() -> None:
    found = changes(
        database_oid=1, before=("b2",), after=("d4",), files={"c3": "edited", "d4": "4" * 64}
    )
    assert [change.split()[-3:] for change in found] == [
        ["the", "planned", "database"],
        ["at", "b2", "now"],
        ["is", "d4", "now"],
        ["has", "been", "edited"],
    ]


def test_every_edited_file_is_named() -> None:
    found = changes(files=dict.fromkeys(PIN.files, "edited"))
    assert [change.split()[4] for change in found] == ["b2", "c3"]


def test_a_stale_entry_is_reported_with_its_service() -> None:
    (told,) = stale(PIN, replace(PIN, database_oid=1))
    assert told.startswith("orders: ")


# Done and empty plans.


@pytest.mark.parametrize(
    ("now", "done"),
    [
        ({"before": ("c3",), "files": {}}, True),
        ({}, False),
        ({"before": ("b2",), "files": {"c3": "3" * 64}}, False),
        ({"before": ("c3",), "files": {}, "database_oid": 1}, False),
        ({"before": ("c3",), "files": {}, "server": "other:5432"}, False),
        ({"before": ("c3",), "after": ("d4",), "files": {"d4": "4" * 64}}, False),
        ({"before": ("d4",), "after": ("d4",), "files": {}}, False),
    ],
)
def test_a_plan_is_done_if_its_database_is_at_exactly_the_planned_revisions(
    now: dict[str, Any], done: bool
) -> None:
    assert PLANNED.is_done(replace(PIN, **now)) is done


def test_a_plan_without_revisions_is_never_done() -> None:
    there = replace(PIN, before=("c3",), files={})
    assert not planned_for(there, revisions=(), tags=True).is_done(there)


@pytest.mark.parametrize(
    ("revisions", "tags", "changing"),
    [(REVISIONS, False, True), ((), True, True), (REVISIONS, True, True), ((), False, False)],
)
def test_a_plan_changes_something_if_it_runs_or_tags(
    revisions: tuple[PlannedRevision, ...], tags: bool, changing: bool
) -> None:
    assert planned_for(PIN, revisions=revisions, tags=tags).changes is changing


@pytest.mark.parametrize(
    ("server", "host"),
    [
        (SERVER, "db.example.org"),
        ("DB.Example.Org:5432", "db.example.org"),
        ("[::1]:5432", "::1"),
        ("127.0.0.1:1", "127.0.0.1"),
    ],
)
def test_the_host_has_lower_case_and_no_port(server: str, host: str) -> None:
    planned = planned_for(replace(PIN, server=server), revisions=(), tags=False)
    assert planned.host == host


# The plan file.


def test_a_plan_is_read_as_it_was_written(tmp_path: Path) -> None:
    first = planned_for(FIRST, revisions=(), tags=True)
    path = written(tmp_path / "plan.json", PLANNED, first)
    assert read_plan(path, environment="production") == (PIN, FIRST)
    (pin, *_) = read_plan(path, environment="production")
    assert list(pin.files) == ["b2", "c3"]


def test_an_empty_plan_is_a_plan(tmp_path: Path) -> None:
    assert read_plan(written(tmp_path / "plan.json"), environment="production") == ()


def test_a_plan_overwrites_an_older_one(tmp_path: Path) -> None:
    path = written(tmp_path / "plan.json", PLANNED)
    written(path)
    assert read_plan(path, environment="production") == ()


def test_a_plan_file_contains_what_a_reviewer_needs(tmp_path: Path) -> None:
    text = written(tmp_path / "plan.json", PLANNED).read_text(encoding="utf-8")
    document = json.loads(text)
    assert "Björn's revision" in text
    assert (document["environment"], document["commit"]) == ("production", "abc-dirty")
    (service,) = document["services"]
    assert (service["system_identifier"], service["before"]) == (PIN.system_identifier, ["a1"])
    first, second = service["revisions"]
    assert (first["sql"], second["sql"]) == ("DROP TABLE note;", None)
    assert first["problems"][0]["level"] == "WARNING"


def test_a_plan_of_another_environment_is_refused_with_both_names(tmp_path: Path) -> None:
    path = written(tmp_path / "plan.json", PLANNED)
    with pytest.raises(Refused) as caught:
        read_plan(path, environment="staging")
    assert "was made for production, but the environment is staging" in caught.value.message


def edited(edit: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        document = json.loads(written(path, PLANNED).read_text(encoding="utf-8"))
        edit(document)
        path.write_text(json.dumps(document), encoding="utf-8")

    return write


NO_PLANS: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_text(""),
    "no JSON": lambda path: path.write_text("{"),
    "a list": lambda path: path.write_text("[]"),
    "null": lambda path: path.write_text("null"),
    "another document": lambda path: path.write_text('{"schema_version": 1}'),
    "no text": lambda path: path.write_bytes(b"\xff\xfe\x00"),
    "a later version": edited(lambda document: document.update(schema_version=2)),
    "no environment": edited(lambda document: document.pop("environment")),
    "no services": edited(lambda document: document.update(services=None)),
    "a service that is a text": edited(lambda document: document.update(services=["orders"])),
    "no revisions to start from": edited(lambda document: document["services"][0].pop("before")),
    "no hashes": edited(lambda document: document["services"][0].pop("files")),
    "hashes that are a list": edited(
        lambda document: document["services"][0].update(files=["b2", "c3"])
    ),
    "a number for a revision": edited(lambda document: document["services"][0].update(before=1)),
}


@pytest.mark.parametrize("kind", NO_PLANS)
def test_a_file_that_is_not_a_plan_is_an_error_with_the_command_to_make_one(
    tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "plan.json"
    NO_PLANS[kind](path)
    with pytest.raises(ConfigurationError) as caught:
        read_plan(path, environment="production")
    assert f"--plan {path} is not a plan" in caught.value.message
    assert "invoke prod.plan --out FILE" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "reason"), [("gone.json", "No such file"), (".", "Is a directory")]
)
def test_a_plan_that_cannot_be_read_is_an_error_with_the_reason(
    tmp_path: Path, name: str, reason: str
) -> None:
    path = tmp_path / name
    with pytest.raises(ConfigurationError, match=reason) as caught:
        read_plan(path, environment="production")
    assert caught.value.message.startswith(f"--plan {path} could not be read")


@pytest.mark.parametrize(("name", "reason"), [("gone/plan.json", "No such file"), (".", "Is a d")])
def test_a_plan_that_cannot_be_written_is_an_error_with_the_reason(
    tmp_path: Path, name: str, reason: str
) -> None:
    path = tmp_path / name
    with pytest.raises(ConfigurationError, match=reason) as caught:
        written(path, PLANNED)
    assert caught.value.message.startswith(f"--out {path} could not be written")
