"""All errors of the configuration are reported together, before the first connection."""

import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.monorepo import PASSWORD, Monorepo, Ran, new_monorepo
from tests.support.observe import assert_no_password_on_screen
from tests.support.production import Authority, external, selected

COMMANDS = ("prod.validate", "prod.status")
EVERY_COMMAND = pytest.mark.parametrize("command", COMMANDS)
EVERY_ENVIRONMENT = pytest.mark.parametrize(
    ("prefix", "environment"), [("PROD", "production"), ("STAGING", "staging")]
)


@pytest.fixture(scope="module")
def monorepo() -> Iterator[Monorepo]:
    with new_monorepo() as made:
        yield made


@contextmanager
def listening() -> Iterator[socket.socket]:
    """Yield a socket that listens and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield listener


def found(ran: Ran) -> set[tuple[str, str]]:
    """Return the findings of an aborted command from its JSON document."""
    assert ran.code == 2
    assert_no_password_on_screen(ran)
    error = ran.json["error"]
    assert "nothing was connected to" in error["message"]
    assert error["hint"]
    findings = [(finding["place"], finding["problem"]) for finding in error["findings"]]
    assert len(findings) == len(set(findings))
    return set(findings)


def invoke(monorepo: Monorepo, command: str, variables: Mapping[str, str]) -> Ran:
    return monorepo.invoke(command, "--json", env=variables)


@EVERY_COMMAND
@EVERY_ENVIRONMENT
def test_every_missing_variable_is_named_once_for_all_services(
    monorepo: Monorepo, command: str, prefix: str, environment: str
) -> None:
    ran = invoke(monorepo, command, {"HULEEDU_ENVIRONMENT": environment})
    missing = {f"HULEEDU_{prefix}_DB_HOST", f"HULEEDU_{prefix}_DB_PASSWORD"}
    assert found(ran) == {(name, "is not set") for name in missing}
    assert environment.upper() in ran.json["error"]["message"]


@EVERY_COMMAND
def test_all_missing_and_malformed_variables_are_reported_together(
    monorepo: Monorepo, command: str
) -> None:
    url = f"postgresql+asyncpg://u:{PASSWORD}@h/d"
    variables = {
        "HULEEDU_ENVIRONMENT": "production",
        "HULEEDU_PROD_DB_PORT": "54x2",
        "HULEEDU_PROD_DB_SSLMODE": "verify_full",
        "HULEEDU_PROD_DB_SSLROOTCERT": "ca.pem",
        "HULEEDU_JOBS": "none",
        "ALPHA_SERVICE_DATABASE_URL": "mysql://h/d",
        "BETA_SERVICE_DATABASE_URL": "postgresql+asyncpg://u:p@h/d",
        "BETA_SERVICE_DIRECT_DATABASE_URL": url,
    }
    problems = found(invoke(monorepo, command, variables))
    assert {place for place, _ in problems} == {
        "HULEEDU_PROD_DB_HOST",
        "HULEEDU_PROD_DB_PASSWORD",
        "HULEEDU_PROD_DB_PORT (environment)",
        "HULEEDU_PROD_DB_SSLMODE (environment)",
        "HULEEDU_PROD_DB_SSLROOTCERT",
        "HULEEDU_JOBS (environment)",
        "",
    }
    assert {problem for place, problem in problems if not place} == {
        "ALPHA_SERVICE_DATABASE_URL does not begin with postgresql+asyncpg://.",
        "BETA_SERVICE_DIRECT_DATABASE_URL contains a # that is not percent-encoded.",
    }


def test_a_direct_url_does_not_hide_a_malformed_url(monorepo: Monorepo) -> None:
    variables = external("PROD", "production", 5432) | {
        "ALPHA_SERVICE_DATABASE_URL": "no url",
        "ALPHA_SERVICE_DIRECT_DATABASE_URL": "postgresql+asyncpg://u:p@h/d",
    }
    ((_, problem),) = found(invoke(monorepo, "prod.validate", variables))
    assert problem.startswith("ALPHA_SERVICE_DATABASE_URL ")


def test_two_services_with_one_address_are_reported_with_the_other_findings(
    monorepo: Monorepo,
) -> None:
    here = "postgresql+asyncpg://u:p@DB.example.com/shared"
    variables = {
        "HULEEDU_ENVIRONMENT": "production",
        "ALPHA_SERVICE_DATABASE_URL": here,
        "GAMMA_SERVICE_DIRECT_DATABASE_URL": here.lower().replace("u:p@", "other:p@"),
    }
    assert found(invoke(monorepo, "prod.validate", variables)) == {
        ("HULEEDU_PROD_DB_HOST", "is not set"),
        ("HULEEDU_PROD_DB_PASSWORD", "is not set"),
        (
            "gamma (GAMMA_SERVICE_DIRECT_DATABASE_URL)",
            "has the same database as alpha: db.example.com:5432/shared",
        ),
    }


@pytest.mark.parametrize(
    ("file", "problem"),
    [
        (
            "{directory}/nowhere.pem",
            "'{directory}/nowhere.pem' could not be read: No such file or directory",
        ),
        ("{directory}/empty.pem", "'{directory}/empty.pem' contains no certificates"),
        ("ca.pem", "'ca.pem' is not an absolute path; each service runs in its own directory"),
    ],
)
def test_a_file_of_certificates_that_cannot_be_used_is_named(
    monorepo: Monorepo, tmp_path: Path, file: str, problem: str
) -> None:
    (tmp_path / "empty.pem").touch()
    stated = {"SSLROOTCERT": file.format(directory=tmp_path)}
    ran = invoke(monorepo, "prod.validate", external("PROD", "production", 5432, **stated))
    assert found(ran) == {("HULEEDU_PROD_DB_SSLROOTCERT", problem.format(directory=tmp_path))}


def test_missing_files_are_reported_except_seeds() -> None:
    with new_monorepo(("alpha", "beta")) as made:
        made.path("database/seed-scripts/seed_alpha.py").unlink()
        entries = made.services
        made.register(entries[0] | {"seeds": ["nowhere.sql"]}, entries[1])
        made.path("services/beta_service/alembic.ini").unlink()
        ran = invoke(made, "prod.validate", external("PROD", "production", 5432))
        path = made.path("services/beta_service/alembic.ini")
        assert found(ran) == {("beta", f"its file {path} does not exist")}


@EVERY_COMMAND
@pytest.mark.parametrize("environment", ["", "development", "Testing"])
def test_prod_commands_are_refused_in_development_and_testing(
    monorepo: Monorepo, command: str, environment: str
) -> None:
    with listening() as listener:
        port = listener.getsockname()[1]
        variables = external("PROD", environment, port) | external("STAGING", environment, port)
        ran = monorepo.invoke(command, env=variables)
        assert (ran.code, ran.out) == (3, "")
        assert f"{command} does not run in {environment.lower() or 'development'}." in ran.err
        assert "Set HULEEDU_ENVIRONMENT=production" in ran.err
        assert_no_connection(listener)


def test_an_unknown_environment_is_an_error_that_lists_the_four(monorepo: Monorepo) -> None:
    ran = monorepo.invoke("prod.validate", env={"HULEEDU_ENVIRONMENT": "prod"})
    assert ran.code == 2
    assert "'prod' is not one of development, testing, staging, production" in ran.err


@EVERY_ENVIRONMENT
def test_offline_reads_the_revisions_and_connects_to_nothing(prefix: str, environment: str) -> None:
    with new_monorepo() as made, listening() as listener:
        made.add_revision("beta", "b2", "a1")
        made.add_revision("beta", "c2", "a1")
        variables = external(prefix, environment, listener.getsockname()[1])
        ran = made.invoke("prod.validate", "--offline", "--json", env=variables)
        assert ran.code == 1
        assert ran.statuses == {"alpha": "OK", "beta": "FAILED", "gamma": "OK"}
        alpha, beta, gamma = ran.json["services"]
        assert alpha["problems"] == gamma["problems"] == []
        for problem, head in zip(beta["problems"], ("b2", "c2"), strict=True):
            assert problem["level"] == "ERROR"
            assert problem["cause"].endswith(f"revision {head} is one of several heads")
            assert "`invoke db.revision --service NAME --merge -m TEXT`" in problem["remedy"]
        sound = made.invoke("prod.validate", "--offline", *selected(["alpha"]), env=variables)
        assert sound.code == 0
        assert sound.out.startswith(f"{environment.upper()}: localhost:")
        assert_no_connection(listener)


def test_offline_reports_a_service_without_revision_files() -> None:
    with new_monorepo(("alpha",)) as made:
        made.path("services/alpha_service/alembic/versions/a1.py").unlink()
        ran = made.invoke(
            "prod.validate", "--offline", "--json", env=external("PROD", "production", 1)
        )
        ((problem,),) = [service["problems"] for service in ran.json["services"]]
        assert ran.code == 0
        assert (problem["level"], problem["cause"]) == ("WARNING", "it has no revision files")
        assert "services/alpha_service/alembic.ini" in problem["remedy"]


def assert_no_connection(listener: socket.socket) -> None:
    """Assert that no connection waits to be accepted; the kernel queues them by itself."""
    with pytest.raises(BlockingIOError):
        listener.accept()


def test_a_password_that_only_the_direct_url_contains_is_masked(
    monorepo: Monorepo, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    secret = "only-in-the-direct-url"
    variables = external("PROD", "production", 1, SSLROOTCERT=str(authority.file)) | {
        "ALPHA_SERVICE_DIRECT_DATABASE_URL": f"postgresql://u:{secret}@h/{secret}"
    }
    ran = monorepo.invoke("prod.validate", "--offline", env=variables)
    assert ran.code == 0
    assert "***" in ran.out
    assert secret not in ran.out + ran.err
