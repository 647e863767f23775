"""A migration does not depend on its output streams, its terminal or its record."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.production.test_confirmation import asked
from tests.support.monorepo import LIMIT, clean_environment, wait_until
from tests.support.rehearsal import ALPHA, ALPHA_AND_BETA, HOST, YES, Rehearsal

SLEEPS = "SELECT pg_sleep(2)"
FULL = Path("/dev/full")


def started(rehearsal: Rehearsal, *arguments: str, **streams: Any) -> "subprocess.Popen[str]":
    """Start a command with the given streams."""
    return rehearsal.monorepo.fork(*arguments, env=rehearsal.production.variables, **streams)


def wait_for_alpha(rehearsal: Rehearsal, run: "subprocess.Popen[str]") -> None:
    """Wait until a run migrates alpha."""
    wait_until(lambda: rehearsal.running("alpha", "pg_sleep") or run.poll() is not None)
    assert run.poll() is None, run.communicate()


def events(rehearsal: Rehearsal) -> list[dict[str, Any]]:
    """Return the events of the only run."""
    (path,) = rehearsal.runs.glob("*.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def both_at(rehearsal: Rehearsal) -> tuple[str, str]:
    """Return the revisions of both services."""
    return rehearsal.at("alpha"), rehearsal.at("beta")


def test_a_closed_output_pipe_does_not_stop_a_migration(rehearsal: Rehearsal) -> None:
    rehearsal.grow("alpha", sql=SLEEPS)
    rehearsal.grow("beta")
    run = started(rehearsal, "prod.migrate", *YES, *ALPHA_AND_BETA)
    wait_for_alpha(rehearsal, run)
    for stream in (run.stdout, run.stderr):
        assert stream is not None
        stream.close()
    assert run.wait(LIMIT) == 0
    assert both_at(rehearsal) == ("b2", "b2")
    assert [event["service"] for event in events(rehearsal) if event["event"] == "migrated"] == [
        "alpha",
        "beta",
    ]


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_full_disk_of_the_output_does_not_stop_a_migration(
    rehearsal: Rehearsal, stream: str
) -> None:
    rehearsal.grow("alpha")
    with FULL.open("w") as full:
        streams: dict[str, Any] = {stream: full}
        run = started(rehearsal, "prod.migrate", *YES, *ALPHA, **streams)
        out, err = run.communicate(timeout=LIMIT)
    assert run.returncode == 0, err
    assert rehearsal.at("alpha") == "b2"
    if stream == "stdout":
        assert "No space left on device" in err
        assert "[output-lost]" in err
        assert "Traceback" not in err
    else:
        assert "1 revision applied" in out


def test_a_read_only_command_fails_if_its_result_cannot_be_written(rehearsal: Rehearsal) -> None:
    with FULL.open("w") as full:
        run = started(rehearsal, "prod.status", "--json", stdout=full)
        _, err = run.communicate(timeout=LIMIT)
    assert run.returncode == 1
    assert "[output-lost]" in err
    assert "Traceback" not in err


def test_a_hang_up_stops_before_the_next_revision(rehearsal: Rehearsal) -> None:
    rehearsal.grow("alpha", sql=SLEEPS)
    rehearsal.revise("alpha", "c3", "b2")
    rehearsal.grow("beta")
    run = rehearsal.start(*ALPHA_AND_BETA)
    wait_for_alpha(rehearsal, run)
    run.send_signal(signal.SIGHUP)
    out, err = run.communicate(timeout=LIMIT)
    assert run.returncode == 129, err
    document = json.loads(out)
    assert document["exit_code"] == 129
    alpha, beta = document["services"]
    assert (alpha["status"], beta["status"]) == ("ABORTED", "ABORTED")
    assert "huleedu_alpha is at b2" in alpha["detail"]
    assert both_at(rehearsal) == ("b2", "a1")
    assert (events(rehearsal)[-1]["event"], events(rehearsal)[-1]["outcome"]) == (
        "ended",
        "HUNG_UP",
    )
    assert rehearsal.migrate(*ALPHA_AND_BETA).code == 0
    assert both_at(rehearsal) == ("c3", "b2")


def test_a_terminal_that_is_closed_is_a_hang_up(rehearsal: Rehearsal) -> None:
    rehearsal.grow("alpha", sql=SLEEPS)
    rehearsal.revise("alpha", "c3", "b2")
    child = asked(rehearsal, *ALPHA)
    child.sendline(HOST)
    wait_until(lambda: rehearsal.running("alpha", "pg_sleep"))
    child.ptyproc.fileobj.close()
    child.closed = child.ptyproc.closed = True
    assert child.wait() == 129
    assert rehearsal.at("alpha") == "b2"
    assert events(rehearsal)[-1]["outcome"] == "HUNG_UP"


def test_a_migration_runs_with_closed_streams(rehearsal: Rehearsal) -> None:
    rehearsal.grow("alpha")
    closed = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"]
    monorepo = rehearsal.monorepo
    ran = subprocess.run(
        [*closed, sys.executable, "-m", "invoke", "prod.migrate", *YES, *ALPHA],
        cwd=monorepo.root,
        env={**clean_environment(), **monorepo.environment, **rehearsal.production.variables},
        check=False,
    )
    assert ran.returncode == 0
    assert rehearsal.at("alpha") == "b2"


def test_a_hang_up_during_the_last_revision_does_not_stop_the_run(rehearsal: Rehearsal) -> None:
    rehearsal.grow("alpha", sql=SLEEPS)
    run = rehearsal.start(*ALPHA)
    wait_for_alpha(rehearsal, run)
    run.send_signal(signal.SIGHUP)
    _, err = run.communicate(timeout=LIMIT)
    assert run.returncode == 0, err
    assert rehearsal.at("alpha") == "b2"
    assert events(rehearsal)[-1]["outcome"] == "DONE"


def test_an_ignored_hang_up_stays_ignored(rehearsal: Rehearsal) -> None:
    def ignore() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    rehearsal.grow("alpha", sql=SLEEPS)
    rehearsal.revise("alpha", "c3", "b2")
    variables = rehearsal.production.variables
    run = rehearsal.monorepo.start("prod.migrate", *YES, *ALPHA, env=variables, preexec_fn=ignore)
    wait_for_alpha(rehearsal, run)
    run.send_signal(signal.SIGHUP)
    _, err = run.communicate(timeout=LIMIT)
    assert run.returncode == 0, err
    assert rehearsal.at("alpha") == "c3"


def test_a_record_that_becomes_unwritable_is_reported_with_the_next_step(
    rehearsal: Rehearsal,
) -> None:
    rehearsal.grow("alpha")
    fifo = rehearsal.monorepo.root / "lost"
    fifo.unlink(missing_ok=True)
    subprocess.run(["mkfifo", fifo], check=True)
    reading = ["sh", "-c", 'exec cat "$0" >/dev/null', str(fifo)]
    with subprocess.Popen(reading) as reader:
        ran = rehearsal.migrate(
            *ALPHA, "--report", "lost", "--backup-command", f"kill {reader.pid}"
        )
    fifo.unlink()
    assert ran.code == 0, ran.err
    assert any("What to do: Free disk space" in note for note in ran.json["notes"])
    assert rehearsal.at("alpha") == "b2"
