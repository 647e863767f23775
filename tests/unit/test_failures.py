"""PostgreSQL's errors are converted to `ServerError` with a code and a hint."""

import asyncio

import asyncpg
import pytest

from huleedu_tasks import parallel
from huleedu_tasks.config.registry import Service
from huleedu_tasks.errors import ExitCode, Refused, ServerError
from huleedu_tasks.parallel import Step
from huleedu_tasks.postgres.server_errors import converted_errors, explain
from huleedu_tasks.report import Outcome, Silence, Status
from tests.support.values import service


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (asyncpg.ObjectInUseError("in use"), "database-in-use"),
        (asyncpg.InsufficientPrivilegeError("no"), "permission-denied"),
        (asyncpg.DiskFullError("full"), "disk-full"),
        (asyncpg.OutOfMemoryError("memory"), "resources-exhausted"),
        (asyncpg.TooManyConnectionsError("many"), "too-many-connections"),
        (asyncpg.LockNotAvailableError("lock"), "lock-timeout"),
        (asyncpg.QueryCanceledError("canceled"), "query-canceled"),
        (asyncpg.AdminShutdownError("shutdown"), "server-stopping"),
        (asyncpg.CannotConnectNowError("starting"), "server-stopping"),
        (asyncpg.ConnectionDoesNotExistError("lost"), "connection-lost"),
        (asyncpg.InvalidCatalogNameError("none"), "database-missing"),
        (asyncpg.InternalServerError("... has a collation version mismatch"), "collation-mismatch"),
        (asyncpg.SyntaxOrAccessError("odd"), "server-error"),
        (asyncpg.InterfaceError("closed"), "connection-lost"),
        (asyncpg.InternalClientError("got no answer"), "connection-lost"),
        (ConnectionResetError("reset"), "connection-lost"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_each_error_of_a_driver_has_a_code_and_a_hint(error: Exception, code: str) -> None:
    failure = explain(error, "Something was tried")
    assert isinstance(failure, ServerError)
    assert failure.code == code
    assert failure.message.startswith("Something was tried: ")
    assert failure.hint
    assert failure.exit_code is ExitCode.FAILED


@pytest.mark.parametrize("error", [ValueError("a bug"), BrokenPipeError(), FileNotFoundError()])
def test_other_errors_are_not_converted(error: Exception) -> None:
    assert explain(error) is None
    with pytest.raises(type(error)), converted_errors():
        raise error


def test_an_expected_failure_keeps_its_code() -> None:
    with pytest.raises(Refused) as raised, converted_errors():
        raise Refused("No.", code="of-its-own")
    assert raised.value.code == "of-its-own"


def test_an_unknown_error_has_its_sqlstate_and_the_detail_of_the_server() -> None:
    error = asyncpg.PostgresError.new(
        {"C": "XX123", "M": "odd", "D": "a detail.", "H": "a remedy.", "S": "ERROR"}
    )
    failure = explain(error)
    assert failure is not None
    assert "XX123" in failure.message
    assert [str(finding) for finding in failure.findings] == [
        "DETAIL: a detail",
        "the server's HINT: a remedy",
    ]


def test_a_step_with_a_server_error_has_no_output_of_a_service() -> None:
    async def work(one: Service, step: Step) -> Outcome:
        raise asyncpg.ObjectInUseError("database is in use")

    (outcome,) = asyncio.run(parallel.run([service("a")], work, jobs=1, progress=Silence()))
    assert outcome.status is Status.FAILED
    assert outcome.code == "database-in-use"
    assert outcome.hint
    assert not outcome.output
