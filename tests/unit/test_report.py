"""Reports: the exit code and the JSON document follow from the outcomes."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from huleedu_tasks.errors import (
    ConfigurationError,
    ExitCode,
    HuleEduError,
    MigrationError,
    Refused,
    SeedError,
    ServerError,
)
from huleedu_tasks.report import SCHEMA_VERSION, Listing, Message, Outcome, Report, Result, Status

UNWELL = (Status.FAILED, Status.ABORTED)


def report(*outcomes: Outcome, **stated: object) -> Report:
    simple = {
        "command": "db.reset",
        "environment": "development",
        "provider": "embedded",
        "provider_reason": "stated",
        "outcomes": outcomes,
    }
    return Report(**{**simple, **stated})  # type: ignore[arg-type]


def outcome(status: Status, code: ExitCode = ExitCode.DONE) -> Outcome:
    return Outcome(service="orders", status=status, exit_code=code)


OK = outcome(Status.OK)
SKIPPED = outcome(Status.SKIPPED)
FAILED = outcome(Status.FAILED, ExitCode.FAILED)
USAGE = outcome(Status.FAILED, ExitCode.USAGE)
REFUSED = outcome(Status.FAILED, ExitCode.REFUSED)
INTERRUPTED = outcome(Status.ABORTED, ExitCode.INTERRUPTED)
TERMINATED = outcome(Status.ABORTED, ExitCode.TERMINATED)


@pytest.mark.parametrize(
    ("outcomes", "code"),
    [
        ([], ExitCode.DONE),
        ([OK, SKIPPED], ExitCode.DONE),
        ([OK, FAILED], ExitCode.FAILED),
        ([FAILED, USAGE], ExitCode.USAGE),
        ([FAILED, USAGE, REFUSED], ExitCode.REFUSED),
        ([REFUSED, INTERRUPTED, FAILED], ExitCode.INTERRUPTED),
        ([INTERRUPTED, TERMINATED], ExitCode.TERMINATED),
    ],
)
def test_the_most_severe_outcome_decides_the_exit_code(
    outcomes: list[Outcome], code: ExitCode
) -> None:
    assert report(*outcomes).exit_code is code
    assert report(*reversed(outcomes)).exit_code is code


@given(
    st.lists(
        st.builds(
            outcome,
            st.sampled_from(Status),
            st.sampled_from([code for code in ExitCode if code is not ExitCode.PENDING]),
        )
    ),
    st.booleans(),
)
def test_success_is_reported_only_if_every_service_succeeded(
    outcomes: list[Outcome], pending: bool
) -> None:
    well = all(o.status not in UNWELL and o.exit_code is ExitCode.DONE for o in outcomes)
    code = report(*outcomes, pending=pending).exit_code
    assert (code in (ExitCode.DONE, ExitCode.PENDING)) is well
    assert (code is ExitCode.PENDING) is (well and pending)


def test_a_terminated_run_replaces_the_exit_code_of_an_interruption() -> None:
    ended = report(OK, FAILED, INTERRUPTED).ended_by(ExitCode.TERMINATED)
    codes = [outcome.exit_code for outcome in ended.outcomes]
    assert codes == [ExitCode.DONE, ExitCode.FAILED, ExitCode.TERMINATED]
    assert ended.exit_code is ExitCode.TERMINATED


def test_the_document_of_a_report_contains_every_service_in_order() -> None:
    done = Outcome(service="a", detail="migrated", seconds=0.12345, facts={"to": ("x", "y")})
    failed = Outcome(
        service="b",
        status=Status.FAILED,
        detail="no",
        hint="do",
        code="odd",
        output="log",
        facts={"pending": None},
        exit_code=ExitCode.FAILED,
    )
    document = report(done, failed, seconds=1.23456, dry_run=True).as_json()
    assert json.loads(json.dumps(document)) == {
        "schema_version": SCHEMA_VERSION,
        "command": "db.reset",
        "environment": "development",
        "provider": {"name": "embedded", "reason": "stated"},
        "dry_run": True,
        "exit_code": 1,
        "seconds": 1.235,
        "notes": [],
        "services": [
            {
                "service": "a",
                "status": "OK",
                "detail": "migrated",
                "hint": "",
                "seconds": 0.123,
                "to": ["x", "y"],
            },
            {
                "service": "b",
                "status": "FAILED",
                "detail": "no",
                "hint": "do",
                "seconds": 0.0,
                "pending": None,
                "code": "odd",
                "output": "log",
            },
        ],
    }


@pytest.mark.parametrize(
    ("result", "own"),
    [
        (
            Listing(command="env.show", key="settings", columns=("a",), rows=({"a": 1, "b": "x"},)),
            {"settings": [{"a": 1, "b": "x"}]},
        ),
        (
            Message(command="env.show", text="Wrote .env.", facts={"written": True}),
            {"message": "Wrote .env.", "written": True},
        ),
    ],
    ids=["listing", "message"],
)
def test_listings_and_messages_are_documents_too(result: Result, own: dict[str, object]) -> None:
    head = {"schema_version": SCHEMA_VERSION, "command": "env.show", "exit_code": 0}
    assert result.as_json() == head | own


def test_two_stages_have_one_outcome() -> None:
    first = Outcome(service="a", detail="started", seconds=1.0, facts={"server": "x"})
    second = Outcome(service="a", detail="seeded", seconds=2.0, facts={"to": "y"})
    both = first.followed_by(second)
    assert (both.detail, both.seconds) == ("started, seeded", 3.0)
    assert both.facts == {"server": "x", "to": "y"}


def test_a_failure_after_a_success_reports_only_the_failure() -> None:
    both = Outcome(service="a", detail="started").followed_by(
        Outcome(service="a", status=Status.FAILED, detail="broke", exit_code=ExitCode.FAILED)
    )
    assert (both.status, both.detail, both.exit_code) == (Status.FAILED, "broke", ExitCode.FAILED)


def test_only_ok_is_true() -> None:
    assert [status for status in Status if outcome(status)] == [Status.OK]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigurationError, 2),
        (Refused, 3),
        (ServerError, 1),
        (MigrationError, 1),
        (SeedError, 1),
    ],
)
def test_each_kind_of_failure_has_its_exit_code(error: type[HuleEduError], code: int) -> None:
    assert error("it broke").exit_code == code
