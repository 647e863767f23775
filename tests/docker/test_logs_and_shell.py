"""`db.logs` and `db.shell`, with the providers that start servers."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from tests.support.docker import new_docked
from tests.support.monorepo import Monorepo, new_monorepo
from tests.support.observe import assert_no_password_on_screen
from tests.support.postgres import ask


@pytest.fixture(scope="module", params=["docker", "embedded"])
def provided(request: pytest.FixtureRequest) -> Iterator[Monorepo]:
    names = ("alpha", "beta")
    with new_docked(*names) if request.param == "docker" else new_monorepo(names) as monorepo:
        assert monorepo.invoke("db.up").code == 0
        yield monorepo


def complain(monorepo: Monorepo, name: str, word: str) -> None:
    """Make a service's server log an error with a word."""
    with pytest.raises(asyncpg.UndefinedTableError):
        ask(monorepo.url(name), f"SELECT FROM {word}")


def test_the_log_of_each_service_is_shown(provided: Monorepo) -> None:
    for name in ("alpha", "beta"):
        complain(provided, name, f"complaint_of_{name}")
    every, one = provided.invoke("db.logs"), provided.invoke("db.logs", "--service", "alpha")
    assert every.code == one.code == 0
    assert "complaint_of_alpha" in every.out
    assert "complaint_of_alpha" in one.out
    assert "complaint_of_beta" in every.out
    assert "complaint_of_beta" not in one.out


def test_lines_limits_the_number_of_lines(provided: Monorepo) -> None:
    arguments = ("db.logs", "--service", "alpha", "--lines")
    assert len(provided.invoke(*arguments, "1").out.splitlines()) == 1
    assert len(provided.invoke(*arguments, "3").out.splitlines()) == 3


def test_the_log_is_followed_until_ctrl_c(provided: Monorepo) -> None:
    tool = provided.start("db.logs", "--service", "alpha", "--follow", "--lines", "1")
    try:
        assert tool.stdout
        # It follows the log as soon as it has shown the last lines.
        assert tool.stdout.readline()
        complain(provided, "alpha", "complaint_to_follow")
        assert any("complaint_to_follow" in line for line in tool.stdout)
    finally:
        tool.send_signal(signal.SIGINT)
        tool.communicate(timeout=30)
    assert tool.returncode in (0, 130, -signal.SIGINT)


def test_a_shell_connects_to_the_services_own_database(provided: Monorepo) -> None:
    arguments = ("db.shell", "--service", "beta", "--command")
    ran = provided.invoke(*arguments, "SELECT current_user, current_database()")
    assert ran.code == 0
    assert "huleedu_user | huleedu_beta" in ran.out
    assert_no_password_on_screen(ran)
    assert provided.invoke(*arguments, "SELECT FROM missing").code != 0


def test_a_shell_on_a_stopped_server_fails_with_a_hint(provided: Monorepo) -> None:
    assert provided.invoke("db.down", "--service", "beta").code == 0
    ran = provided.invoke("db.shell", "--service", "beta")
    assert ran.code == 1
    assert "invoke db.up" in ran.err


def test_docker_logs_get_no_secret_of_production(provided: Monorepo, tmp_path: Path) -> None:
    real, record = shutil.which("docker"), tmp_path / "record"
    program = tmp_path / "docker"
    program.write_text(f'#!/bin/sh\nenv >> {record}\nexec {real} "$@"\n')
    program.chmod(0o700)
    before = provided.read(".env")
    provided.write(".env", f"{before}HULEEDU_PROD_DB_PASSWORD=secret-of-production\n")
    try:
        path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
        assert provided.invoke("db.logs", "--lines", "1", env=path).code == 0
    finally:
        provided.write(".env", before)
    if provided.environment.get("HULEEDU_PROVIDER") != "embedded":
        assert "HULEEDU_DB_USER" in record.read_text()
        assert "secret-of-production" not in record.read_text()
