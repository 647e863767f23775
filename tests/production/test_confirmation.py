"""Nothing is changed before the user typed the host or passed it as an argument."""

import os
import shlex
import signal
import subprocess
import sys

import pexpect
import pytest

from tests.support.monorepo import clean_environment
from tests.support.observe import assert_no_password
from tests.support.postgres import ask
from tests.support.rehearsal import ALPHA, HOST, SERVICES, YES, Rehearsal
from tests.support.terminal import CONTROL, seen, typed

QUESTION = f"Type {HOST} to go on:"
UNTOUCHED = dict.fromkeys(SERVICES, "a1")


def asked(rehearsal: Rehearsal, *flags: str, columns: int = 160) -> "pexpect.spawn[str]":
    """Run `invoke prod.migrate` at a terminal, and wait for the question."""
    child = typed(
        rehearsal.monorepo,
        "prod.migrate",
        *flags,
        columns=columns,
        variables=rehearsal.production.variables,
    )
    child.expect_exact(QUESTION)
    assert_no_password(str(child.before))
    return child


def test_a_user_sees_the_plan_types_the_host_and_sees_the_result(
    rehearsal: Rehearsal,
) -> None:
    rehearsal.grow("alpha")
    child = asked(rehearsal)
    plan = str(child.before)
    assert "PRODUCTION: localhost:" in plan
    assert "`HULEEDU_ENVIRONMENT=production invoke prod.plan --sql` shows the SQL." in plan
    places = [
        plan.index(text)
        for text in (
            "PRODUCTION: 1 revision will be applied to 1 database on localhost.",
            "  alpha: a1 -> b2, 1 revision",
            "  No backup will be taken: neither --backup-command nor --backup-dir was given.",
        )
    ]
    assert places == sorted(places)
    child.sendline(HOST)
    ran = seen(child)
    assert ran.code == 0
    assert "No backup was taken by this run" in ran.out
    assert rehearsal.at("alpha") == "b2"
    assert [run["outcome"] for run in rehearsal.history()] == ["DONE"]


def test_the_question_contains_the_changes_and_the_host(rehearsal: Rehearsal) -> None:
    rehearsal.grow("alpha", revisions=("b2", "c3"), sql="DROP SCHEMA IF EXISTS old CASCADE")
    rehearsal.grow("beta")
    ask(rehearsal.production.admin("huleedu_theta"), "COMMENT ON DATABASE huleedu_theta IS NULL")
    child = asked(rehearsal, "--backup-command", "true", "--backup-dir", ".", columns=50)
    screen = CONTROL.sub("", str(child.before)).replace("\r", "")
    lines = screen[screen.index("PRODUCTION: 3 revisions") :].splitlines()
    assert max(map(len, lines)) <= 50
    said = " ".join(" ".join(lines).split())
    assert "alpha: a1 -> c3, 2 revisions, dangers: destroys 2 beta: a1 -> b2" in said
    assert "theta: tagged as production" in said
    assert "Backup before the first change: the command 'true', then a dump of each" in said
    assert (
        "PRODUCTION: 3 revisions will be applied to 2 databases, and 1 database will be tagged as "
        "production on localhost."
    ) in said
    child.sendcontrol("c")
    assert seen(child).code == 130


def test_any_other_answer_changes_nothing(rehearsal: Rehearsal) -> None:
    rehearsal.grow("alpha")
    child = asked(rehearsal, *ALPHA)
    child.sendline("yes")
    ran = seen(child)
    assert ran.code == 3
    assert "'localhost' was not typed; nothing was changed." in ran.err
    assert rehearsal.all_at() == UNTOUCHED
    assert [run["outcome"] for run in rehearsal.history()] == ["REFUSED"]


@pytest.mark.parametrize(
    ("key", "code", "outcome"), [("c", 130, "INTERRUPTED"), ("d", 3, "REFUSED")]
)
def test_ctrl_c_and_ctrl_d_change_nothing(
    rehearsal: Rehearsal, key: str, code: int, outcome: str
) -> None:
    rehearsal.grow("alpha")
    child = asked(rehearsal, *ALPHA)
    child.sendcontrol(key)
    assert seen(child).code == code
    assert rehearsal.all_at() == UNTOUCHED
    assert [run["outcome"] for run in rehearsal.history()] == [outcome]


def test_the_history_can_be_read_during_and_after_an_interrupted_confirmation(
    rehearsal: Rehearsal,
) -> None:
    rehearsal.grow("alpha")
    child = asked(rehearsal, *ALPHA)
    assert [run["outcome"] for run in rehearsal.history()] == ["RUNNING"]
    child.kill(signal.SIGKILL)
    child.expect(pexpect.EOF)
    child.close()
    assert [run["outcome"] for run in rehearsal.history()] == ["KILLED"]


def test_sigterm_at_the_question_changes_nothing_and_is_recorded(rehearsal: Rehearsal) -> None:
    rehearsal.grow("alpha")
    child = asked(rehearsal, *ALPHA)
    child.kill(signal.SIGTERM)
    assert seen(child).code == 143
    assert rehearsal.all_at() == UNTOUCHED
    assert [run["outcome"] for run in rehearsal.history()] == ["TERMINATED"]


def test_piped_input_is_not_a_confirmation(rehearsal: Rehearsal) -> None:
    rehearsal.grow("alpha")
    command = f"yes {HOST} | {shlex.quote(sys.executable)} -m invoke prod.migrate --service alpha"
    ran = subprocess.run(
        ["bash", "-c", command],
        cwd=rehearsal.monorepo.root,
        env={
            **clean_environment(),
            **rehearsal.monorepo.environment,
            **rehearsal.production.variables,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 3
    assert "standard input is not a terminal" in ran.stderr
    assert f"--yes --host {HOST}" in ran.stderr
    assert rehearsal.all_at() == UNTOUCHED


def test_closed_input_is_not_a_confirmation(rehearsal: Rehearsal) -> None:
    rehearsal.grow("alpha")
    ran = subprocess.run(
        [sys.executable, "-m", "invoke", "prod.migrate", *ALPHA],
        cwd=rehearsal.monorepo.root,
        env={
            **clean_environment(),
            **rehearsal.monorepo.environment,
            **rehearsal.production.variables,
        },
        preexec_fn=lambda: os.close(0),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 3, ran.stderr
    assert rehearsal.all_at() == UNTOUCHED


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        (("--yes",), 3),
        (("--yes", "--host", HOST, "--host", "elsewhere"), 3),
        (("--host", HOST), 2),
        (("--yes", "--host"), 2),
    ],
)
def test_arguments_must_name_the_exact_host(
    rehearsal: Rehearsal, flags: tuple[str, ...], code: int
) -> None:
    rehearsal.grow("alpha")
    assert rehearsal.invoke("prod.migrate", *ALPHA, *flags).code == code
    assert rehearsal.all_at() == UNTOUCHED


def test_each_of_several_hosts_must_be_named(rehearsal: Rehearsal) -> None:
    rehearsal.grow("alpha", "beta")
    other = rehearsal.production.url(
        rehearsal.production.main.port,
        "huleedu_beta",
        host="127.0.0.1",
        tls=rehearsal.production.verified("verify-ca"),
    )
    variables = {"BETA_SERVICE_DATABASE_URL": other}
    refused = rehearsal.invoke("prod.migrate", *YES, **variables)
    assert refused.code == 3
    assert "127.0.0.1 is missing" in refused.err
    assert rehearsal.all_at() == UNTOUCHED
    assert rehearsal.invoke("prod.migrate", *YES, "--host", "127.0.0.1", **variables).code == 0
    assert rehearsal.at("beta") == "b2"


@pytest.mark.parametrize("environment", ["development", "testing", ""])
def test_migrate_is_refused_in_development_and_testing(
    rehearsal: Rehearsal, environment: str
) -> None:
    rehearsal.grow("alpha")
    ran = rehearsal.invoke("prod.migrate", *YES, HULEEDU_ENVIRONMENT=environment)
    assert ran.code == 3
    assert "prod.migrate does not run in" in ran.err
    assert rehearsal.all_at() == UNTOUCHED


def test_a_database_migrated_before_the_confirmation_is_refused(rehearsal: Rehearsal) -> None:
    rehearsal.grow("alpha")
    child = asked(rehearsal, *ALPHA)
    ask(rehearsal.production.admin(), "DELETE FROM alembic_version")
    child.sendline(HOST)
    ran = seen(child)
    ask(rehearsal.production.admin(), "INSERT INTO alembic_version VALUES ('a1')")
    assert ran.code == 3
    assert "was at a1, and is at no revision now" in ran.err
    assert rehearsal.all_at() == UNTOUCHED
