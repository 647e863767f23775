"""Child processes: the output that is kept, and the processes that are waited for or ended."""

import asyncio
import gc
import os
import signal
import sys
from pathlib import Path

import psutil
import pytest

from huleedu_tasks import process
from tests.support.monorepo import is_dead, wait_until

# Seconds, more than a test may take.
LONG = 300.0
DAEMONS = {
    "a program in a session of its own": """\
import subprocess
child = subprocess.Popen(["setsid", "sleep", "600"], stdin=0)
print(child.pid, flush=True)
""",
    "a process that was forked twice": """\
import os, time
if not os.fork():
    os.setsid()
    if not os.fork():
        print(os.getpid(), flush=True)
        time.sleep(600)
    os._exit(0)
os.wait()
""",
}


def run(
    script: str, directory: Path, *, lifeline: bool = False, keeps: int = process.PRINTED
) -> process.Completed:
    return asyncio.run(
        process.run(
            [sys.executable, "-c", script],
            cwd=directory,
            environment={**os.environ, "PYTHONUNBUFFERED": "1"},
            timeout=LONG,
            stdin=process.Lifeline() if lifeline else "",
            keeps=keeps,
        )
    )


@pytest.mark.parametrize("lifeline", [False, True])
@pytest.mark.parametrize("script", DAEMONS.values(), ids=DAEMONS)
def test_a_daemon_that_keeps_the_output_open_is_not_waited_for(
    tmp_path: Path, script: str, lifeline: bool
) -> None:
    done = run(script, tmp_path, lifeline=lifeline)
    daemon = int(done.output.split()[0])
    try:
        assert (done.returncode, done.timed_out) == (0, False)
        assert not is_dead(psutil.Process(daemon))
    finally:
        os.kill(daemon, signal.SIGKILL)


def test_processes_left_in_the_group_are_ended_with_the_child(tmp_path: Path) -> None:
    script = "import subprocess; print(subprocess.Popen(['sleep', '600']).pid)"
    left = int(run(script, tmp_path).output)
    wait_until(lambda: not psutil.pid_exists(left))


def test_the_lifeline_is_open_while_the_parent_runs(tmp_path: Path) -> None:
    script = "import os, select; print(select.select([0], [], [], 0.1)[0]); print(os.isatty(0))"
    assert run(script, tmp_path, lifeline=True).output.split() == ["[]", "False"]


def test_long_output_is_cut_to_its_beginning_and_end_at_line_breaks(tmp_path: Path) -> None:
    script = "for number in range(200000): print('line', number)"
    output = run(script, tmp_path, keeps=1000).output
    beginning, note, end = output.partition("bytes of output are left out here]")
    assert note
    assert len(output) < 2100
    assert beginning.startswith("line 0\nline 1\n")
    assert end.endswith("line 199998\nline 199999\n")
    lines = [line for line in output.splitlines() if line and "left out" not in line]
    assert all(word == "line" and number.isdigit() for word, number in map(str.split, lines))


@pytest.mark.parametrize("size", [0, 1999, 2000])
def test_short_output_is_kept_unchanged(tmp_path: Path, size: int) -> None:
    assert run(f"print('x' * {size}, end='')", tmp_path, keeps=1000).output == "x" * size


def test_long_output_without_line_breaks_is_cut(tmp_path: Path) -> None:
    script = "import os\nfor _ in range(100): os.write(1, b'x' * 100000)"
    output = run(script, tmp_path, keeps=1000).output
    assert "[9998000 bytes of output are left out here]" in output
    assert len(output) < 2100


def test_a_missing_program_leaves_no_file_descriptor_open(tmp_path: Path) -> None:
    async def attempt() -> None:
        with pytest.raises(FileNotFoundError):
            await process.run(
                ["no-such-program"],
                cwd=tmp_path,
                environment={},
                timeout=LONG,
                stdin=process.Lifeline(),
            )

    # Garbage of an earlier test could close its files in between.
    gc.collect()
    before = open_files()
    asyncio.run(attempt())
    assert open_files() == before


def open_files() -> int:
    return psutil.Process().num_fds()
