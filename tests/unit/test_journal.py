"""The records of runs: written step by step, and complete up to a kill."""

import json
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from huleedu_tasks.config.secret import Redactor, Secret
from huleedu_tasks.errors import ConfigurationError, ExitCode, HuleEduError, ServerError
from huleedu_tasks.prod.history import events_of, list_of, with_page
from huleedu_tasks.prod.journal import (
    Record,
    Run,
    new_record,
    read_runs,
    unwritten_record,
)
from huleedu_tasks.repository import commit_of
from huleedu_tasks.screen.console import Screen
from huleedu_tasks.screen.formats.forms import parse_outputs
from tests.support.browser import Elements
from tests.support.monorepo import PROJECT

PASSWORD = "p@ss w%rd/1"
REDACT = Redactor([Secret(PASSWORD)])
# Prints `ready`, and runs until it is killed or its input is closed.
RUN = """\
import sys
from pathlib import Path
from huleedu_tasks.prod.journal import new_record

state = Path(sys.argv[1])
with new_record(state, command="prod.migrate", environment="production", root=state, copy=None,
                redact=str) as record:
    record.add("migrating", service="orders")
    print("ready", flush=True)
    sys.stdin.read()
"""


def recorded(
    state: Path, copy: Path | None = None, root: Path | None = None
) -> AbstractContextManager[Record]:
    return new_record(
        state,
        command="prod.migrate",
        environment="production",
        root=root or state,
        copy=copy,
        redact=REDACT,
    )


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@contextmanager
def running(state: Path) -> Iterator["subprocess.Popen[str]"]:
    """Let another process record a run for the time of a `with` block."""
    with subprocess.Popen(
        [sys.executable, "-c", RUN, state],
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout
        assert child.stdout.readline() == "ready\n"
        yield child
        child.kill()


def killed(state: Path) -> Run:
    """Let another process record a run, and kill it."""
    with running(state) as child:
        child.send_signal(signal.SIGKILL)
        child.wait()
    (run,) = read_runs(state)
    return run


# Writing.


def test_the_first_line_contains_user_command_time_and_host(tmp_path: Path) -> None:
    with recorded(tmp_path) as record:
        (began,) = lines(record.path)
    assert began["event"] == "began"
    assert began["run"] == record.run == record.path.stem
    assert (began["command"], began["environment"]) == ("prod.migrate", "production")
    assert began["pid"] == os.getpid()
    assert began["user"]
    assert began["host"]
    assert datetime.fromisoformat(began["time"]).tzinfo


def test_a_line_is_in_the_file_before_the_next_step_begins(tmp_path: Path) -> None:
    with recorded(tmp_path) as record:
        record.add("locked", service="orders", seconds=1.5)
        *_, last = lines(record.path)
        assert (last["event"], last["service"], last["seconds"]) == ("locked", "orders", 1.5)
        record.end(ExitCode.REFUSED, detail="no")
        *_, last = lines(record.path)
    assert (last["event"], last["exit_code"]) == ("ended", 3)
    assert (last["outcome"], last["detail"]) == ("REFUSED", "no")


@pytest.mark.parametrize(
    "facts",
    [
        {"detail": f"refused {PASSWORD!r}"},
        {"detail": "postgresql://me:p%40ss%20w%25rd%2F1@host/db"},
        {"findings": ["fine", f"{PASSWORD} is wrong"]},
        {"services": [{"service": "orders", "detail": f"line\n{PASSWORD}\nline"}]},
        {"hosts": ("a", PASSWORD)},
    ],
)
def test_a_password_is_masked_in_every_field(tmp_path: Path, facts: dict[str, Any]) -> None:
    copy = tmp_path / "report"
    with recorded(tmp_path, copy) as record:
        record.add("failed", **facts)
        record.end(ExitCode.FAILED, **facts)
    for path in (record.path, copy):
        text = path.read_text(encoding="utf-8")
        assert len(lines(path)) == 3
        assert "***" in text
        assert "w%rd" not in text
        assert "w%25rd" not in text


def test_any_string_is_written_on_one_line_and_read_back_unchanged(tmp_path: Path) -> None:
    text = "å\n\u2028\r\n\x85 'quoted' \"twice\" \\"
    with recorded(tmp_path) as record:
        record.add("failed", detail=text)
    (run,) = read_runs(tmp_path)
    assert run.of("failed")[0]["detail"] == text


def test_a_copy_has_the_same_lines_and_replaces_an_older_one(tmp_path: Path) -> None:
    copy = tmp_path / "report"
    copy.write_text("older")
    with recorded(tmp_path, copy) as record:
        record.add("locked")
        assert copy.read_text() == record.path.read_text()
        record.end(ExitCode.DONE)
    assert copy.read_text() == record.path.read_text()
    assert len(lines(copy)) == 3


def test_the_commit_is_recorded_as_dirty_if_files_differ(tmp_path: Path) -> None:
    assert commit_of(tmp_path) is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / "file").write_text("1")
    for arguments in (["init", "-q"], ["add", "file"], ["commit", "-q", "-m", "First"]):
        subprocess.run([*git, *arguments], check=True)
    commit = commit_of(tmp_path)
    assert commit
    assert len(commit) == 40
    (tmp_path / "file").write_text("2")
    assert commit_of(tmp_path) == f"{commit}-dirty"
    with recorded(tmp_path / "state", root=tmp_path):
        (run,) = read_runs(tmp_path / "state")
    assert run.began["commit"] == f"{commit}-dirty"


def test_an_unwritten_record_creates_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    record = unwritten_record()
    record.add("locked")
    record.end(ExitCode.DONE)
    assert list(tmp_path.iterdir()) == []


def test_records_are_hidden_from_version_control(tmp_path: Path) -> None:
    with recorded(tmp_path / "state"):
        pass
    assert (tmp_path / "state/.gitignore").read_text() == "*\n"


# Write errors.


@pytest.mark.parametrize("name", ["gone/report", "."])
def test_an_unwritable_copy_is_an_error_before_the_run_begins(tmp_path: Path, name: str) -> None:
    state, copy = tmp_path / "state", tmp_path / name
    with pytest.raises(ConfigurationError) as caught, recorded(state, copy):
        pytest.fail("it was begun")
    assert caught.value.message.startswith(f"--report {copy} could not be written")
    assert "nothing was done" in caught.value.message
    assert read_runs(state) == []


@pytest.mark.parametrize("place", ["state", "state/runs"])
def test_an_unwritable_state_directory_is_an_error_with_a_hint(tmp_path: Path, place: str) -> None:
    blocked = tmp_path / place
    blocked.parent.mkdir(exist_ok=True)
    blocked.write_text("a file where a directory should be")
    with pytest.raises(ServerError) as caught, recorded(tmp_path / "state"):
        pytest.fail("it was begun")
    assert "could not be written" in caught.value.message
    assert "HULEEDU_STATE_DIR" in caught.value.hint


# Reading.


@pytest.mark.parametrize("code", ExitCode)
def test_a_finished_run_has_its_outcome(tmp_path: Path, code: ExitCode) -> None:
    with recorded(tmp_path) as record:
        record.end(code)
    (run,) = read_runs(tmp_path)
    assert (run.outcome, run.is_running) == (code.name, False)


def test_a_killed_run_is_shown_as_killed(tmp_path: Path) -> None:
    run = killed(tmp_path)
    assert (run.outcome, run.is_running) == ("KILLED", False)
    assert [event["event"] for event in run.events] == ["began", "migrating"]


def test_a_running_run_is_shown_as_running_to_every_process(tmp_path: Path) -> None:
    with running(tmp_path):
        for _ in range(2):
            (run,) = read_runs(tmp_path)
            assert (run.outcome, run.is_running) == ("RUNNING", True)


def test_reading_a_record_does_not_block_its_run(tmp_path: Path) -> None:
    with recorded(tmp_path) as record:
        read_runs(tmp_path)
        record.end(ExitCode.DONE)
    assert [run.outcome for run in read_runs(tmp_path)] == ["DONE"]


def test_two_runs_at_once_have_a_record_each(tmp_path: Path) -> None:
    with running(tmp_path) as first, running(tmp_path) as second:
        outcomes = {run.began["pid"]: run.outcome for run in read_runs(tmp_path)}
        assert outcomes == {first.pid: "RUNNING", second.pid: "RUNNING"}
        first.kill()
        first.wait()
        outcomes = {run.began["pid"]: run.outcome for run in read_runs(tmp_path)}
        assert outcomes == {first.pid: "KILLED", second.pid: "RUNNING"}


@pytest.mark.parametrize(
    "half", ['{"time": "2025-01-01T00:00:00Z", "eve', "", "\n", "{", "\xc3", "\0\0\0\0"]
)
def test_an_incomplete_last_line_does_not_hide_the_others(tmp_path: Path, half: str) -> None:
    run = killed(tmp_path)
    with run.path.open("ab") as file:
        file.write(half.encode("latin-1"))
    (again,) = read_runs(tmp_path)
    assert (again.events, again.outcome) == (run.events, "KILLED")


BEGAN = (
    '{"time": "t", "event": "began", "run": "r", "environment": "e", "user": "u", "host": "h"}\n'
)
ODD = {
    "empty": "",
    "half a line": "{",
    "another first event": '{"time": "now", "event": "locked"}\n',
    "a first event with less in it": '{"time": "now", "event": "began"}\n',
    "no object": "null\n1\n[]\n",
    "other types": BEGAN.replace('"e"', "1"),
    "an event of an unexpected structure": BEGAN + '{"time": "t", "event": "migrated"}\n',
    "services of an unexpected structure": BEGAN
    + '{"time": "t", "event": "ended", "services": 1}\n',
    "deep": "[" * 100_000,
    "NULs": "\0" * 4096,
}


def odd_record(odd: Path, kind: str) -> None:
    """Create something with the name of a record that is not a record."""
    if kind == "a directory":
        odd.mkdir()
    elif kind == "a link to nowhere":
        odd.symlink_to("nowhere")
    elif kind == "a link to itself":
        odd.symlink_to(odd.name)
    elif kind == "a pipe":
        os.mkfifo(odd)
    else:
        odd.write_text(ODD[kind])


@pytest.mark.parametrize(
    "kind", [*ODD, "a directory", "a link to nowhere", "a link to itself", "a pipe"]
)
def test_an_unreadable_record_is_listed_and_hides_no_other(tmp_path: Path, kind: str) -> None:
    with recorded(tmp_path) as record:
        record.end(ExitCode.DONE)
    odd = record.path.with_name("odd.jsonl")
    odd_record(odd, kind)
    record.path.with_name("notes.txt").write_text("not a record")
    rows = {str(row["run"]): row for row in list_of(read_runs(tmp_path)).rows}
    assert {name: row["outcome"] for name, row in rows.items()} == {
        record.run: "DONE",
        "odd": "UNREADABLE",
    }
    assert str(rows["odd"]["detail"]).startswith(f"{odd}: ")
    assert rows["odd"].keys() == rows[record.run].keys()


def test_showing_an_unreadable_record_is_an_error(tmp_path: Path) -> None:
    runs = history(tmp_path, "20250101T000000Z-a")
    runs[0].path.write_text("{")
    with pytest.raises(ConfigurationError) as caught:
        events_of(read_runs(tmp_path), "2025")
    assert caught.value.code == "record-unreadable"


def test_a_record_can_be_read_by_its_owner_alone(tmp_path: Path) -> None:
    with recorded(tmp_path) as record:
        assert stat.S_IMODE(record.path.stat().st_mode) == 0o600


def test_without_records_there_are_no_runs(tmp_path: Path) -> None:
    assert read_runs(tmp_path / "state") == []


# The listing of `prod.history`.


def history(state: Path, *names: str) -> list[Run]:
    """Write records with these ids, which begin with their time, and read them."""
    with recorded(state) as record:
        record.end(ExitCode.DONE)
    for name in names:
        record.path.with_name(f"{name}.jsonl").write_text(record.path.read_text())
    record.path.unlink()
    return read_runs(state)


def test_runs_are_listed_the_latest_first(tmp_path: Path) -> None:
    runs = history(tmp_path, "20250101T000000Z-b", "20250301T000000Z-c", "20250201T000000Z-a")
    shown = list_of(runs)
    assert [row["run"] for row in shown.rows] == [
        "20250301T000000Z-c",
        "20250201T000000Z-a",
        "20250101T000000Z-b",
    ]
    assert (shown.command, shown.key) == ("prod.history", "runs")
    assert set(shown.columns) <= set(shown.rows[0])
    assert list_of([]).rows == ()


def test_a_run_is_listed_with_its_migrated_and_failed_services(tmp_path: Path) -> None:
    with recorded(tmp_path) as record:
        for name in ("orders", "essays"):
            record.add("migrating", service=name)
        record.add("migrated", service="orders")
        record.add("not migrated", service="essays", detail="it broke")
        record.end(ExitCode.FAILED, services={})
    (row,) = list_of(read_runs(tmp_path)).rows
    assert (row["outcome"], row["environment"]) == ("FAILED", "production")
    assert (row["migrated"], row["detail"]) == (["orders"], "essays: it broke")
    assert "@" in str(row["who"])
    assert row["path"] == str(record.path)
    assert str(row["began"]) <= str(row["ended"])


def test_a_run_that_was_refused_is_listed_with_the_reason(tmp_path: Path) -> None:
    with recorded(tmp_path) as record:
        record.end(ExitCode.REFUSED, detail="standard input is not a terminal", findings=[])
    (row,) = list_of(read_runs(tmp_path)).rows
    assert (row["outcome"], row["detail"]) == ("REFUSED", "standard input is not a terminal")


def test_a_killed_run_is_listed_with_the_service_it_was_migrating(tmp_path: Path) -> None:
    killed(tmp_path)
    (row,) = list_of(read_runs(tmp_path)).rows
    assert (row["outcome"], row["migrated"]) == ("KILLED", [])
    assert "orders was being migrated" in str(row["detail"])
    assert "invoke prod.status" in str(row["detail"])


def test_the_events_of_a_run_are_shown_in_order_with_their_facts(tmp_path: Path) -> None:
    with recorded(tmp_path) as record:
        record.add("locked", service="orders", hosts=["a", "b"])
        record.end(ExitCode.DONE)
    shown = events_of(read_runs(tmp_path), record.run[:8])
    assert [row["event"] for row in shown.rows] == ["began", "locked", "ended"]
    assert shown.rows[1]["facts"] == ["service=orders", "hosts=['a', 'b']"]
    assert all(set(row) == set(shown.columns) for row in shown.rows)


def test_the_page_of_a_run_has_its_timeline(tmp_path: Path) -> None:
    with recorded(tmp_path) as record:
        record.add("locked", service="orders")
        record.end(ExitCode.FAILED, detail="it broke")
    runs = read_runs(tmp_path)
    listing = with_page(events_of(runs, record.run), runs, record.run)
    screen = Screen()
    screen.outputs = parse_outputs("", ["page.html", "page.json"], tmp_path)
    screen.write(listing)
    page = Elements((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert f"run {record.run} ended with FAILED" in page.of("h1")[0][1]
    assert "orders the advisory lock was taken" in page.of("ol", "timeline")[0][1]
    document = json.loads((tmp_path / "page.json").read_text(encoding="utf-8"))
    assert [event["event"] for event in document["events"]] == ["began", "locked", "ended"]


def words(tmp_path: Path, event: str, **facts: object) -> list[str]:
    """Return the words of one event of a run, without their time."""
    with recorded(tmp_path) as record:
        record.add(event, **facts)
        record.end(ExitCode.DONE)
    _, _, *found, _ = events_of(read_runs(tmp_path), record.run).shown
    return [": ".join(filter(None, row[2:])) for row in found]


PIN = {"service": "orders", "before": ["a1"], "after": ["c3"]}


@pytest.mark.parametrize(
    ("event", "facts", "said"),
    [
        (
            "planned",
            {"services": [{**PIN, "files": {"b2": "", "c3": ""}, "marks": True}]},
            ["orders: planned: a1 -> c3 (b2, c3), will set the environment tag"],
        ),
        (
            "confirmed",
            {"by": "person", "hosts": ["db.example.com"]},
            ["changes on db.example.com were confirmed at the terminal"],
        ),
        ("locked", {"service": "orders"}, ["orders: the advisory lock was taken"]),
        ("backed up", {"by": "command"}, ["the backup command succeeded"]),
        ("not backed up", {}, ["no backup was taken"]),
        ("migrating", PIN, ["orders: the migration began: a1 -> c3"]),
        (
            "waited too long",
            {"service": "orders", "attempt": 2, "blockers": "the lock is held by pid 7"},
            ["orders: attempt 2 timed out while waiting for a lock: the lock is held by pid 7"],
        ),
        (
            "not migrated",
            {
                **PIN,
                "at": ["b2"],
                "seconds": 1.26,
                "detail": "Revision c3 failed",
                "revisions": [{"revision": "b2", "message": "Add it", "seconds": 0.5}],
            },
            [
                "orders: failed after 1.3 s, at b2: Revision c3 failed",
                "orders:   b2  0.50 s  Add it",
            ],
        ),
        (
            "not begun",
            {"service": "orders", "because": "x"},
            ["orders: was not begun, because of: x"],
        ),
        (
            "marked",
            {"service": "orders", "environment": "staging"},
            ["orders: was tagged as staging"],
        ),
        ("migrating", {"service": 7}, ["migrating: service=7"]),
        ("of another version", {"x": 1}, ["of another version: x=1"]),
    ],
)
def test_an_event_is_shown_in_words(
    tmp_path: Path, event: str, facts: dict[str, object], said: list[str]
) -> None:
    assert words(tmp_path, event, **facts) == said


def test_the_timeline_has_the_time_of_day_the_elapsed_time_and_the_end(tmp_path: Path) -> None:
    with recorded(tmp_path) as record:
        record.end(ExitCode.FAILED, detail="it broke", findings=["a file is missing"])
    headers, began, *ended = events_of(read_runs(tmp_path), record.run).shown
    assert headers == ("time (UTC)", "elapsed", "service", "event")
    assert re.fullmatch(r"\d\d:\d\d:\d\d", began[0])
    assert began[1] == "0.0 s"
    assert "began prod.migrate in production" in began[3]
    assert [row[3] for row in ended] == [
        "ended with FAILED, exit status 1",
        "  it broke",
        "  a file is missing",
    ]


def test_the_timeline_of_a_killed_run_says_that_no_end_was_recorded(tmp_path: Path) -> None:
    last = events_of([killed(tmp_path)], "").shown[-1]
    assert "the process was killed" in last[3]


@pytest.mark.parametrize(
    ("name", "cause"),
    [("2025", "2 run ids begin with '2025'"), ("2024", "No run ids begin with '2024'")],
)
def test_a_prefix_that_does_not_match_one_run_is_an_error_with_the_latest_ids(
    tmp_path: Path, name: str, cause: str
) -> None:
    runs = history(tmp_path, "20250101T000000Z-a", "20250301T000000Z-b")
    with pytest.raises(HuleEduError) as caught:
        events_of(runs, name)
    assert caught.value.exit_code is ExitCode.USAGE
    assert cause in caught.value.message
    assert "20250301T000000Z-b, 20250101T000000Z-a" in caught.value.hint


def test_without_records_a_prefix_is_an_error() -> None:
    with pytest.raises(ConfigurationError) as caught:
        events_of([], "2025")
    assert "none" in caught.value.hint
