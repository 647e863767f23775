"""Processes forked from the fork server end with their request, and with the server."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from huleedu_tasks.migrations.forkserver import WarmWorkers
from huleedu_tasks.process import Completed
from tests.support.monorepo import wait_until

CHILD = "warm_child"
SOURCE = """\
import os
import sys
import time


def main():
    file, seconds = sys.argv[1:]
    with open(file, "w") as written:
        written.write(str(os.getpid()))
    time.sleep(float(seconds))
    return 0
"""


class Workers(WarmWorkers):
    """Workers that write their process id to a file."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.directory = directory

    async def write(self, name: str, seconds: float = 0) -> Completed:
        """Fork a process that writes the file and sleeps."""
        arguments = [str(self.directory / name), str(seconds)]
        return await self.run(
            arguments, cwd=self.directory, environment={}, timeout=60, module=CHILD
        )

    async def has_written(self, name: str) -> int:
        """Wait for a file, and return the process id in it."""
        file = self.directory / name
        await asyncio.to_thread(wait_until, lambda: file.exists() and bool(file.read_text()))
        return int(file.read_text())


@pytest.fixture
async def workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Workers]:
    (tmp_path / f"{CHILD}.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    made = Workers(tmp_path)
    yield made
    await made.aclose()


def is_running(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def fork_server() -> psutil.Process:
    found = psutil.Process().children()
    (server,) = [child for child in found if "fork_loop.py" in " ".join(child.cmdline())]
    return server


async def test_a_run_that_is_cancelled_before_its_process_exists_runs_nothing(
    workers: Workers,
) -> None:
    assert (await workers.write("first")).returncode == 0
    server = fork_server()
    server.suspend()
    cancelled = asyncio.ensure_future(workers.write("cancelled"))
    await asyncio.sleep(0.2)  # The request is in the pipe.
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    server.resume()
    assert (await workers.write("last")).returncode == 0
    assert not (workers.directory / "cancelled").exists()


async def test_a_cancelled_run_ends_its_process(workers: Workers) -> None:
    running = asyncio.ensure_future(workers.write("running", 60))
    pid = await workers.has_written("running")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not is_running(pid)


async def test_processes_end_with_the_fork_server(workers: Workers) -> None:
    running = asyncio.ensure_future(workers.write("running", 60))
    pid = await workers.has_written("running")
    os.kill(fork_server().pid, signal.SIGKILL)
    assert (await running).returncode == -signal.SIGKILL
    await asyncio.to_thread(wait_until, lambda: not is_running(pid))
    with pytest.raises(OSError, match="the fork server has ended"):
        await workers.write("never")


async def test_a_request_that_the_fork_server_did_not_take_is_an_error_and_ran_nothing(
    workers: Workers,
) -> None:
    assert (await workers.write("first")).returncode == 0
    server = fork_server()
    server.suspend()
    asked = asyncio.ensure_future(workers.write("asked"))
    await asyncio.sleep(0.2)  # The request is in the pipe.
    server.kill()
    with pytest.raises(OSError, match="the fork server has ended"):
        await asked
    assert not (workers.directory / "asked").exists()
